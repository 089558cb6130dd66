/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the scrub share.
 *
 *   scrub.c         the walk over all that this store has, on a timer and on request; what is kept of it
 *   scrub_repair.c  chunks found damaged, by whomever, until they are whole again
 */
#pragma once

#include "storage/server_int.h"

#define SCRUB_PAGE 64 /* chunks whose inodes are asked for at once */

struct patient;

struct walk { /* one pass over the store */
    bool running, asked; /* asked: what inodes the page's chunks belong to is known, or cannot be */
    uint32_t pg;
    bool in_pg, eof;
    struct chunk_digest page[SCRUB_PAGE];
    uint32_t n, at;
    struct chunk_read_op read;
    struct chunk_read item;
    bool reading;
    struct rpc_call ask;
    uint8_t states[SCRUB_PAGE]; /* of inodes, as of INO_CHECK */
    struct ino_trim trims[SCRUB_PAGE * 4];
    uint32_t n_trims;
    struct env_job job; /* index and journal */
    bool checking;
    int index_status;
    uint64_t journal_from, journal_bad;
    struct chunk_recount recount;
    uint64_t next_at, rate;
    uint64_t chunks, bytes, dropped, trimmed;
};

struct scrub {
    struct storage_server *s;
    struct env_timer timer;
    struct walk walk;
    struct patient *patients; /* hash */
    uint32_t n_healing, n_failed;
    /* kept on disk */
    struct durable file;
    struct env_job save_job;
    struct buf *saving;
    bool save_busy, save_wanted;
    uint64_t saved_at;
    uint64_t found, repaired;      /* totals of earlier lives */
    uint64_t begun, ended;         /* leader's time: of the pass last begun, of the last one that was completed */
    uint64_t *verified;            /* per placement group, leader's time */
    uint32_t n_pgs;
};

/* scrub_repair.c */
/* Starts what is due. Returns when to be called again; UINT64_MAX: nothing waits. */
uint64_t patients_run(struct scrub *c);
uint32_t patients_count(const struct scrub *c);
void patients_free(struct scrub *c);
