/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A storage node: one data directory, one port, the chunk store behind it, and its duties towards the
 * metadata leader (registration, heartbeats, map, deletion) and its peers (recovery). Everything runs on
 * the loop of the env it is given, so a simulated env makes a simulated node.
 */
#pragma once

#include "common/env.h"
#include "common/journal.h"
#include "common/kv.h"

struct storage_server;

struct storage_config {
    uint32_t node;            /* storage.N of the configuration */
    const char *zone;         /* may be NULL */
    const char *dir;          /* data directory, made if absent; within env_vfs() */
    const char *listen;       /* "tcp://0.0.0.0:7201" */
    const char *advertise;    /* endpoint others reach it by; NULL: listen */
    const char *const *metas; /* endpoints of the metadata members; strings are copied */
    uint32_t n_metas;
    /* Opens the index store in directory @path. NULL: RocksDB. Simulation: one that calls kv_open_mem(). */
    int (*kv_open)(void *arg, struct env *env, const char *path, struct kv **ret_kv);
    void *kv_arg;
    struct journal_options journal;
    uint64_t reserve_bytes;  /* of the disk, never given to data; 0: the default (chunk_store.c space_set) */
    uint64_t cache_bytes;    /* chunk index cache; 0: default 64 MiB */
    uint64_t pending_bytes;  /* data only in the journal and not merged yet; 0: default 64 MiB */
    uint32_t beat_ms;        /* 0: default 200 */
    uint64_t scrub_rate;     /* bytes a second; 0: default 32 MiB */
    uint64_t scrub_interval_ns; /* between the beginnings of two scrubs; 0: default 7 days; UINT64_MAX: on request only */
    /* The node cannot go on (journal or disk failed, its directory was rolled back): close it, and end the
     * process or open it anew. Called on the loop, at most once, not from inside open. May be NULL (abort). */
    void (*fatal)(void *arg, int err, const char *why);
    void *fatal_arg;
};

struct storage_status {
    uint64_t store;     /* random id of the directory */
    uint64_t start;     /* start counter */
    uint64_t map_epoch; /* durable here; 0: none yet */
    bool registered;    /* the leader confirmed this start */
    uint64_t chunks, used, free;
    uint64_t behind;    /* chunks still to be brought up to date */
};

/*
 * Open the directory (blocking: replays the journal), listen, and begin to register. Copies what it keeps of
 * @cfg. Errors, each logged as one line: WRONG_CLUSTER, VERSION, LOCKED_DIR, DAMAGED, ADDRINUSE, IO, NOSPC.
 */
TC_MUST_CHECK int storage_server_open(struct env *env, const struct storage_config *cfg,
                                      struct storage_server **ret_server);
/* Flushes nothing: what was acknowledged is durable. No disk job may be running (storage_server_busy() is 0,
 * or the simulated node was killed); a daemon just exits. Accepts NULL. */
void storage_server_close(struct storage_server *s);

/* Disk jobs in flight. */
uint32_t storage_server_busy(const struct storage_server *s);
/* Write the index now, as it is when the journal has grown; for tests. */
void storage_server_checkpoint(struct storage_server *s);
void storage_server_status(struct storage_server *s, struct storage_status *ret_status);
