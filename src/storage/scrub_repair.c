/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks with damaged blocks, each a patient from the moment when anybody found it until it is whole.
 *
 *   WAITING ──► HEALING ──► (whole: gone)
 *      ▲ │          │
 *      │ └► ASKING ─┴─► HEALING ──► (whole: gone)     suspended in: ASKING (the leader), HEALING (peers), DROPPING
 *      └────────── not yet: later ┘
 *
 * First the newest that a quorum has is fetched for blocks whose version is still known. What is then left (the version
 * itself was lost, or nobody has it) is settled when the leader says that no writer holds the inode: all that was
 * acknowledged is then on a quorum of the others, so what these have may take its place, and what none of them has
 * was never written.
 */
#include "common/log.h"
#include "common/test_rules.h"
#include "storage/scrub_int.h"

#define PATIENTS_MAX 200000 /* beyond, the next comparison or scrub finds them again */
#define HEALS_MAX 4
#define ASK_NS NS_PER_S
#define RETRY_NS (500 * NS_PER_MS)
#define RETRY_NS_MAX (30 * NS_PER_S)

enum patient_state { WAITING, ASKING, HEALING, DROPPING };

struct patient {
    struct chunk_key key;
    UT_hash_handle hh;
    struct scrub *c;
    enum patient_state state;
    bool tried;  /* the first step is done */
    bool failed; /* and was not enough */
    uint64_t retry_at, delay;
    struct heal heal;
    struct rpc_call ask;
    struct chunk_drop_op drop;
};

static void patient_free(struct patient *p)
{
    struct scrub *c = p->c;

    heal_cancel(&p->heal);
    rpc_cancel(&p->ask);
    c->n_healing -= p->state != WAITING;
    c->n_failed -= p->failed;
    HASH_DEL(c->patients, p);
    free(p);
}

void patients_free(struct scrub *c)
{
    struct patient *p, *tmp;

    HASH_ITER(hh, c->patients, p, tmp)
        patient_free(p);
}

static void later(struct patient *p, bool failed)
{
    struct scrub *c = p->c;
    uint64_t now = env_now(c->s->env);

    c->n_healing -= p->state != WAITING;
    p->state = WAITING;
    if (failed && !p->failed) {
        p->failed = true;
        c->n_failed++;
        LOG_WARN("storage", "a damaged chunk cannot be repaired yet", "ino=%llu index=%u",
                 (unsigned long long)p->key.ino, p->key.index);
    }
    p->delay = failed ? MIN(MAX(2 * p->delay, RETRY_NS), RETRY_NS_MAX) : 0;
    p->retry_at = now + p->delay;
    env_timer_set(c->s->env, &c->timer, now);
}

static bool whole(struct patient *p)
{
    if (chunk_store_unknown(p->c->s->cs, &p->key, NULL))
        return false;
    LOG_INFO("storage", "a damaged chunk is whole again", "ino=%llu index=%u", (unsigned long long)p->key.ino, p->key.index);
    p->c->save_wanted = true;
    patient_free(p);
    return true;
}

static void heal_done(struct heal *h, int status)
{
    struct patient *p = h->arg;
    bool settled = !h->unsettled;

    p->tried = true;
    if (!whole(p))
        later(p, settled || status < 0);
}

static void heal(struct patient *p, bool unsettled)
{
    p->heal = (struct heal){.s = p->c->s, .key = p->key, .mode = HEAL_LOCAL, .unsettled = unsettled, .done = heal_done, .arg = p};
    p->state = HEALING;
    heal_start(&p->heal);
}

static void drop_done(struct chunk_drop_op *op, int status TC_UNUSED)
{
    struct patient *p = op->owner;

    if (p->c->s->closing)
        return;
    if (!whole(p))
        later(p, true);
}

static void drop(struct patient *p)
{
    p->drop = (struct chunk_drop_op){.key = p->key, .done = drop_done, .owner = p};
    p->state = DROPPING;
    if (chunk_store_drop(p->c->s->cs, &p->drop) < 0)
        later(p, true);
}

static void ask_done(struct rpc_call *call, const struct rpc_reply *reply)
{
    struct patient *p = container_of(call, struct patient, ask);
    struct wire_arena a = {0};
    struct ino_check_res res;
    uint8_t state = 0, held = 1;

    if (p->c->s->closing)
        return;
    if (reply->status == 0 && wire_decode(reply->body, &ino_check_res_schema, &a, &res) == 0) {
        state = res.states.n == 1 ? res.states.p[0] : 0;
        held = res.held.n == 1 ? res.held.p[0] : 1;
    }
    wire_arena_fini(&a);
    if (state == 2) {
        drop(p);
    } else if (state == 1 && (!held || !TC_RULE(ALIVE_WAITS))) {
        chunk_store_forget_unknown(p->c->s->cs, &p->key);
        heal(p, false);
    } else {
        later(p, true);
    }
}

static void patient_start(struct patient *p)
{
    struct storage_server *s = p->c->s;
    uint32_t bare, n = chunk_store_unknown(s->cs, &p->key, &bare);
    struct ino_check_req req = {.inos = {&p->key.ino, 1}};

    if (p->key.pg >= s->map->pg_count || !map_is_voter(&s->map->pgs[p->key.pg], s->id.store)) {
        patient_free(p); /* it goes, or is filled as a newcomer's */
        return;
    }
    p->c->n_healing++;
    if (n == 0) {
        p->state = HEALING;
        (void)whole(p);
    } else if (!p->tried && n > bare) {
        heal(p, true);
    } else {
        p->tried = true;
        p->state = ASKING;
        p->ask.done = ask_done;
        rpc_call(leader_current(s), &p->ask, MSG_INO_CHECK, &ino_check_req_schema, &req, NULL, ASK_NS);
    }
}

uint32_t patients_count(const struct scrub *c)
{
    return HASH_COUNT(c->patients);
}

uint64_t patients_run(struct scrub *c)
{
    struct storage_server *s = c->s;
    uint64_t now = env_now(s->env), next = UINT64_MAX;
    struct patient *p, *tmp;

    if (!c->patients)
        return next;
    if (!s->map || !s->map->pgs || !s->registered)
        return now + RETRY_NS;
    HASH_ITER(hh, c->patients, p, tmp)
    {
        if (p->state != WAITING)
            continue;
        if (c->n_healing >= HEALS_MAX)
            break;
        if (now >= p->retry_at)
            patient_start(p);
        else
            next = MIN(next, p->retry_at);
    }
    return next;
}

void scrub_damaged(struct storage_server *s, const struct chunk_key *key)
{
    struct scrub *c = s->scrub;
    struct patient *p;

    if (!c)
        return; /* in opening: the comparison after it finds it */
    HASH_FIND(hh, c->patients, key, sizeof(*key), p);
    if (!p && HASH_COUNT(c->patients) >= PATIENTS_MAX)
        return;
    if (!p) {
        p = tc_calloc(1, sizeof(*p));
        p->key = *key;
        p->c = c;
        HASH_ADD(hh, c->patients, key, sizeof(p->key), p);
    }
    if (p->state == WAITING && !p->failed) {
        p->tried = false;
        p->retry_at = env_now(s->env);
        env_timer_set(s->env, &c->timer, p->retry_at);
    }
    c->save_wanted = true;
}
