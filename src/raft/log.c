/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log in memory: entries base_index + 1 .. last in one array, each owning its data. What of it
 * is durable is known by the numbers of the saves: a save that a later truncation overtook counts
 * only up to where its entries are still the log's.
 */
#include <string.h>

#include "raft/core.h"

uint64_t log_last(const struct raft *r)
{
    return r->log.base_index + r->log.n;
}

const struct raft_entry *raft_entry_at(const struct raft *r, uint64_t index)
{
    const struct raft_log *l = &r->log;

    if (index <= l->base_index || index > log_last(r))
        return NULL;
    return &l->entries[l->head + (size_t)(index - l->base_index - 1)];
}

uint64_t raft_term_at(const struct raft *r, uint64_t index)
{
    const struct raft_entry *e;

    if (index == r->log.base_index)
        return r->log.base_term;
    e = raft_entry_at(r, index);
    return e ? e->term : 0;
}

uint64_t log_last_term(const struct raft *r)
{
    return raft_term_at(r, log_last(r));
}

size_t raft_log_bytes(const struct raft *r)
{
    return r->log.bytes;
}

bool log_full(const struct raft *r)
{
    return r->log.bytes > r->cfg.log_bytes_max;
}

static void log_room(struct raft_log *l)
{
    if (l->head + l->n < l->cap)
        return;
    if (l->head > l->cap / 2) {
        memmove(l->entries, l->entries + l->head, l->n * sizeof l->entries[0]);
        l->head = 0;
        return;
    }
    l->cap = l->cap ? l->cap * 2 : 64;
    l->entries = tc_realloc(l->entries, l->cap * sizeof l->entries[0]);
}

static void log_drop_data(struct raft_log *l, struct raft_entry *e)
{
    l->bytes -= e->len + sizeof *e;
    free((void *)(uintptr_t)e->data);
    e->data = NULL;
}

void log_append(struct raft *r, const struct raft_entry *e)
{
    struct raft_log *l = &r->log;
    struct raft_entry *d;
    uint8_t *data = NULL;

    ASSERT(e->index == log_last(r) + 1);
    ASSERT(e->term >= log_last_term(r));
    if (e->len > 0) {
        data = tc_malloc(e->len);
        memcpy(data, e->data, e->len);
    }
    log_room(l);
    d = &l->entries[l->head + l->n++];
    *d = *e;
    d->data = data;
    l->bytes += d->len + sizeof *d;
}

void log_truncate(struct raft *r, uint64_t index)
{
    struct raft_log *l = &r->log;

    ASSERT(index > r->commit && index > l->base_index);
    while (log_last(r) >= index)
        log_drop_data(l, &l->entries[l->head + --l->n]);
    for (uint32_t i = 0; i < r->save_n; i++) {
        struct raft_save *s = &r->saves[(r->save_head + i) % RAFT_SAVES_MAX];

        s->last = MIN(s->last, index - 1);
    }
    r->saved = MIN(r->saved, index - 1);
    r->persisted = MIN(r->persisted, index - 1);
    r->verified = MIN(r->verified, index - 1); /* no true leader contradicts itself */
    config_pop_from(r, index);
}

void log_compact(struct raft *r, uint64_t index)
{
    struct raft_log *l = &r->log;

    index = MIN(index, MIN(r->applied, r->persisted));
    if (index <= l->base_index)
        return;
    l->base_term = raft_term_at(r, index);
    config_compact(r, index);
    while (l->base_index < index) {
        log_drop_data(l, &l->entries[l->head++]);
        l->n--;
        l->base_index++;
    }
    if (l->n == 0)
        l->head = 0;
}

void log_reset(struct raft *r, uint64_t index, uint64_t term)
{
    struct raft_log *l = &r->log;

    while (l->n > 0)
        log_drop_data(l, &l->entries[l->head + --l->n]);
    l->head = 0;
    l->base_index = index;
    l->base_term = term;
    for (uint32_t i = 0; i < r->save_n; i++)
        r->saves[(r->save_head + i) % RAFT_SAVES_MAX].last = 0;
    r->saved = r->persisted = index;
}

uint64_t log_find_conflict(const struct raft *r, uint64_t index, uint64_t term)
{
    index = MIN(index, log_last(r));
    while (index > r->log.base_index && raft_term_at(r, index) > term)
        index--;
    return index;
}

void log_persisted(struct raft *r, uint64_t seq)
{
    while (r->save_n > 0) {
        struct raft_save *s = &r->saves[r->save_head];

        if (s->seq > seq)
            break;
        r->persisted = MAX(r->persisted, s->last);
        r->save_head = (r->save_head + 1) % RAFT_SAVES_MAX;
        r->save_n--;
        r->save_since = r->now;
    }
    ASSERT(r->persisted <= log_last(r));
}
