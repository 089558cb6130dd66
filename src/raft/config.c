/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configurations (Ongaro 4.1): one counts from its append on and is undone with its entry. The list
 * holds the one as of the base and each one behind it in the log; the last is in force.
 */
#include <string.h>

#include "common/test_rules.h"
#include "raft/core.h"

enum { CONFIG_VERSION = 1, CONFIG_MEMBER_BYTES = 17 };

static void put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

uint32_t raft_config_encode(const struct raft_config *c, uint8_t buf[RAFT_CONFIG_BYTES_MAX])
{
    uint8_t *p = buf;

    ASSERT(c->n <= RAFT_MEMBERS_MAX);
    *p++ = CONFIG_VERSION;
    *p++ = (uint8_t)c->n;
    for (uint32_t i = 0; i < c->n; i++) {
        put_u64(p, c->members[i].id);
        put_u64(p + 8, c->members[i].incarnation);
        p[16] = (uint8_t)c->members[i].role;
        p += CONFIG_MEMBER_BYTES;
    }
    return (uint32_t)(p - buf);
}

int raft_config_decode(const uint8_t *data, size_t len, struct raft_config *ret)
{
    struct raft_config c = {0};
    const uint8_t *p = data + 2;

    if (len < 2 || data[0] != CONFIG_VERSION || data[1] > RAFT_MEMBERS_MAX)
        return -TC_E_BAD_MESSAGE;
    c.n = data[1];
    if (len < 2 + (size_t)c.n * CONFIG_MEMBER_BYTES)
        return -TC_E_BAD_MESSAGE;
    for (uint32_t i = 0; i < c.n; i++, p += CONFIG_MEMBER_BYTES) {
        struct raft_member m = {get_u64(p), get_u64(p + 8), p[16]};

        if (m.id == 0 || (i > 0 && m.id <= c.members[i - 1].id))
            return -TC_E_BAD_MESSAGE;
        if (m.role < RAFT_VOTER || m.role > RAFT_STANDBY)
            return -TC_E_BAD_MESSAGE;
        c.members[i] = m;
    }
    *ret = c;
    return (int)(p - data);
}

const struct raft_member *raft_config_find(const struct raft_config *c, uint64_t id)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->members[i].id == id)
            return &c->members[i];
    return NULL;
}

const struct raft_config *raft_config_now(const struct raft *r)
{
    ASSERT(r->n_configs > 0);
    if (!TC_RULE(CONFIG_AT_APPEND) && raft_config_at(r, r->commit)->n > 0)
        return raft_config_at(r, r->commit);
    return &r->configs[r->n_configs - 1].config;
}

const struct raft_config *raft_config_at(const struct raft *r, uint64_t index)
{
    uint32_t i = r->n_configs;

    while (i > 1 && r->configs[i - 1].index > index)
        i--;
    return &r->configs[i - 1].config;
}

void config_push(struct raft *r, uint64_t index, const struct raft_config *c)
{
    ASSERT(r->n_configs == 0 || index > r->configs[r->n_configs - 1].index);
    if (r->n_configs == r->cap_configs) {
        r->cap_configs = r->cap_configs ? r->cap_configs * 2 : 4;
        r->configs = tc_realloc(r->configs, r->cap_configs * sizeof r->configs[0]);
    }
    r->configs[r->n_configs].index = index;
    r->configs[r->n_configs++].config = *c;
    r->flags |= RAFT_CONFIG;
}

void config_pop_from(struct raft *r, uint64_t index)
{
    while (r->n_configs > 1 && r->configs[r->n_configs - 1].index >= index) {
        r->n_configs--;
        r->flags |= RAFT_CONFIG;
    }
}

void config_compact(struct raft *r, uint64_t index)
{
    uint32_t drop = 0;

    while (drop + 1 < r->n_configs && r->configs[drop + 1].index <= index)
        drop++;
    r->n_configs -= drop;
    memmove(r->configs, r->configs + drop, r->n_configs * sizeof r->configs[0]);
}

bool config_knows_self(const struct raft *r)
{
    const struct raft_member *m = raft_config_find(raft_config_now(r), r->cfg.id);

    return m && (m->incarnation == r->incarnation || !raft_rule(r, RAFT_RULE_INCARNATION));
}

bool config_self_votes(const struct raft *r)
{
    const struct raft_member *m = raft_config_find(raft_config_now(r), r->cfg.id);

    return m && m->role == RAFT_VOTER && config_knows_self(r);
}

/* A removal may be in nobody's log but that of the one it removes: until it is known to be committed that
 * one has to be able to lead, or nobody can (Ongaro 4.2.2). It does not count itself. */
bool config_may_lead(const struct raft *r)
{
    const struct raft_member *m;

    if (config_self_votes(r))
        return true;
    if (r->n_configs < 2 || r->configs[r->n_configs - 1].index <= r->commit ||
        raft_config_find(raft_config_now(r), r->cfg.id) || !TC_RULE(LEFT_OUT_ASKS))
        return false;
    m = raft_config_find(&r->configs[r->n_configs - 2].config, r->cfg.id);
    return m && m->role == RAFT_VOTER && m->incarnation == r->incarnation;
}

uint32_t config_voters(const struct raft_config *c)
{
    uint32_t voters = 0;

    for (uint32_t i = 0; i < c->n; i++)
        voters += c->members[i].role == RAFT_VOTER;
    return voters;
}

uint32_t config_quorum(const struct raft *r)
{
    return config_voters(raft_config_now(r)) / 2 + 1;
}
