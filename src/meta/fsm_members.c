/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who belongs to the metadata group and where: as genesis says it, until an entry that changed Raft's
 * configuration said it anew. Raft has the ids and the votes; this is what the others need, and it travels
 * with the map.
 */
#include "meta/fsm_int.h"

#define MEMBERS_MAX 9u
#define ENDPOINT_MAX 255u

static struct key members_key(void)
{
    return (struct key){.b = {TAB_MEMBERS}, .n = 1};
}

const struct member_info *fsm_members(const struct fsm *f, uint32_t *ret_n)
{
    if (f->members.members.n) {
        *ret_n = f->members.members.n;
        return f->members.members.items;
    }
    *ret_n = f->formatted ? f->genesis.members.n : 0;
    return f->genesis.members.items;
}

static int members_check(const struct cmd_members *cmd)
{
    if (cmd->members.n < 1 || cmd->members.n > MEMBERS_MAX)
        return -TC_E_INVAL;
    for (uint32_t i = 0; i < cmd->members.n; i++) {
        const struct member_info *m = &cmd->members.items[i];

        if (m->id == 0 || (i > 0 && m->id <= m[-1].id) || m->endpoint.n == 0 || m->endpoint.n > ENDPOINT_MAX)
            return -TC_E_INVAL;
    }
    return 0;
}

/* Owns @body from here on. */
static int members_take(struct fsm *f, struct buf *body)
{
    int r;

    members_unload(f);
    f->members_body = body;
    r = wire_decode(slice_of(body->data, body->len), &cmd_members_schema, &f->members_arena, &f->members);
    if (r == 0)
        r = members_check(&f->members);
    if (r < 0)
        members_unload(f);
    return r;
}

int op_members(struct fsm *f, const struct cmd_members *cmd)
{
    struct buf *body;
    int r = members_check(cmd);

    if (r < 0)
        return r;
    body = wire_encode(&cmd_members_schema, cmd);
    row_put(f, members_key(), body->data, body->len);
    map_touch(f);
    return members_take(f, body);
}

int members_load(struct fsm *f)
{
    struct kv_value v = {0};
    int r = row_get(f, members_key(), &v);

    if (r == -TC_E_NOENT)
        return 0;
    if (r == 0)
        r = members_take(f, buf_copy(v.data, (uint32_t)v.len)) < 0 ? -TC_E_DAMAGED : 0;
    kv_value_free(&v);
    return r;
}

void members_unload(struct fsm *f)
{
    f->members = (struct cmd_members){0};
    f->members_body = buf_unref(f->members_body);
    wire_arena_fini(&f->members_arena);
    f->members_arena = (struct wire_arena){0};
}
