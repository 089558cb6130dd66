/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One state machine under test: a kv of either kind in a directory of its own, a log position, and
 * a clock.
 */
#pragma once

#include "common/schema.h"
#include "meta/fsm.h"

struct world {
    bool rocks;
    char dir[256];
    struct kv *kv;
    struct fsm *f;
    uint64_t index, term, now;
    uint64_t session; /* used by the requests below */
    uint64_t seq;     /* last used */
    uint64_t watermark;
    uint64_t cookie_mask;
    struct wire_arena a;
    struct fsm_result res;   /* of the last entry */
    struct entry_res entry;  /* decoded from it, if it is one */
    struct buf *entry_bytes; /* the last entry itself */
};

void world_open(struct world *w, bool rocks);
void world_close(struct world *w);  /* removes its files */
void world_reopen(struct world *w); /* as after a crash behind a flush */
/* Encode and apply; the status. */
int world_apply(struct world *w, uint32_t type, const struct wire_schema *schema, const void *body);
/* The entry of before once more, at a new index. */
int world_again(struct world *w);
int world_apply_bytes(struct world *w, struct slice entry);
const struct fsm_effect *world_effect(const struct world *w,
                                      enum fsm_effect_kind kind); /* the first; NULL */

/* A formatted cluster (3, 2, 2; 8 groups) with @sessions sessions 1, 2, ... */
void world_format(struct world *w, unsigned sessions);
uint64_t world_session(struct world *w);
struct req_ctx world_ctx(struct world *w); /* the next request's */

/* Requests of w->session; w->entry has the answer. */
int w_make(struct world *w, uint64_t parent, const char *name, uint32_t mode, uint32_t want);
int w_link(struct world *w, uint64_t ino, uint64_t parent, const char *name);
int w_unlink(struct world *w, uint64_t parent, const char *name, bool dir);
int w_rename(struct world *w, uint64_t p1, const char *n1, uint64_t p2, const char *n2,
             uint32_t flags);
int w_setattr(struct world *w, struct setattr_req req);
int w_truncate(struct world *w, uint64_t ino, uint64_t size, uint64_t size_max);
int w_setxattr(struct world *w, uint64_t ino, const char *name, const void *value, size_t n,
               uint32_t flags);
int w_removexattr(struct world *w, uint64_t ino, const char *name);
int w_get_x(struct world *w, uint64_t ino);
/* One item, with grant and epoch from the lease as it is; the item's status. */
int w_commit(struct world *w, struct commit_item it);
int w_expire(struct world *w, uint64_t session);
int w_reap(struct world *w, uint64_t ino);
struct attr w_attr(struct world *w, uint64_t ino); /* asserts that it is there */
/* ino of a path of names separated by '/', 0: none */
uint64_t w_find(struct world *w, const char *path);
