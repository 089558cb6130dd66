/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the client library share. Nothing outside src/client includes this.
 *
 * A call (struct tc_call) is an operation of the public contract: it is ticked until it finishes. A tick
 * looks at the state of the world from the start (lease held? room? blocks at hand?) and either goes on or puts
 * the call on one wait queue; whoever changes that state wakes the queue, and the call is ticked again.
 * So every precondition is checked in the same turn in which it is used. Ticks of woken calls and all
 * callbacks to the outside run from tasks of the client, never from inside another call.
 *
 * An inode (struct inode) is what is known of a file: attributes, lease, recall in progress, local data under X.
 *
 *   lease of an inode:
 *
 *     NONE ──LOOKUP, GET_READ──► S ──GET_X──► X ◄──MAKE, GET_X, SETATTR(size)── NONE
 *      ▲                         │ ▲          │
 *      │                         │ └─downgrade┤ (COMMIT)
 *      └── recall, eviction ─────┴────────────┘     O stays at every end while a file is open
 *
 * All lists iterate in insertion order, so a run is a function of its inputs.
 */
#pragma once

#include <uthash.h>
#include <utlist.h>

#include "client/client.h"
#include "client/quorum.h"
#include "common/map.h"

/* ---- limits --------------------------------------------------------------------------------------------- */

#define CLIENT_MEMBERS_MAX 16
#define RPC_MAX 4096          /* requests in flight; more wait for their turn */
#define RPC_RESERVED 256      /* of them for what a recall needs (PROTOCOL 3.4) */
#define MUTATION_WINDOW 256   /* replies the state machine keeps (PROTOCOL 2.1) */
#define MUTATION_RESERVED 32  /* of them for what a recall needs (3.4) */
#define RPC_RESEND_NS (150 * NS_PER_MS) /* unanswered so long: also the next member (2.6) */
#define RPC_RESEND_MAX_NS (1000 * NS_PER_MS)
#define KEEPALIVE_NS (500 * NS_PER_MS)
#define MAP_RETRY_NS (50 * NS_PER_MS)   /* a map that is known to be there is asked for again */
#define MAP_LOOK_NS (500 * NS_PER_MS)   /* between looks for one that may be there */
#define CACHING_NS (2 * NS_PER_S)  /* caching right, from the sending of the last answered keepalive (3.1) */
#define X_IDLE_NS (1 * NS_PER_S)   /* then X is released unasked (3.5) */
#define CLEAN_WAIT_NS (3 * NS_PER_S) /* an unasked release waits so long for the last of N */
#define COMMIT_ITEMS_MAX 256
#define LEASE_ITEMS_MAX 1024
#define ASSERTED_MAX (4 * LEASE_ITEMS_MAX)
#define INODES_MAX_DEFAULT 65536
#define COPY_BELOW (512u << 10)    /* smaller writes are gathered by copying, larger ones referenced */
#define CLEAN_KEEP_BLOCKS 16       /* flushed extents up to this size stay readable here */
#define CLEAN_BYTES_MAX (16u << 20)
#define FLIGHT_BYTES_MAX (64u << 20) /* background flushing stops above this */
#define READDIR_PAGE 1000
#define FILE_SIZE_MAX ((uint64_t)UINT32_MAX * CHUNK_SIZE)
#define RECALL_PASSES 3

/* ---- requests to the metadata group (meta_conn.c) --------------------------------------------------------- */

struct rpc;
/* @res: decoded body, NULL if status != 0 or the message has none; borrowed. */
typedef void rpc_done_fn(struct rpc *r, int status, const void *res);

struct rpc {
    struct tc_client *c;
    struct rpc *prev, *next; /* in flight, in order of first sending; or queued */
    uint64_t id;             /* generation and slot; 0: not in the table */
    uint16_t type;
    const struct wire_schema *req_schema, *res_schema;
    void *req;               /* copy of the struct; its strings are the owner's until done */
    bool has_ctx;            /* begins with a req_ctx */
    bool mutation;
    bool urgent;             /* may use the reserved part of the window */
    bool no_session;         /* may be sent without one */
    bool queued;
    bool anywhere;           /* sent once, to a member that need not lead, under an id of its own */
    bool refused;            /* the last answer was "not now": resend at next_at, to nobody else before */
    uint64_t seq;
    uint64_t session;        /* seq belongs to it */
    uint64_t gen_term, gen_n; /* generation as of the last sending */
    uint64_t next_at;        /* resend */
    uint64_t sent_at;
    unsigned tries;
    unsigned member;         /* last sent to */
    rpc_done_fn *done;
    void *arg;
};

/* ---- calls (call.c) ----------------------------------------------------------------------------------------- */

struct waitq {
    struct tc_call *head;
};

enum call_result { RESULT_STATUS, RESULT_ENTRY, RESULT_BYTES, RESULT_READ, RESULT_WRITE, RESULT_STATFS, RESULT_SEEK, RESULT_READDIR,
                   RESULT_LOCK };

struct inode;
struct dirpage;
struct read_op;
struct seek_op;

struct tc_call {
    struct tc_client *c;
    struct tc_call *prev, *next;   /* c->calls */
    struct tc_call *wprev, *wnext; /* in a wait queue or the run queue */
    struct waitq *waiting;
    uint64_t order;
    void (*tick)(struct tc_call *call);
    int stage;       /* the op's own */
    bool busy;       /* requests of its own are under way: cannot be dropped, only answered early */
    bool finished;   /* queued for its callback */
    bool answered;   /* callback done or given up; what still runs of it ends silently */
    bool counts;     /* its entry is a reference of the caller's when answered */
    int status;
    uint64_t deadline;

    enum call_result result;
    union {
        tc_status_fn *status;
        tc_entry_fn *entry;
        tc_bytes_fn *bytes;
        tc_read_fn *read;
        tc_write_fn *write;
        tc_statfs_fn *statfs;
        tc_seek_fn *seek;
        tc_readdir_fn *readdir;
        tc_lock_fn *lock;
    } fn;
    void *arg;

    /* results */
    struct tc_entry entry;
    bool has_entry;
    struct buf *bytes;
    struct statfs_res statfs;
    struct read_op *read; /* freed with the call */
    struct seek_op *seek; /* freed with the call */
    struct dirpage *page; /* reference */

    /* arguments, as each op needs them */
    struct inode *ino, *ino2; /* pinned */
    struct tc_file *file;     /* referenced */
    struct tc_file **ret_file;
    uint64_t id, id2;         /* inode numbers */
    char *name, *name2;
    struct buf *data;
    size_t data_off;
    uint64_t off;
    size_t len;
    uint32_t flags, mode;
    uint64_t rdev, cookie;
    struct tc_cred cred;
    struct setattr_req set;
    bool append, kill_priv, mapped, plus, dir, excl, open, crowded, caps_seen;
    uint64_t target_seq, target_epoch;
    int pending; /* parts under way */
    bool entered; /* counted in ino->readers or writers */
    struct file_lock lock; /* a test's: what was found */
    bool lock_wait, lock_test, lock_found;
    bool lock_look; /* ask before there is an entry for it */
};

/* ---- data under X (dirty.c) ----------------------------------------------------------------------------------- */

/* Consecutive blocks of one chunk held here. buf NULL: zeros (a zero mark when flushed). */
struct extent {
    uint64_t first; /* block of the file */
    uint32_t count;
    bool dirty;     /* else clean: as the stores have it */
    bool own;       /* buf is nobody else's: may be changed in place and grown */
    struct buf *buf;
    uint32_t off;
    struct inode *ino;
    struct extent *prev, *next; /* clean ones: c->clean_lru */
};

/* One block write under way. */
struct flight {
    struct qwrite w;
    struct inode *ino; /* pinned until all_done */
    uint64_t first;
    bool done;
    int status;
    struct flight *prev, *next; /* ino->flights, ascending seq; after done: ino->tails */
    uint8_t stale[BLOCKS_PER_CHUNK / 8]; /* blocks of which a later version landed first: not to be read from here */
    uint64_t sums[];
};

/* A range behind a horizon entry being rewritten (horizon.c). */
struct rewriting {
    uint64_t entry;   /* its epoch; 0: none */
    uint64_t epoch;   /* of X when it began */
    uint64_t from;    /* size of the entry */
    uint64_t at, end; /* blocks still to be looked at */
    bool fetching;
    int error;        /* to be told to one of the calls that wait */
};

/* Exists while X is held. */
struct xlease {
    uint64_t epoch;
    uint64_t seq;        /* last version given */
    uint64_t size, mtime, atime;
    uint64_t size_max;   /* largest since the last horizon entry (5.1) */
    uint64_t reach;      /* committed */
    uint64_t reach_want; /* asked for; 0: none */
    uint64_t size_acked; /* largest size on a block of this epoch with W acknowledgements */
    uint64_t data_end;   /* blocks from here on have no data in the stores */
    uint64_t committed_size, committed_mtime;
    uint64_t sent_size, sent_mtime, sent_reach; /* of the commit in flight */
    int64_t sent_blocks;
    bool sent_ask;
    int64_t new_blocks;  /* acknowledged as newly in use since the last commit */
    struct rewriting rw;
    uint64_t rewritten;  /* entry to name in the next commit; 0: none */
    bool was_clean, all_acked, gave_up;
    bool over;           /* some answer said so */
    bool truncating;     /* no block is sent */
    uint64_t truncating_since;
    bool meta_dirty;     /* size or mtime differs from what is committed */
    uint64_t last_use;
    uint64_t flushed_at; /* no dirty block and no flight since */
};

/* ---- inodes (inodes.c), leases (lease.c) ------------------------------------------------------------------------ */

enum recall_phase {
    RECALL_IDLE,
    RECALL_DRAIN,  /* new writers wait; running ones end, dirty data is flushed */
    RECALL_PURGE,  /* outside caches are dropped; reads go on under the old lease */
    RECALL_BLOCK,  /* new reads wait; running ones end */
    RECALL_PURGE2, /* last pass, around what waits */
    RECALL_COMMIT, /* X ends by an entry */
};

/* One recall item that has not been acknowledged. */
struct recall {
    struct recall *prev, *next; /* ino->recalls */
    struct inode *ino;          /* pinned */
    uint64_t gterm, gcount, counter;
    uint32_t kind;
    uint64_t term;
    int pending; /* invalidations under way */
    bool acked;
    bool orphan; /* the inode has no name any more */
    char *name;
    struct outside_wait *outside; /* a name's end outside, awaited; the other end of outside_wait.rc */
};

struct grant_id {
    uint64_t gterm, gcount;
};

static inline bool grant_id_less(const struct grant_id *a, const struct grant_id *b)
{
    return a->gterm < b->gterm || (a->gterm == b->gterm && a->gcount < b->gcount);
}

struct dentry {
    UT_hash_handle hh;
    uint64_t ino; /* 0: negative */
    uint64_t change;
    char name[];
};

struct dir {
    struct dentry *dentries; /* valid while the directory's S is */
    struct dirpage *pages;
    bool complete;      /* every name there is is among the dentries */
    uint64_t mutations; /* own ones ended: an answer that spans one says nothing of the whole */
};

struct inode {
    UT_hash_handle hh;
    uint64_t ino;
    struct inode *lru_prev, *lru_next; /* c->lru, least recently used first */
    uint64_t lookups;                  /* the caller's references */
    unsigned pins;                     /* calls and ops */
    unsigned opens;
    struct tc_file *files;

    /* attributes: the newest seen; attr.horizons.items is owned */
    struct attr attr;
    bool attr_known;
    bool attr_cached;    /* as good as the lease */
    uint64_t min_change; /* of the last own finished mutation (2.5) */
    uint64_t made_change; /* of a directory that we made: while it has it, it is empty */

    /* lease */
    uint32_t held;       /* bits of enum lease_kind */
    uint64_t gterm, gcount, barrier;
    uint64_t gen_term, gen_n;             /* generation S belongs to */
    bool asserted; /* S goes on, with nothing kept under it here, into the generation being entered: names are outside */
    uint64_t recall_term, recall_seen;    /* highest recall counter acknowledged or under way, of that term */
    struct grant_id refused[2]; /* grants up to this id are dead: [0] made by entries, [1] in a leader's memory */
    uint64_t breaks;      /* times the lease ended: what began under it is begun again */
    uint64_t kept;        /* of them, those that were no end: S was asserted to the next leader */
    uint32_t getting;     /* LEASE_S or LEASE_X: request under way */
    struct waitq wq;      /* calls that wait for the lease */
    struct waitq io_wq;   /* calls that wait for flights or commits */
    struct env_timer get_timer; /* to ask again */
    struct env_timer drain_timer;
    bool told;            /* the size was given out since the last purge */
    uint64_t told_size;
    uint64_t told_at;     /* env_now() when a size other than the one before was given out */
    uint64_t killed_change; /* suid and the like are known to be cleared as of this change */
    uint64_t caps_change;   /* security.capability is known not to be there as of this change */
    struct tc_client *c;
    unsigned readers, writers;            /* running under the lease */
    unsigned mapped;                      /* pages of mappings taken over that wait for X: fsync and reads wait for them */
    uint64_t read_gen;                    /* reads finished: a purge that overlaps one is repeated */

    /* recalls */
    enum recall_phase phase;
    bool downgrade;      /* what runs leaves S */
    unsigned purge_pass, purge_pending;
    uint64_t purge_read_gen;
    struct recall *recalls;
    uint64_t recall_count; /* that have come */
    uint64_t contended_until; /* env_now(): others wrote what we read, or read what we wrote, not long ago */
    bool removed_elsewhere; /* its last name: we were told when we did not know */
    uint64_t get_stamp;    /* of them when X was asked for: none may be crossed */
    bool unasked; /* the machine runs for a release of our own */
    bool stepping; /* inside recall_progress() */
    unsigned hidden;     /* appends whose place is being dropped outside: attributes show shown_size */
    uint64_t shown_size;
    int unheard;       /* an error that came when nobody had the file open: the next one to open it hears of it */
    bool kernel_pages; /* data was given out that may be cached outside */
    /* Until when attributes of this inode, names of this directory, may be cached outside (outside.c). */
    uint64_t attr_given, names_given;
    uint64_t attr_gives; /* how often */
    uint64_t names_quiet; /* a recall met names given out: none are until then */
    struct env_timer names_timer;
    uint32_t end_action; /* enum commit_action under way */

    /* asks: commit size and times, keep X */
    enum { ASK_NONE, ASK_WANTED, ASK_FLUSHING, ASK_COMMIT } ask;
    uint64_t ask_seq, ask_size, ask_mtime, ask_recall;
    bool commit_inflight, commit_queued;

    /* data */
    struct xlease *x;
    struct extent **ext; /* sorted by first, never overlapping */
    unsigned n_ext, cap_ext;
    uint64_t dirty_blocks, dirty_data; /* the latter without zero marks */
    uint64_t dirty_since;
    bool on_dirty_list;
    bool flush_wanted; /* could not be launched; tried again when what stood in the way is gone */
    struct inode *dirty_prev, *dirty_next;
    bool on_x_list;
    struct inode *x_prev, *x_next;
    struct flight *flights, *tails; /* not yet at W; at W, not yet at N */
    unsigned n_flights, n_tails;
    int write_error;   /* why the last write of blocks failed, 0: it did not */
    uint64_t data_gen; /* changes of local data, and its leaving: a fetched block older than one is not kept */
    bool fetching;
    struct waitq fetch_wq;

    struct inode *commit_next_q; /* c->commit_q */
    struct dir *dir;
    struct readahead *ra;
    struct known *known; /* by chunk */
    struct lock_state *locks; /* locks.c */
};

struct file_locker {
    uint64_t owner;
    uint8_t family;
};

struct tc_file {
    struct tc_file *prev, *next; /* ino->files */
    struct inode *ino;           /* pinned */
    uint32_t flags;
    unsigned refs;
    int error;     /* to be reported once */
    bool dirtied;  /* had data under the present X that is not known durable */
    bool failed;   /* its data or lock was lost to expiry: every later read and write fails (2.3) */
    uint64_t next_read;
    unsigned seq_reads;
    struct file_locker *lockers; /* who may have a lock that was set through it */
    unsigned n_lockers;
};

/* ---- the client ---------------------------------------------------------------------------------------------------- */

enum session_state { SESSION_NONE, SESSION_OPENING, SESSION_VALID, SESSION_SUSPENDED, SESSION_CLOSED };

struct ka_sent {
    uint64_t id, sent_at, gen_term, gen_n;
    bool caching;
};
#define KA_RING 16

struct meta_member_port {
    char *endpoint;
    struct net_port *port;
    struct tc_client *c;
    bool no_genesis;
    bool in_map; /* a map named it */
    bool gone;   /* and a later one no longer: asked no more, its place may be another's */
};

struct client_stats {
    uint64_t rpcs, rpc_resends, recalls, keepalives, flushes, flushed_bytes, reads, read_bytes, writes, write_bytes,
        fetches, lookups, lookup_hits, getattrs, getattr_hits, commits, expiries, generations, errors;
};

struct tc_client {
    struct env *env;
    char *name, *root_path;
    uint64_t wait_ns; /* UINT64_MAX: for ever */
    uint64_t gave_up_at; /* time when a call last waited in vain so long; 0: never */
    uint64_t memory_max, dirty_max, dirty_age;
    struct tc_client_config cfg; /* callbacks and arg only */
    tc_status_fn *ready;
    void *ready_arg;
    struct env_timer ready_timer;

    /* meta_conn.c */
    struct meta_member_port members[CLIENT_MEMBERS_MAX];
    unsigned n_members, leader; /* index of the member believed to lead */
    bool read_anywhere;
    uint64_t leader_term;
    bool leader_known;
    uint64_t cluster_tag;
    struct rpc *slots[RPC_MAX];
    uint32_t slot_gen[RPC_MAX];
    unsigned free_hint, n_slots, n_inflight;
    struct rpc *inflight, *rpc_queue;
    struct env_timer rpc_timer;
    struct wire_arena arena;
    uint64_t next_seq, watermark;
    bool seq_done[MUTATION_WINDOW];

    /* session.c */
    enum session_state state;
    uint64_t session;
    uint32_t incarnation;
    uint64_t nonce, ttl_ns, root, previous;
    uint64_t open_sent;
    uint64_t alive_sent;  /* sending of the last answered keepalive */
    uint64_t caching_sent; /* the same, of those that prolonged the caching right */
    uint64_t gen_term, gen_n; /* the caching generation we are in; 0: none */
    uint64_t want_gen_term, want_gen_n; /* being entered */
    uint64_t held_term; /* of the last generation entered: S held is of it */
    bool listing;
    uint64_t term_seen;
    struct ka_sent ka[KA_RING];
    unsigned ka_head;
    uint64_t ka_id, ka_last_sent, ka_last_try;
    bool ka_outstanding;
    struct env_timer session_timer;
    int64_t time_offset; /* leader time - env_now */
    uint64_t last_time;
    bool right_was; /* caching right as of the last look */
    bool shutting_down, closing;
    tc_status_fn *shut_done;
    void *shut_arg;
    struct env_timer shut_timer;
    uint64_t shut_deadline, shut_started;
    struct waitq session_wq;

    /* map */
    struct map *map;
    uint64_t map_want, map_asked;
    bool map_getting, map_whole;
    struct env_timer map_timer;
    struct waitq map_wq;

    /* lost.c */
    struct env_timer lost_timer;
    struct net_port *lost_port; /* to the store asked last */
    uint64_t lost_id;
    uint32_t lost_store; /* the next one to ask */

    /* calls */
    struct tc_call *calls, *free_calls;
    struct waitq runq, run_now, doneq;
    struct env_task run_task, done_task;
    struct env_timer call_timer;
    uint64_t call_order;

    /* inodes, leases */
    struct inode *inodes, *lru;
    unsigned n_inodes, inodes_max;
    struct grant_id refused[2]; /* of inodes that were forgotten, as theirs */
    struct inode *x_list; /* X held, least recently used first */
    struct inode *commit_q;
    struct inode **commit_tail;
    unsigned commits_inflight;
    unsigned mapped; /* of all inodes */
    struct env_task commit_task;
    struct lease_item *releases;
    unsigned n_releases, cap_releases;
    struct env_timer release_timer, sweep_timer;
    struct lease_item *acks;
    unsigned n_acks, cap_acks;
    struct env_task ack_task;
    unsigned purges; /* invalidations that a new generation waits for */
    uint64_t recall_landed; /* flights that landed while their inode was recalled: keepalives tell of it */

    /* what may be cached outside */
    uint64_t outside_until;
    struct env_timer outside_timer, moved_timer;
    struct waitq moved_wq; /* renames: until a name moved with its time has run out */

    /* data */
    struct quorum *quorum;
    struct inode *dirty_list; /* oldest first */
    uint64_t dirty_bytes, flight_bytes, clean_bytes, ra_bytes;
    struct extent *clean_lru;
    struct fetch *fetches; /* running */
    struct sought *soughts; /* running */
    struct known *known_lru;
    unsigned n_known;
    struct env_timer age_timer;
    struct waitq room_wq;

    struct statfs_res statfs;
    bool tight; /* the stores are nearly full, says the leader */
    uint64_t statfs_at;
    unsigned n_dentries;
    struct client_stats stats;
};

/* ---- call.c -------------------------------------------------------------------------------------------------------- */

struct tc_call *call_new(struct tc_client *c, enum call_result result, void (*tick)(struct tc_call *call), void *arg);
/* First tick, then the call as the API returns it. */
struct tc_call *call_start(struct tc_call *call);
/* Its callback follows in the next turn; releases what it holds. Nothing of the call is touched afterwards. */
void call_finish(struct tc_call *call, int status);
void call_finish_entry(struct tc_call *call, struct inode *i);
void call_wait(struct tc_call *call, struct waitq *q);
/* Tick in the next turn. */
void call_wake(struct tc_call *call);
void waitq_wake(struct waitq *q);
void waitq_tick(struct waitq *q); /* tick all of them now: from answers, where the lease must be used at once */
void waitq_fail(struct waitq *q, int status); /* finish all of them */
void call_pin(struct tc_call *call, struct inode *i);
void calls_suspended(struct tc_client *c);
void calls_init(struct tc_client *c);
void calls_fini(struct tc_client *c);

/* ---- meta_members.c ------------------------------------------------------------------------------------------------ */

/* Connect to the members that @map names and we do not know. */
void meta_conn_learn(struct tc_client *c, const struct cluster_map *map);
/* The member at @endpoint, connected to from now on. Returns its index. Errors: LIMIT, those of a connect. */
int meta_member_at(struct tc_client *c, struct wire_str endpoint);
/* The @k-th member behind @from that is not gone. */
unsigned meta_member_behind(const struct tc_client *c, unsigned from, unsigned k);
/* How many there are to ask beside the one that led: it may itself be gone. */
unsigned meta_members_beside(const struct tc_client *c);

/* ---- meta_conn.c --------------------------------------------------------------------------------------------------- */

int meta_conn_open(struct tc_client *c, const char *const *members, unsigned n);
void meta_conn_close(struct tc_client *c);
void rpc_on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload);
/* Send @req (struct of @req_schema, @size bytes; copied, strings borrowed until done) until answered, for
 * ever. Mutations get their seq here. */
enum rpc_flags { RPC_READ = 0, RPC_MUTATION = 1, RPC_URGENT = 2, RPC_NO_SESSION = 4, RPC_NO_CTX = 8 };
void rpc_send(struct tc_client *c, uint16_t type, unsigned flags, const struct wire_schema *req_schema, const void *req,
              size_t size, const struct wire_schema *res_schema, rpc_done_fn *done, void *arg);
#define RPC(c, type, flags, req_type, req, res_type, done, arg) \
    rpc_send(c, type, flags, &req_type##_schema, req, sizeof(struct req_type), &res_type##_schema, done, arg)
/* The session is valid (again): send what waits. */
void rpc_session_valid(struct tc_client *c);
/* The session is gone: its mutations are to be judged one by one. */
void rpc_session_expired(struct tc_client *c, uint64_t old_session);
/* A keepalive goes past the table. */
void meta_send_keepalive(struct tc_client *c, uint64_t id, bool next_member);
/* Forget requests of one kind without their callbacks (shutdown). */

/* ---- lost.c -------------------------------------------------------------------------------------------------------- */

/* A keepalive or a new session is not answered at once: soon stores are asked who is in the group, until somebody answers. */
void lost_watch(struct tc_client *c);
void lost_stop(struct tc_client *c);

/* ---- session.c ------------------------------------------------------------------------------------------------------ */

void session_start(struct tc_client *c);
void session_stop(struct tc_client *c);
bool session_valid(struct tc_client *c); /* by our own clock, now */
bool session_caching(struct tc_client *c); /* the caching right of our generation runs */
bool session_right(const struct tc_client *c); /* the same, be it that of a generation being left */
uint64_t session_time(struct tc_client *c); /* leader time, never backwards */
void session_on_keepalive(struct tc_client *c, uint64_t id, int status, const struct keepalive_res *res);
/* Another member leads now. */
void session_followed(struct tc_client *c);
void session_see_term(struct tc_client *c, uint64_t term);
void session_ended(struct tc_client *c); /* the leader said it is expired */
void session_listed(struct tc_client *c, int status); /* the list was answered */
bool session_revalidate(struct tc_call *call); /* false: valid now; true: waits for a keepalive */
/* A newer map, of whoever it is. */
void map_take(struct tc_client *c, const struct cluster_map *m);
void map_need(struct tc_client *c, uint64_t epoch);
bool map_ready(struct tc_client *c, uint64_t barrier);
/* Wait until the map is at least @barrier and has its table; false: it is. */
bool map_wait(struct tc_call *call, uint64_t barrier);

/* ---- known.c -------------------------------------------------------------------------------------------------------- */

#define KNOWN_READ_MAX 32u /* blocks: a larger read asks for versions beside its data */

/* The newest versions of these blocks, as known, or NULL; *ret_ask: the chunk's are worth asking for now. */
const struct qblock *known_find(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool *ret_ask);
/* R votes said so of the first @count blocks, when the inode's counters stood like this. @blocks NULL: it failed. */
void known_learn(struct tc_client *c, struct inode *i, uint32_t index, uint32_t count, const struct qblock *blocks,
                 uint64_t breaks, uint64_t data_gen);
void known_drop(struct tc_client *c, struct inode *i);

/* ---- outside.c ------------------------------------------------------------------------------------------------------ */

/* @e, of @i, is leaving: with what attributes, cached until when. */
void outside_give_entry(struct tc_client *c, struct inode *i, struct tc_entry *e);
/* @name NULL: out of a page of the listing that is current. */
uint64_t outside_give_name(struct tc_client *c, struct inode *d, const char *name, uint64_t ino);
/* The kernel moves the entry it has, with its time, to the other directory (an exchange: both). */
void outside_renamed(struct inode *from, struct inode *to);
/* True: the call waits until the names given of @from have run out. */
bool outside_wait_moved(struct tc_call *call, const struct inode *from);
/* Data of @call leaves, and may be cached outside unless its file passes that by. */
void outside_data(const struct tc_call *call);
/* May a size be given out only under the lease; note that it is; is one still on its way. */
bool outside_told(const struct tc_client *c, const struct inode *i);
void outside_tell(struct tc_client *c, struct inode *i, uint64_t size);
bool outside_settling(struct tc_client *c, const struct inode *i, uint64_t *ret_until);
bool outside_attr(struct tc_client *c, const struct inode *i); /* may somebody have them? */
bool outside_names(struct tc_client *c, const struct inode *d);
/* They, and pages if @pages, are dropped. Returns how often @done will be called. */
unsigned outside_drop(struct tc_client *c, struct inode *i, bool pages, void (*done)(void *arg), void *arg);
/* The recalled name: rc->pending counts one more until it is gone outside. */
void outside_recall_name(struct tc_client *c, struct recall *rc, void (*done)(void *arg));
/* All names given of a directory: true and @fn is called when they have run out. */
bool outside_wait_names(struct tc_client *c, struct inode *d, void (*fn)(struct env_timer *t));
/* Something that no S to be asserted covers may still be cached: true, and the list is sent when it has run out. */
bool outside_wait_all(struct tc_client *c);
void outside_recall_forget(struct tc_client *c, struct recall *rc); /* @rc is freed */
void outside_fini(struct tc_client *c);

/* ---- inodes.c ------------------------------------------------------------------------------------------------------- */

struct inode *inode_find(struct tc_client *c, uint64_t ino); /* NULL: not known */
struct inode *inode_get(struct tc_client *c, uint64_t ino);  /* made if need be; touches the LRU */
void inode_pin(struct inode *i);
void inode_unpin(struct tc_client *c, struct inode *i);
void inodes_fini(struct tc_client *c);
/* Take the attributes of an answer: the newer change wins. @cacheable: as lease_take_grant() said. */
void inode_take_attr(struct tc_client *c, struct inode *i, const struct attr *a, bool cacheable, bool own_mutation);
/* The end of X is committed by what was answered to others since; its own answer is under way. */
bool x_is_over(const struct inode *i);
/* What a caller is told: under X with the local size and times. */
void inode_attr(const struct inode *i, struct attr *ret);
void inode_entry(struct inode *i, struct tc_entry *ret);
void inode_drop_attr(struct inode *i);
/* nlink went to 0 and nobody has it open: nothing of it needs keeping. */
void inode_check_dead(struct tc_client *c, struct inode *i);

/* ---- lease.c -------------------------------------------------------------------------------------------------------- */

bool lease_s_ok(struct tc_client *c, struct inode *i); /* S or X, may serve cached attributes and read */
bool lease_x_ok(struct tc_client *c, struct inode *i); /* X, may change data */
/* False: held, go on. True: the call waits (or failed): return from the tick. */
bool lease_need_s(struct tc_call *call, struct inode *i);
bool lease_need_x(struct tc_call *call, struct inode *i);
/* A grant in an answer; @r: the request it answers. True: what the answer says may be cached under the lease held now. */
/* May what an answer with this grant says be kept, as far as recalls go? */
bool lease_counter_ok(const struct inode *i, const struct grant *g);
bool lease_take_grant(struct tc_client *c, struct inode *i, const struct grant *g, const struct rpc *r, const struct attr *a);
void lease_on_recall(struct tc_client *c, const struct recall_msg *m); /* recall.c */
/* @keep_names: but for S under which names are outside, to be asserted. */
void lease_drop_all_s(struct tc_client *c, bool keep_names);
void lease_asserted(struct tc_client *c); /* the generation being entered has what was asserted */
void lease_purged(void *arg); /* one invalidation of c->purges is done */
void lease_lost(struct tc_client *c, struct inode *i, int error); /* X is gone with its dirty data */
void lease_release(struct tc_client *c, struct inode *i); /* eviction, last close: give back what is held */
void lease_queue_release(struct tc_client *c, uint64_t ino, uint64_t gterm, uint64_t gcount, uint32_t kind, uint32_t keep);
void lease_refuse(struct inode *i, uint64_t gterm, uint64_t gcount); /* grants up to this one are not taken any more */
void lease_end_unasked(struct tc_client *c, struct inode *i); /* give X back: downgrade or release */
void lease_x_used(struct tc_client *c, struct inode *i);
void lease_commit(struct tc_client *c, struct inode *i); /* queue a COMMIT of what is to be said */
void lease_ask(struct tc_client *c, struct inode *i, uint64_t recall); /* have size and times committed, keep X */
void lease_list(struct tc_client *c); /* send the complete list for c->want_gen; session_listed() follows */
void lease_ended(struct tc_client *c, struct inode *i, uint32_t keep); /* S or X is over; O may be kept */
void lease_ack(struct tc_client *c, const struct recall *rc, uint32_t keep);
void recall_progress(struct tc_client *c, struct inode *i); /* something a recall may wait for has happened */
void recall_free(struct tc_client *c, struct recall *rc);
void recalls_drop(struct tc_client *c, struct inode *i); /* acknowledge all: nothing is held any more */
void recall_purge_now(struct tc_client *c, struct inode *i);
void recall_commit_done(struct tc_client *c, struct inode *i);
void recall_item(struct tc_client *c, uint64_t term, const struct recall_item *it);
void commits_init(struct tc_client *c); /* commit.c */
void commits_fini(struct tc_client *c);
void lease_init(struct tc_client *c);
void lease_fini(struct tc_client *c);
void reader_enter(struct tc_call *call);
void writer_enter(struct tc_call *call);
void call_leave(struct tc_call *call);

/* ---- dir.c ---------------------------------------------------------------------------------------------------------- */

struct dir *dir_of(struct inode *i);
/* True: it is known under the directory's S what @name is; *ret_ino 0: nothing. */
bool dir_find(struct tc_client *c, struct inode *d, const char *name, uint64_t *ret_ino);
/* @name is @ino (0: nothing) as of the directory's @change. Kept if the directory's S allows. */
void dir_put(struct tc_client *c, struct inode *d, const char *name, size_t len, uint64_t ino, uint64_t change);
void dir_drop_name(struct tc_client *c, struct inode *d, const char *name);
void dir_drop(struct tc_client *c, struct inode *d); /* everything cached under its S */
void dirpage_unref(struct tc_client *c, struct dirpage *p);
void dir_drop_pages(struct tc_client *c, struct inode *d);
void dir_remove_from_pages(struct inode *d, const char *name);
void dirpage_deliver(struct tc_call *call);

/* ---- dirty.c -------------------------------------------------------------------------------------------------------- */

void x_new(struct tc_client *c, struct inode *i, const struct grant *g, const struct attr *a);
void x_end(struct tc_client *c, struct inode *i); /* X has ended properly: nothing dirty is left */
/* The extent that holds @block, or NULL. */
struct extent *ext_find(const struct inode *i, uint64_t block);
/* First extent with end > @block, index into i->ext (n_ext: none). */
unsigned ext_index(const struct inode *i, uint64_t block);
/* Newest local bytes of one block: dirty, in flight or clean. False: not here. *ret NULL: zeros. */
bool local_block(const struct inode *i, uint64_t block, const uint8_t **ret);
/* Are all blocks that this write changes in part at hand? If not *ret_block is one to fetch. */
bool dirty_needs(const struct inode *i, uint64_t off, size_t len, uint64_t *ret_block);
/* Put [off, off+len) in; the blocks it needs are at hand. buf NULL: zeros. */
void dirty_write(struct tc_client *c, struct inode *i, struct buf *data, size_t data_off, size_t len, uint64_t off);
void dirty_add_clean(struct tc_client *c, struct inode *i, uint64_t block, const uint8_t *data);
void dirty_truncate(struct tc_client *c, struct inode *i, uint64_t size);
void dirty_drop(struct tc_client *c, struct inode *i); /* everything, without writing */
void clean_drop(struct tc_client *c, struct inode *i);
void clean_keep(struct tc_client *c, struct inode *i, const struct flight *f);
void ext_remove(struct tc_client *c, struct inode *i, unsigned at); /* the extent becomes the caller's */
/* Start writing dirty blocks in [first, last]; false: some could not be (reach, truncate, session). */
/* Is a block of the present epoch with a version up to @seq still on its way? */
bool flights_upto(const struct inode *i, uint64_t seq);
bool flush_launch(struct tc_client *c, struct inode *i, uint64_t first, uint64_t last);
bool flush_all(struct tc_client *c, struct inode *i);
bool flush_pending(struct tc_client *c, struct inode *i); /* what waited for reach or a truncate */
void flush_pressure(struct tc_client *c); /* write the oldest to get room */
void dirty_init(struct tc_client *c);
void dirty_fini(struct tc_client *c);
void flights_drop(struct inode *i); /* the engine is closed */
/* Give @error to every open file that has unsaved data. */
void files_error(struct inode *i, int error, bool fail);

/* ---- fetch.c, readahead.c: fetch.h has what only they and read.c share ------------------------------------------------ */

void fetches_drop(struct tc_client *c);
/* Fetch one block for a partial write; wakes i->fetch_wq. */
void block_fetch(struct tc_call *call, struct inode *i, uint64_t block);
/* Fetch blocks of one chunk for horizon_fetched(). */
void horizon_fetch(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool versions_only);
/* Bytes of a block of version @epoch, at file offset @start, that show: the rest is behind the end or a horizon. */
size_t block_visible(const struct inode *i, uint64_t epoch, uint64_t start);
void readahead_drop(struct tc_client *c, struct inode *i);

/* ---- read.c --------------------------------------------------------------------------------------------------------- */

struct read_op *read_op_free(struct read_op *r);
void read_deliver(struct tc_call *call);
void read_abandon(struct tc_call *call); /* drop what it has fetched */
bool lease_unbroken(struct tc_client *c, const struct inode *i, uint64_t breaks); /* since there were so many; by whoever is in */
/* Must this block be written under our epoch before anybody is told its content (PROTOCOL 3.6)? */
bool block_unsettled(const struct inode *i, const struct qblock *b);
void block_rewrite(struct tc_client *c, struct inode *i, const struct qblock *b, uint64_t block);

/* ---- seek.c ---------------------------------------------------------------------------------------------------------- */

void seek_abandon(struct tc_call *call); /* drop what it has fetched */
void soughts_drop(struct tc_client *c);  /* the engine is closed */

/* ---- horizon.c ------------------------------------------------------------------------------------------------------ */

/* Is a range being rewritten, or has it to be before the first write? X is held. */
bool horizon_busy(const struct inode *i);
/* Under X, no recall: have entries rewritten until a truncate may add one. True: the call waits, or failed. */
bool horizon_make_room(struct tc_call *call, struct inode *i);
/* blocks NULL: it failed, or something local has changed meanwhile. */
void horizon_fetched(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, int status,
                     const struct qblock *blocks);

/* ---- file.c --------------------------------------------------------------------------------------------------------- */

/* Something here has the inode open: it is kept, and what ends another lease leaves O. */
void inode_opened(struct inode *i);
void inode_closed(struct tc_client *c, struct inode *i);
struct tc_file *file_new(struct tc_client *c, struct inode *i, uint32_t flags);
struct tc_file *file_ref(struct tc_file *f);
/* setattr.c */
void setattr_tick(struct tc_call *call);
bool caps_drop(struct tc_call *call); /* before the first changed byte. True: under way */
void bytes_done(struct rpc *r, int status, const void *res); /* the answer is what the call returns: a target, a value, a list */
void getattr_tick(struct tc_call *call); /* namespace.c */
void statfs_tick(struct tc_call *call);

void file_unref(struct tc_client *c, struct tc_file *f);

/* ---- locks.c -------------------------------------------------------------------------------------------------------- */

void locks_recalled(struct tc_client *c, uint64_t ino); /* L is to end */
void locks_lost(struct tc_client *c, struct inode *i);  /* the session is over */
void locks_release(struct tc_client *c, struct tc_file *f); /* the caller closes it for the last time */
void locks_free(struct tc_client *c, struct inode *i); /* with the inode, at the end of the client */
