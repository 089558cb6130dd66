/* SPDX-License-Identifier: Apache-2.0 */
/* Messages and state as one line of text, for traces and logs. Pure. */
#include <inttypes.h>
#include <stdio.h>

#include "raft/core.h"

const char *raft_role_name(enum raft_role role)
{
    static const char *const names[] = {"follower", "precandidate", "candidate", "leader"};

    return (unsigned)role < ARRAY_SIZE(names) ? names[role] : "?";
}

static int format_vote(const struct raft_msg *m, const char *name, char *buf, size_t size)
{
    return snprintf(buf, size, "%s for=%" PRIu64 " last=%" PRIu64 "/%" PRIu64 "%s", name,
                    m->vote.term, m->vote.last_index, m->vote.last_term,
                    m->vote.transfer ? " transfer" : "");
}

static int format_append(const struct raft_msg *m, char *buf, size_t size)
{
    uint64_t last = m->append.n ? m->append.entries[m->append.n - 1].term : 0;

    if (m->append.n == 0)
        return snprintf(buf, size, "append prev=%" PRIu64 "/%" PRIu64 " commit=%" PRIu64,
                        m->append.prev_index, m->append.prev_term, m->append.commit);
    return snprintf(buf, size,
                    "append prev=%" PRIu64 "/%" PRIu64 " commit=%" PRIu64 " entries=%u last-term=%"
                    PRIu64, m->append.prev_index, m->append.prev_term, m->append.commit,
                    m->append.n, last);
}

static int format_append_res(const struct raft_msg *m, char *buf, size_t size)
{
    if (m->append_res.reject)
        return snprintf(buf, size, "append-res reject prev=%" PRIu64 " hint=%" PRIu64 "/%" PRIu64,
                        m->append_res.prev_index, m->append_res.hint_index,
                        m->append_res.hint_term);
    return snprintf(buf, size, "append-res match=%" PRIu64, m->append_res.match);
}

static int format_body(const struct raft_msg *m, char *buf, size_t size)
{
    switch (m->type) {
    case RAFT_MSG_PREVOTE:
        return format_vote(m, "prevote", buf, size);
    case RAFT_MSG_VOTE:
        return format_vote(m, "vote", buf, size);
    case RAFT_MSG_PREVOTE_RES:
    case RAFT_MSG_VOTE_RES:
        return snprintf(buf, size, "%s for=%" PRIu64 " %s",
                        m->type == RAFT_MSG_VOTE_RES ? "vote-res" : "prevote-res",
                        m->vote_res.term, m->vote_res.granted ? "yes" : "no");
    case RAFT_MSG_APPEND:
        return format_append(m, buf, size);
    case RAFT_MSG_APPEND_RES:
        return format_append_res(m, buf, size);
    case RAFT_MSG_SNAPSHOT:
        return snprintf(buf, size, "snapshot at=%" PRIu64 "/%" PRIu64 " offset=%" PRIu64
                        " len=%u%s", m->snapshot.index, m->snapshot.index_term,
                        m->snapshot.offset, m->snapshot.len, m->snapshot.last ? " last" : "");
    case RAFT_MSG_SNAPSHOT_RES:
        return snprintf(buf, size, "snapshot-res offset=%" PRIu64 " match=%" PRIu64 "%s%s",
                        m->snapshot_res.offset, m->snapshot_res.match,
                        m->snapshot_res.done ? " done" : "",
                        m->snapshot_res.failed ? " failed" : "");
    case RAFT_MSG_TIMEOUT_NOW:
        return snprintf(buf, size, "timeout-now last=%" PRIu64 "/%" PRIu64,
                        m->timeout_now.last_index, m->timeout_now.last_term);
    case RAFT_MSG_READ:
        return snprintf(buf, size, "read id=%" PRIu64, m->read.id);
    case RAFT_MSG_READ_RES:
        return snprintf(buf, size, "read-res id=%" PRIu64 " index=%" PRIu64 "%s", m->read.id, m->read.index,
                        m->read.failed ? " failed" : "");
    default:
        return snprintf(buf, size, "type-%u", m->type);
    }
}

int raft_msg_format(const struct raft_msg *m, char *buf, size_t size)
{
    char body[160];

    (void)format_body(m, body, sizeof body); /* fits; cut otherwise */
    return snprintf(buf, size, "%" PRIu64 ">%" PRIu64 " t%" PRIu64 " %s", m->from, m->to, m->term,
                    body);
}
