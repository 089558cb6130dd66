/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the storage server share.
 *
 *   server.c        opening, closing, the port, dispatch
 *   server_data.c   WRITE, READ, MANIFEST, MAP_GET, STORE_STATUS
 *   server_unclean.c  SIZE_QUERY, CHUNK_SEEK, RECONCILE
 *   server_leader.c registration, heartbeats, the durable map
 *   server_lost.c   no leader answers: other stores say who is in the group
 *   server_gc.c     what is to be deleted
 *   server_aside.c  a damaged directory put out of the way
 *   server_failing.c a disk that failed is remembered
 *   heal.c          one chunk brought up to date from its other voters, or all of them
 *   pace.c          how fast what is copied goes behind what clients ask
 *   joined.c        since when this store is a voter of each placement group
 *   recovery.c      which chunks of which placement groups are due
 *   scrub*.c        damage found on disk and repaired; garbage that nobody removed
 */
#pragma once

#include <uthash.h>
#include <utlist.h>

#include "common/aside.h"
#include "common/map.h"
#include "storage/chunk_store.h"
#include "storage/durable.h"
#include "storage/pace.h"
#include "storage/rpc.h"
#include "storage/server.h"

#define REQUESTS_MAX 4096              /* taken in and not answered */
#define WAIT_MAP_NS (2 * NS_PER_S)     /* a request waits so long for the map it names */
#define ITEMS_MAX 1024                 /* of one request */
#define READ_BLOCKS_MAX 4096           /* data of one answer: 16 MiB */
#define READ_BLOCKS_TOTAL 32768        /* of all answers being made: 128 MiB */
#define LINKS_MAX 256                  /* to peers */
#define CUT_OFF_NS (2 * NS_PER_S)      /* silent for so long, writes may have been missed */

struct storage_server;
struct recovery;
struct gc_run;
struct scrub;

struct identity {
    uint8_t cluster[16]; /* zero: not registered yet */
    uint64_t store;
    uint64_t start;
};

struct request {
    struct storage_server *s;
    struct request *prev, *next;
    uint64_t peer, id;
    uint16_t type;
    struct buf *head, *payload; /* references */
    struct wire_arena arena;
    uint64_t deadline; /* of waiting for the map */
    uint64_t need;     /* map epoch waited for */
    bool waiting;
    union store_request u;
    union {
        struct chunk_write_op write;
        struct chunk_read_op read;
    } op;
    void *items;       /* of op */
    uint32_t *slots;   /* item of op -> item of the request */
    void *results;     /* wire results, in the arena */
    struct env_task task;
    uint64_t read_blocks;
    uint64_t begun;    /* a client's: when it came */
    bool held, giving; /* a peer's read of data: waits for its turn, has it */
    uint32_t at;       /* SIZE_QUERY, CHUNK_SEEK, RECONCILE: progress */
    uint32_t from;     /* SIZE_QUERY: ... within the group */
    uint32_t left;
    int status;
    struct size_query_res size_res;
    struct chunk_seek_res seek_res;
    uint64_t scrubbed; /* SCRUB: blocks read ... */
    uint32_t damaged;  /* ... how many were found damaged ... */
    uint32_t unknown;  /* ... and how many are unknown at the end */
};

#define LEADER_LINKS_MAX 16

struct leader_link {
    struct rpc_link *link;
    bool in_map, gone; /* a map named it; a later one no longer */
};

#define STRANGERS_MAX 16
struct stranger { /* who asked for another store */
    uint64_t peer, told; /* when it was logged */
};

struct storage_server {
    struct env *env;
    struct vfs *vfs;
    struct storage_config cfg; /* own copies of the strings */
    char *dir, *listen, *advertise, *zone;
    struct vfs_file *lock;
    struct net_port *port;
    struct chunk_store *cs;
    bool closing;
    bool fatal_told;
    bool failing; /* the disk failed in an earlier life, or just now */

    struct durable id_file, map_file, joined_file;
    struct identity id;
    bool empty;      /* formatted in this life */
    bool registered;
    uint64_t cluster_tag;

    struct map *map;       /* durable */
    struct buf *map_bytes; /* encoded whole */
    struct map *map_new;   /* being made durable */
    struct buf *map_new_bytes;
    int map_save_status;
    struct env_job map_job;
    struct env_queue jobs; /* serial: identity, map */
    uint32_t busy;
    uint64_t map_wanted; /* epoch that somebody named */

    /* joined.c */
    uint64_t *joined;             /* per PG, as durable */
    uint64_t *joined_next;        /* as the last job submitted will leave it */
    uint64_t *shed;               /* per PG: epoch at which its remains were dropped; 0: nothing new */
    uint32_t n_joined;
    struct buf *joined_map_bytes; /* to be durable with map_new; NULL: unchanged */
    struct buf *joined_bytes;     /* being made durable for what was shed */
    struct env_job joined_job;
    int joined_status;
    struct rpc_call map_call;
    struct env_timer map_timer;
    uint32_t map_link; /* member asked for it */

    struct leader_link *links;
    uint32_t n_links, leader; /* index */
    struct env_timer beat_timer;
    struct rpc_call leader_call; /* register or beat */
    uint32_t misses;
    uint64_t run;      /* random, of this life */
    uint32_t taken;    /* times that the leader said that another has this store's place */
    struct rpc_call lost_call;
    uint64_t lost_at; /* no leader answers: another store is asked then */
    uint32_t lost_store; /* the next one */
    uint64_t last_beat; /* time of the last one answered */
    struct env_job id_job;
    struct identity id_new;
    int id_status;

    struct gc_run *gc; /* under way */

    struct request *requests; /* all */
    uint32_t n_requests;
    struct stranger strangers[STRANGERS_MAX]; /* by peer; one is forgotten for another */
    struct env_timer wait_timer;

    struct rpc_link *peers[LINKS_MAX]; /* by endpoint */
    uint32_t n_peers;
    struct recovery *recovery;
    struct scrub *scrub;
    uint64_t time_off; /* leader's time less this machine's, as of the last beat; 0: not known */
    struct aside_keeper *aside; /* of damaged directories that were put aside */
    struct pace pace;    /* of what is copied, behind clients */
    uint32_t giving;     /* reads of data by peers under way ... */
    uint32_t n_held;     /* ... and those that wait for their turn */
    struct env_task held_task;
    uint64_t read_blocks; /* asked for in answers being made */
};

/* server.c */
void server_fatal(struct storage_server *s, int err, const char *why);
/* Index or journal is damaged: the process ends, and the next start puts all files aside (server_aside.c). */
void server_damaged(struct storage_server *s, const char *why);
void request_reply(struct request *q, int status, const struct wire_schema *schema, const void *body, struct buf *payload);
void request_dispatch(struct request *q);
/* A peer's read of data: false: it waits for its turn, and is dispatched again. */
bool request_turn(struct request *q);
/* Waits until the map is at least @epoch, then is dispatched again; answered STALE_MAP if that takes too long. */
void request_wait_map(struct request *q, uint64_t epoch);
bool requests_waiting(const struct storage_server *s);
void requests_map_changed(struct storage_server *s);
/* The link to a peer store; NULL: the map does not know it. */
struct rpc_link *server_peer(struct storage_server *s, uint64_t store);
bool map_is_c1(const struct map_pg *pg, uint64_t store);

/* server_aside.c */
/* If marked, or @damaged: all files out of the way. */
TC_MUST_CHECK int aside_put(struct storage_server *s, bool damaged);

/* server_failing.c */
#define DISK_ERROR_MARK "disk-error" /* name of a file in the directory */
TC_MUST_CHECK int failing_load(struct storage_server *s);
void failing_mark(struct storage_server *s, const char *why); /* blocking: the process ends */

/* joined.c */
TC_MUST_CHECK int joined_load(struct storage_server *s); /* behind map_load() */
void joined_fini(struct storage_server *s);
/* Map @m will be taken: what it changes. In the job that stores it, before the map; and when it counts. */
void joined_plan(struct storage_server *s, const struct map *m);
TC_MUST_CHECK int joined_map_save(struct storage_server *s);
void joined_map_saved(struct storage_server *s);
/* A newcomer of @pg that has remains of a former time: takes no writes, is no source. */
bool joined_not(const struct storage_server *s, uint64_t pg);
void joined_kick(struct storage_server *s); /* shed[] changed */

/* server_data.c */
void handle_data(struct request *q);
/* 0: go on with it. Else it was answered, or waits for the map. */
int request_admit(struct request *q, uint64_t session, uint32_t incarnation, uint64_t barrier);

/* server_unclean.c */
void handle_size_query(struct request *q);
void handle_chunk_seek(struct request *q);
void handle_reconcile(struct request *q);

/* server_gc.c */
void server_gc_take(struct storage_server *s, const struct store_beat_res *res);
void server_gc_end(struct storage_server *s); /* also if none is under way */

/* server_leader.c */
int leader_open(struct storage_server *s);
/* A last word to the leader: the disk fails. */
void leader_last_word(struct storage_server *s);
void leader_tell(struct storage_server *s); /* the next beat now */
void leader_close(struct storage_server *s);
void leader_want_map(struct storage_server *s, uint64_t epoch);
/* The members are those that @m names. Not from a callback of a link to a member. */
void leader_learn(struct storage_server *s, const struct map *m);
int identity_load(struct storage_server *s);
int map_load(struct storage_server *s);
struct rpc_link *leader_current(struct storage_server *s);

/* server_lost.c: called when the leader did not answer, or a member that does not lead did, and when the leader did */
void lost_silence(struct storage_server *s);
void lost_heard(struct storage_server *s);
/* server_refused.c; true: what is to be said and done about it was. */
bool register_refused(struct storage_server *s, int status);
void register_removed(struct storage_server *s);

/* heal.c */
enum heal_mode { HEAL_LOCAL, HEAL_ALL };
struct heal {
    struct storage_server *s;
    struct chunk_key key;
    enum heal_mode mode;
    uint64_t from_epoch; /* blocks of older versions are left alone */
    uint64_t pg_epoch;
    bool unsettled; /* writes may be half acknowledged: leave alone what is unknown here without its version */
    void (*done)(struct heal *h, int status); /* on the loop, never from inside heal_start(); h is the caller's */
    void *arg;
    struct heal_work *work;
};
void heal_start(struct heal *h);
void heal_cancel(struct heal *h); /* no done() comes */

/* recovery.c */
int recovery_open(struct storage_server *s);
void recovery_close(struct storage_server *s);
void recovery_map_changed(struct storage_server *s);
/* This store was not heard for a while: it may have missed writes. */
void recovery_cut_off(struct storage_server *s);
uint64_t recovery_behind(const struct storage_server *s);
/* Up to @max placement groups that this newcomer has complete. */
uint32_t recovery_ready(struct storage_server *s, struct pg_ready *to, uint32_t max);

/* scrub.c, scrub_repair.c */
void scrub_open(struct storage_server *s);
void scrub_close(struct storage_server *s);
/* Blocks of this chunk are damaged here: repair it. */
void scrub_damaged(struct storage_server *s, const struct chunk_key *key);
void scrub_beat(struct storage_server *s, struct store_beat_req *req);
uint32_t scrub_permille(const struct storage_server *s);
void handle_scrub(struct request *q);
