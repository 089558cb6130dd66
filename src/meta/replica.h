/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One member of the replicated log: the Raft core joined to journal, network and state machine.
 *
 * Directory layout (docs/DISK_FORMAT.md): `state-a`, `state-b` (term, vote, incarnation, cluster; both
 * written at each change), `base` (what compaction dropped, and which of the numbered directories
 * count), `log-N/` (the journal), `kv-N/` (the state machine's store), `snap-*` (transfers).
 *
 * Start:  replica_open()                    reads the directory and the log
 *         kv_open...(replica_kv_path(r))    by the owner, who reads its applied index from it
 *         replica_start(r, applied)         from here on callbacks come
 * A member without genesis ("blank") starts with applied 0 too. It waits for replica_format(), or for a
 * leader who fills it: then the first callback is apply(1, ...) or snapshot_installed().
 *
 * Everything runs on the env's loop. Callbacks are never called from inside replica_propose(),
 * replica_open() or replica_close(); apply, leader_changed, lost and snapshot_installed may propose.
 */
#pragma once

#include "common/env.h"
#include "common/kv.h"
#include "common/wire.h"

struct replica;

struct replica_peer {
    uint32_t id; /* 1.. */
    const char *endpoint; /* "tcp://host:port" */
};

struct replica_ops {
    /*
     * Entry @index is committed: apply it. In order, without a gap, on every member. @data is what was
     * proposed, for index 1 the genesis bytes; it is empty for entries of Raft's own, which move the
     * applied index too. @cookie is that of replica_propose() if this member proposed it and still leads
     * the term it was proposed in, else NULL. The changes and the applied index go into one kv batch.
     */
    void (*apply)(void *arg, uint64_t index, uint64_t term, struct slice data, void *cookie);
    /* @leader 0: unknown. @self: this member leads; its lease begins a little later, when its first
     * entry is applied (replica_lease_valid). Also called when the term changes under the same leader. */
    void (*leader_changed)(void *arg, uint64_t term, uint32_t leader, bool self);
    /* The fate of a proposal will not be learnt here (-TC_E_NOT_LEADER): it may yet be applied. */
    void (*lost)(void *arg, void *cookie, int err);
    /* A consistent view of the store, for a member that fell behind, and the index applied in it. The
     * replica exports it on a disk thread and frees it with kv_snapshot_free(). */
    struct kv_snapshot *(*snapshot_take)(void *arg, struct kv **ret_kv, uint64_t *ret_index);
    /* The state as of @index came from the leader and is a complete, durable store in @kv_path: close the
     * old one, open this one. It is removed after the call. Everything pending is lost(). */
    void (*snapshot_installed)(void *arg, const char *kv_path, uint64_t index, uint64_t term);
    /* replica_read()'s answer. 0: the applied state is no older than the asking. NOT_LEADER: nobody can say. */
    void (*read_done)(void *arg, void *cookie, int err);
    /* An entry that changes the members is in the log, committed or not: @data is what replica_change() was given.
     * The owner says with replica_set_peers() where they are. May be NULL. */
    void (*members)(void *arg, struct slice data);
    /* The log's disk failed; this member can promise nothing more and is to be closed. DAMAGED: open it anew, what
     * is wrong goes aside then. */
    void (*failed)(void *arg, int err);
};

struct replica_config {
    uint32_t id;
    const struct replica_peer *peers; /* all members of the config, this one may be among them; copied */
    unsigned n_peers;
    const char *dir; /* created if absent; the owner holds its lock */
    bool kv_mem;     /* stores of installed snapshots are kv_mem instead of RocksDB */
    uint64_t heartbeat_ms, election_min_ms, election_max_ms; /* 0: defaults (50, 300, 600) */
    uint32_t keep_entries; /* log kept for slow members behind a compaction; 0: 10000 */
    uint32_t rules_off;    /* enum raft_rule (raft.h), tests only */
    const struct replica_ops *ops;
    void *arg;
};

/*
 * Blocking, start-up only. On error a line for a human is in @why. Errors: WRONG_CLUSTER (directory of
 * another member), VERSION, IO, NOSPC, CONFIG. Damage is no error where there are other members: what is damaged
 * is set aside (aside-N), the member starts as one that does not vote (replica_status) and is mended by the
 * leader. The only member there is fails with DAMAGED, and nothing is changed.
 */
TC_MUST_CHECK int replica_open(struct env *env, const struct replica_config *cfg, char *why,
                               size_t why_size, struct replica **ret);
/* Where the state machine's store is (or is to be created). Borrowed until an installation. */
const char *replica_kv_path(const struct replica *r);
/* @applied: the durable position of that store, 0 if it is new. Errors: DAMAGED (log and store do not meet, and are
 * marked as damaged; close and open anew, and the member starts as one that does not vote), others of env_connect(). */
TC_MUST_CHECK int replica_start(struct replica *r, uint64_t applied);
/* Between open and start: the cluster the files are of (0: not known), and the term of the log's entry @index (0: not
 * in the log). */
uint64_t replica_cluster(const struct replica *r);
uint64_t replica_term_at(const struct replica *r, uint64_t index);

enum replica_damage_kind {
    REPLICA_DAMAGE_ALL,     /* log and store go aside */
    REPLICA_DAMAGE_KV,      /* the store; and the log too, if it does not go back to the first entry */
    REPLICA_DAMAGE_FOREIGN, /* as ALL, and the cluster is learnt anew */
};
enum { REPLICA_WHY_MAX = 256 };
/* The owner found damage in the directory @dir: the next replica_open() sets it aside. Blocking, short. */
TC_MUST_CHECK int replica_mark_damaged(struct vfs *vfs, const char *dir, enum replica_damage_kind kind,
                                       const char *what);
/* The newest directory of damaged files, and why they are there. Returns: caller frees; NULL: none. */
char *replica_aside_newest(struct vfs *vfs, const char *dir, char *why, size_t why_size);
/* At once, as a crash would; nothing is called any more. The owner closes its kv after it. Accepts NULL,
 * returns NULL. */
struct replica *replica_close(struct replica *r);

/* Persist the first entry: the members (all voters) and @genesis. The same call at every member, with the
 * same bytes; @members in ascending order. @done: 0, or ALREADY_FORMATTED, INVAL (both may come at once, from inside
 * the call), IO, NOSPC. apply(1) follows when a leader commits it. */
void replica_format(struct replica *r, uint64_t cluster_tag, const uint32_t *members, unsigned n,
                    struct slice genesis, void (*done)(void *arg, int err), void *arg);
bool replica_formatted(const struct replica *r);
/* The genesis, while the log holds nothing behind it: too few members were formatted to elect a leader yet. Else empty.
 * Borrowed until the next event. */
struct slice replica_genesis(const struct replica *r);

/* Offline, after replica_open() and instead of replica_start(): make this member, whose log is whole, the only one of the
 * group. @done: 0, or why it could not be written; perhaps from inside the call. Then close. */
void replica_recover(struct replica *r, void (*done)(void *arg, int err), void *arg);

/* A MSG_RAFT frame that the owner's port received. Borrows. */
void replica_recv(struct replica *r, const struct wire_header *h, struct slice body,
                  struct buf *payload);

/* Append @data (copied; at most REPLICA_ENTRY_MAX) to the log. All proposals of one turn of the loop travel
 * together. Errors: NOT_LEADER, BACKPRESSURE, LIMIT. */
enum { REPLICA_ENTRY_MAX = 2 << 20 };
TC_MUST_CHECK int replica_propose(struct replica *r, struct slice data, void *cookie,
                                  uint64_t *ret_index);

/* May a read be answered from the applied state here, whoever leads? ops->read_done() tells, some message round trips
 * later; it does not when the replica is closed first. */
void replica_read(struct replica *r, void *cookie);

bool replica_leads(const struct replica *r);
/* Leads, its first entry is applied, and no other can have been elected until now. */
bool replica_lease_valid(const struct replica *r);
bool replica_failed(const struct replica *r); /* failed() was, or is about to be called */
uint64_t replica_term(const struct replica *r);
uint32_t replica_leader(const struct replica *r); /* 0: unknown */
uint64_t replica_last(const struct replica *r);
/* Bytes of log that a restart would replay, and that memory holds: bound them with checkpoints. */
uint64_t replica_log_bytes(const struct replica *r);

/* Read the files of the log again, as they are on disk; what is damaged is written anew from memory. @done says what
 * was; it does not come when the replica is closed first. False: not now. */
enum replica_check_bad { REPLICA_BAD_STATE = 1, REPLICA_BAD_BASE = 2, REPLICA_BAD_LOG = 4 };
bool replica_check(struct replica *r, void (*done)(void *arg, unsigned bad), void *arg);

/* The store is durable up to @index (a kv_flush() begun after it was applied): the log before it, but for
 * keep_entries, is dropped in the background. */
void replica_compact(struct replica *r, uint64_t index);

/*
 * Make @id what @how says; the entry bears @data, which apply() sees at *ret_index. Errors, beside those of
 * replica_propose(): BUSY (another change or a transfer is under way), EXIST, NOENT, UNREACHABLE (not heard of),
 * AGAIN (too far behind to vote), INVAL (the last voter), NO_QUORUM (too few voters answer), LIMIT.
 */
enum replica_change_how { REPLICA_ADD, REPLICA_PROMOTE, REPLICA_REMOVE };
TC_MUST_CHECK int replica_change(struct replica *r, uint32_t id, enum replica_change_how how, struct slice data,
                                 uint64_t *ret_index);
/* The members' endpoints from now on. Whoever is not among them is disconnected, but for the leader. */
void replica_set_peers(struct replica *r, const struct replica_peer *peers, unsigned n);
/* Where @id is; NULL: not known. Borrowed until the next event. */
const char *replica_endpoint(const struct replica *r, uint32_t id);

/* Hand leadership to @id (0: the best). 0: under way, leader_changed() tells. Errors: NOT_LEADER, BUSY,
 * UNREACHABLE (nobody to take over). */
TC_MUST_CHECK int replica_transfer(struct replica *r, uint32_t id);

enum { REPLICA_PEERS_MAX = 9 };

struct replica_peer_status {
    uint32_t id;
    const char *endpoint; /* borrowed; NULL if the config file does not name it */
    bool self, voter;
    bool standby;         /* added, and not promoted */
    bool blank;           /* answers from a disk that is not the one that was a voter */
    const char *state;    /* "probe", "replicate", "snapshot"; of self its role */
    uint64_t match;
    uint64_t lag;         /* entries behind the leader's last */
    uint64_t heard_ms;    /* since its last answer (leader) or message; UINT64_MAX: never */
    uint64_t snapshot_bytes; /* sent so far */
    uint32_t snapshot_refusals; /* in a row */
};

struct replica_status {
    uint32_t id, leader;
    uint64_t term;
    const char *role; /* "follower", "precandidate", "candidate", "leader" */
    bool formatted;
    bool voter;
    bool lease;
    bool installing;
    bool parted; /* the leader has other entries where these here are committed: nothing of it is taken */
    int refused; /* why the last snapshot could not be taken; 0: it could, or there was none */
    const char *damage; /* why this member started as one that does not vote; NULL: it did not, or votes again */
    uint64_t first, last, persisted, commit, applied;
    uint64_t config_index; /* of the entry that the list of peers is from */
    uint64_t cluster, incarnation;
    uint64_t log_bytes;
    uint64_t wrong_cluster; /* messages refused because they were of another cluster; 0: none of late */
    unsigned n_peers;
    struct replica_peer_status peers[REPLICA_PEERS_MAX];
};

void replica_get_status(const struct replica *r, struct replica_status *ret);
