/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The descriptors of all messages (schema.h), and the registry by which the printer, the inspectors and
 * the fuzz targets find them. A new message needs its WIRE_DEFINE and its line in `messages`.
 */
#include "common/schema.h"

WIRE_DEFINE(req_ctx, REQ_CTX)
WIRE_DEFINE(horizon, HORIZON)
WIRE_DEFINE(attr, ATTR)
WIRE_DEFINE(grant, GRANT)
WIRE_DEFINE(empty_msg, EMPTY)
WIRE_DEFINE(entry_res, ENTRY_RES)
WIRE_DEFINE(session_open_req, SESSION_OPEN_REQ)
WIRE_DEFINE(session_open_res, SESSION_OPEN_RES)
WIRE_DEFINE(session_close_req, CTX_ONLY)
WIRE_DEFINE(keepalive_req, KEEPALIVE_REQ)
WIRE_DEFINE(keepalive_res, KEEPALIVE_RES)
WIRE_DEFINE(lease_item, LEASE_ITEM)
WIRE_DEFINE(lease_list_req, LEASE_LIST_REQ)
WIRE_DEFINE(lease_release_req, LEASE_RELEASE_REQ)
WIRE_DEFINE(recall_ack_req, LEASE_RELEASE_REQ)
WIRE_DEFINE(fate_req, FATE_REQ)
WIRE_DEFINE(fate_item, FATE_ITEM)
WIRE_DEFINE(fate_res, FATE_RES)
WIRE_DEFINE(lookup_req, LOOKUP_REQ)
WIRE_DEFINE(getattr_req, INO_REQ)
WIRE_DEFINE(readlink_req, INO_REQ)
WIRE_DEFINE(listxattr_req, INO_REQ)
WIRE_DEFINE(lease_get_req, INO_REQ)
WIRE_DEFINE(readdir_req, READDIR_REQ)
WIRE_DEFINE(dirent_item, DIRENT)
WIRE_DEFINE(readdir_res, READDIR_RES)
WIRE_DEFINE(getxattr_req, XATTR_REQ)
WIRE_DEFINE(setxattr_req, XATTR_REQ)
WIRE_DEFINE(removexattr_req, XATTR_REQ)
WIRE_DEFINE(bytes_res, BYTES_RES)
WIRE_DEFINE(statfs_req, CTX_ONLY)
WIRE_DEFINE(statfs_res, STATFS_RES)
WIRE_DEFINE(make_req, MAKE_REQ)
WIRE_DEFINE(link_req, LINK_REQ)
WIRE_DEFINE(unlink_req, UNLINK_REQ)
WIRE_DEFINE(rename_req, RENAME_REQ)
WIRE_DEFINE(setattr_req, SETATTR_REQ)
WIRE_DEFINE(commit_item, COMMIT_ITEM)
WIRE_DEFINE(commit_req, COMMIT_REQ)
WIRE_DEFINE(commit_result, COMMIT_RESULT)
WIRE_DEFINE(commit_res, COMMIT_RES)
WIRE_DEFINE(lock_item, LOCK_ITEM)
WIRE_DEFINE(lock_req, LOCK_REQ)
WIRE_DEFINE(lock_res, LOCK_RES)
WIRE_DEFINE(lock_end_req, LOCK_END_REQ)
WIRE_DEFINE(recall_item, RECALL_ITEM)
WIRE_DEFINE(recall_msg, RECALL_MSG)
WIRE_DEFINE(leader_msg, LEADER_MSG)
WIRE_DEFINE(member_info, MEMBER_INFO)
WIRE_DEFINE(store_info, STORE_INFO)
WIRE_DEFINE(pg_set, PG_SET)
WIRE_DEFINE(dead_session, DEAD_SESSION)
WIRE_DEFINE(cluster_map, CLUSTER_MAP)
WIRE_DEFINE(map_get_req, MAP_GET_REQ)
WIRE_DEFINE(genesis, GENESIS)
WIRE_DEFINE(meta_change_req, META_CHANGE_REQ)
WIRE_DEFINE(meta_change_res, META_CHANGE_RES)
WIRE_DEFINE(checkpoint_res, CHECKPOINT_RES)
WIRE_DEFINE(dump_req, DUMP_REQ)
WIRE_DEFINE(dump_res, DUMP_RES)
WIRE_DEFINE(load_req, LOAD_REQ)
WIRE_DEFINE(status_req, STATUS_REQ)
WIRE_DEFINE(status_res, STATUS_RES)
WIRE_DEFINE(store_register_req, STORE_REGISTER_REQ)
WIRE_DEFINE(store_register_res, STORE_REGISTER_RES)
WIRE_DEFINE(pg_ready, PG_READY)
WIRE_DEFINE(store_beat_req, STORE_BEAT_REQ)
WIRE_DEFINE(gc_item, GC_ITEM)
WIRE_DEFINE(store_beat_res, STORE_BEAT_RES)
WIRE_DEFINE(node_admin_req, NODE_ADMIN_REQ)
WIRE_DEFINE(ino_check_req, INO_CHECK_REQ)
WIRE_DEFINE(ino_trim, INO_TRIM)
WIRE_DEFINE(ino_check_res, INO_CHECK_RES)
WIRE_DEFINE(write_item, WRITE_ITEM)
WIRE_DEFINE(write_req, WRITE_REQ)
WIRE_DEFINE(write_result, WRITE_RESULT)
WIRE_DEFINE(write_res, WRITE_RES)
WIRE_DEFINE(read_item, READ_ITEM)
WIRE_DEFINE(read_req, READ_REQ)
WIRE_DEFINE(version_run, VERSION_RUN)
WIRE_DEFINE(read_result, READ_RESULT)
WIRE_DEFINE(read_res, READ_RES)
WIRE_DEFINE(manifest_req, MANIFEST_REQ)
WIRE_DEFINE(manifest_item, MANIFEST_ITEM)
WIRE_DEFINE(manifest_res, MANIFEST_RES)
WIRE_DEFINE(size_query_req, SIZE_QUERY_REQ)
WIRE_DEFINE(size_query_res, SIZE_QUERY_RES)
WIRE_DEFINE(chunk_seek_req, CHUNK_SEEK_REQ)
WIRE_DEFINE(chunk_seek_res, CHUNK_SEEK_RES)
WIRE_DEFINE(reconcile_req, RECONCILE_REQ)
WIRE_DEFINE(scrub_req, SCRUB_REQ)
WIRE_DEFINE(command, COMMAND)
WIRE_DEFINE(cmd_sessions, CMD_SESSIONS_BODY)
WIRE_DEFINE(cmd_reap, CMD_INOS_BODY)
WIRE_DEFINE(cmd_size_recovered, CMD_SIZE_RECOVERED_BODY)
WIRE_DEFINE(cmd_reconciled, CMD_RECONCILED_BODY)
WIRE_DEFINE(pg_move, PG_MOVE)
WIRE_DEFINE(cmd_pg_update, CMD_PG_UPDATE_BODY)
WIRE_DEFINE(cmd_gc_trim, CMD_GC_TRIM_BODY)
WIRE_DEFINE(cmd_members, CMD_MEMBERS_BODY)

#define ANY(t) &t##_schema
static const struct msg_desc messages[] = { /* ascending */
    {MSG_KEEPALIVE, "KEEPALIVE", ANY(keepalive_req), ANY(keepalive_res), NULL},
    {MSG_LEASE_LIST, "LEASE_LIST", ANY(lease_list_req), ANY(empty_msg), NULL},
    {MSG_LOOKUP, "LOOKUP", ANY(lookup_req), ANY(entry_res), NULL},
    {MSG_GETATTR, "GETATTR", ANY(getattr_req), ANY(entry_res), NULL},
    {MSG_READDIR, "READDIR", ANY(readdir_req), ANY(readdir_res), NULL},
    {MSG_READLINK, "READLINK", ANY(readlink_req), ANY(bytes_res), NULL},
    {MSG_STATFS, "STATFS", ANY(statfs_req), ANY(statfs_res), NULL},
    {MSG_GETXATTR, "GETXATTR", ANY(getxattr_req), ANY(bytes_res), NULL},
    {MSG_LISTXATTR, "LISTXATTR", ANY(listxattr_req), ANY(bytes_res), NULL},
    {MSG_MAP_GET, "MAP_GET", ANY(map_get_req), ANY(cluster_map), NULL},
    {MSG_FATE, "FATE", ANY(fate_req), ANY(fate_res), NULL},
    {MSG_LEASE_GET_READ, "LEASE_GET_READ", ANY(lease_get_req), ANY(entry_res), NULL},
    {MSG_LEASE_RELEASE, "LEASE_RELEASE", ANY(lease_release_req), ANY(empty_msg), NULL},
    {MSG_RECALL_ACK, "RECALL_ACK", ANY(recall_ack_req), ANY(empty_msg), NULL},
    {MSG_WHO_LEADS, "WHO_LEADS", ANY(empty_msg), ANY(leader_msg), NULL},
    {MSG_STATUS, "STATUS", ANY(status_req), ANY(status_res), NULL},
    {MSG_FORMAT, "FORMAT", ANY(genesis), ANY(empty_msg), NULL},
    {MSG_INO_CHECK, "INO_CHECK", ANY(ino_check_req), ANY(ino_check_res), NULL},
    {MSG_NODE_ADMIN, "NODE_ADMIN", ANY(node_admin_req), ANY(empty_msg), NULL},
    {MSG_LOCK_LOOK, "LOCK_LOOK", ANY(lock_req), ANY(lock_res), NULL},
    {MSG_META_CHANGE, "META_CHANGE", ANY(meta_change_req), ANY(meta_change_res), NULL},
    {MSG_CHECKPOINT, "CHECKPOINT", ANY(empty_msg), ANY(checkpoint_res), NULL},
    {MSG_DUMP, "DUMP", ANY(dump_req), ANY(dump_res), NULL},
    {MSG_LOAD, "LOAD", ANY(load_req), ANY(empty_msg), NULL},
    {MSG_SESSION_OPEN, "SESSION_OPEN", ANY(session_open_req), ANY(session_open_res), NULL},
    {MSG_SESSION_CLOSE, "SESSION_CLOSE", ANY(session_close_req), ANY(empty_msg), NULL},
    {MSG_MAKE, "MAKE", ANY(make_req), ANY(entry_res), NULL},
    {MSG_LINK, "LINK", ANY(link_req), ANY(entry_res), NULL},
    {MSG_UNLINK, "UNLINK", ANY(unlink_req), ANY(entry_res), NULL},
    {MSG_RENAME, "RENAME", ANY(rename_req), ANY(entry_res), NULL},
    {MSG_SETATTR, "SETATTR", ANY(setattr_req), ANY(entry_res), NULL},
    {MSG_SETXATTR, "SETXATTR", ANY(setxattr_req), ANY(entry_res), NULL},
    {MSG_REMOVEXATTR, "REMOVEXATTR", ANY(removexattr_req), ANY(entry_res), NULL},
    {MSG_LEASE_GET_X, "LEASE_GET_X", ANY(lease_get_req), ANY(entry_res), NULL},
    {MSG_COMMIT, "COMMIT", ANY(commit_req), ANY(commit_res), NULL},
    {MSG_LOCK, "LOCK", ANY(lock_req), ANY(lock_res), NULL},
    {MSG_LOCK_END, "LOCK_END", ANY(lock_end_req), ANY(empty_msg), NULL},
    {MSG_RECALL, "RECALL", NULL, NULL, ANY(recall_msg)},
    {MSG_LEADER, "LEADER", NULL, NULL, ANY(leader_msg)},
    {MSG_STORE_REGISTER, "STORE_REGISTER", ANY(store_register_req), ANY(store_register_res), NULL},
    {MSG_STORE_BEAT, "STORE_BEAT", ANY(store_beat_req), ANY(store_beat_res), NULL},
    {MSG_WRITE, "WRITE", ANY(write_req), ANY(write_res), NULL},
    {MSG_READ, "READ", ANY(read_req), ANY(read_res), NULL},
    {MSG_MANIFEST, "MANIFEST", ANY(manifest_req), ANY(manifest_res), NULL},
    {MSG_SIZE_QUERY, "SIZE_QUERY", ANY(size_query_req), ANY(size_query_res), NULL},
    {MSG_RECONCILE, "RECONCILE", ANY(reconcile_req), ANY(empty_msg), NULL},
    {MSG_STORE_STATUS, "STORE_STATUS", ANY(status_req), ANY(status_res), NULL},
    {MSG_CHUNK_SEEK, "CHUNK_SEEK", ANY(chunk_seek_req), ANY(chunk_seek_res), NULL},
    {MSG_SCRUB, "SCRUB", ANY(scrub_req), ANY(status_res), NULL},
    {MSG_RAFT, "RAFT", NULL, NULL, NULL}, /* the raft directory has its own tables */
    {CMD_GENESIS, "CMD_GENESIS", ANY(genesis), NULL, NULL},
    {CMD_SESSION_EXPIRE, "CMD_SESSION_EXPIRE", ANY(cmd_sessions), NULL, NULL},
    {CMD_REAP, "CMD_REAP", ANY(cmd_reap), NULL, NULL},
    {CMD_SIZE_RECOVERED, "CMD_SIZE_RECOVERED", ANY(cmd_size_recovered), NULL, NULL},
    {CMD_RECONCILED, "CMD_RECONCILED", ANY(cmd_reconciled), NULL, NULL},
    {CMD_PG_UPDATE, "CMD_PG_UPDATE", ANY(cmd_pg_update), NULL, NULL},
    {CMD_STORE_STATE, "CMD_STORE_STATE", ANY(cmd_pg_update), NULL, NULL},
    {CMD_GC_TRIM, "CMD_GC_TRIM", ANY(cmd_gc_trim), NULL, NULL},
    {CMD_SESSION_FORGET, "CMD_SESSION_FORGET", ANY(cmd_sessions), NULL, NULL},
    {CMD_STORE_REGISTER, "CMD_STORE_REGISTER", ANY(store_register_req), NULL, NULL},
    {CMD_TICK, "CMD_TICK", ANY(empty_msg), NULL, NULL},
    {CMD_STORE_ADMIN, "CMD_STORE_ADMIN", ANY(node_admin_req), NULL, NULL},
    {CMD_MEMBERS, "CMD_MEMBERS", ANY(cmd_members), NULL, NULL},
    {CMD_LOAD, "CMD_LOAD", ANY(load_req), NULL, NULL},
};

static const struct wire_schema *const schemas[] = {
    ANY(req_ctx),
    ANY(horizon),
    ANY(attr),
    ANY(grant),
    ANY(empty_msg),
    ANY(entry_res),
    ANY(session_open_req),
    ANY(session_open_res),
    ANY(session_close_req),
    ANY(keepalive_req),
    ANY(keepalive_res),
    ANY(lease_item),
    ANY(lease_list_req),
    ANY(lease_release_req),
    ANY(recall_ack_req),
    ANY(fate_req),
    ANY(fate_item),
    ANY(fate_res),
    ANY(lookup_req),
    ANY(getattr_req),
    ANY(readlink_req),
    ANY(listxattr_req),
    ANY(lease_get_req),
    ANY(readdir_req),
    ANY(dirent_item),
    ANY(readdir_res),
    ANY(getxattr_req),
    ANY(setxattr_req),
    ANY(removexattr_req),
    ANY(bytes_res),
    ANY(statfs_req),
    ANY(statfs_res),
    ANY(make_req),
    ANY(link_req),
    ANY(unlink_req),
    ANY(rename_req),
    ANY(setattr_req),
    ANY(commit_item),
    ANY(commit_req),
    ANY(commit_result),
    ANY(commit_res),
    ANY(lock_item),
    ANY(lock_req),
    ANY(lock_res),
    ANY(lock_end_req),
    ANY(recall_item),
    ANY(recall_msg),
    ANY(leader_msg),
    ANY(member_info),
    ANY(store_info),
    ANY(pg_set),
    ANY(dead_session),
    ANY(cluster_map),
    ANY(map_get_req),
    ANY(genesis),
    ANY(meta_change_req),
    ANY(meta_change_res),
    ANY(checkpoint_res),
    ANY(dump_req),
    ANY(dump_res),
    ANY(load_req),
    ANY(status_req),
    ANY(status_res),
    ANY(store_register_req),
    ANY(store_register_res),
    ANY(pg_ready),
    ANY(store_beat_req),
    ANY(gc_item),
    ANY(store_beat_res),
    ANY(node_admin_req),
    ANY(ino_check_req),
    ANY(ino_trim),
    ANY(ino_check_res),
    ANY(write_item),
    ANY(write_req),
    ANY(write_result),
    ANY(write_res),
    ANY(read_item),
    ANY(read_req),
    ANY(version_run),
    ANY(read_result),
    ANY(read_res),
    ANY(manifest_req),
    ANY(manifest_item),
    ANY(manifest_res),
    ANY(size_query_req),
    ANY(size_query_res),
    ANY(chunk_seek_req),
    ANY(chunk_seek_res),
    ANY(reconcile_req),
    ANY(scrub_req),
    ANY(command),
    ANY(cmd_sessions),
    ANY(cmd_reap),
    ANY(cmd_size_recovered),
    ANY(cmd_reconciled),
    ANY(pg_move),
    ANY(cmd_pg_update),
    ANY(cmd_gc_trim),
    ANY(cmd_members),
};

const struct msg_desc *msg_find(uint32_t type)
{
    size_t lo = 0, hi = ARRAY_SIZE(messages);

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (messages[mid].type == type)
            return &messages[mid];
        if (messages[mid].type < type)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

const char *msg_name(uint32_t type)
{
    const struct msg_desc *d = msg_find(type);

    return d ? d->name : "UNKNOWN";
}

const struct wire_schema *schema_of(uint32_t type, enum wire_frame_kind kind)
{
    const struct msg_desc *d = msg_find(type);

    if (!d)
        return NULL;
    switch (kind) {
    case WIRE_REQUEST:
        return d->request;
    case WIRE_REPLY:
        return d->reply;
    case WIRE_NOTICE:
        return d->notice;
    }
    return NULL;
}

uint64_t *request_store(uint32_t type, void *body)
{
    switch (type) {
    case MSG_WRITE:
        return &((struct write_req *)body)->store;
    case MSG_READ:
        return &((struct read_req *)body)->store;
    case MSG_MANIFEST:
        return &((struct manifest_req *)body)->store;
    case MSG_SIZE_QUERY:
        return &((struct size_query_req *)body)->store;
    case MSG_CHUNK_SEEK:
        return &((struct chunk_seek_req *)body)->store;
    case MSG_RECONCILE:
        return &((struct reconcile_req *)body)->store;
    case MSG_SCRUB:
        return &((struct scrub_req *)body)->store;
    default:
        return NULL;
    }
}

const struct wire_schema *const *schema_all(size_t *ret_n)
{
    *ret_n = ARRAY_SIZE(schemas);
    return schemas;
}
