/* SPDX-License-Identifier: Apache-2.0 */
#include "raft-net.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "common/error.h"

enum net_event_kind { EV_DELIVER, EV_TICK, EV_STATE, EV_LOG, EV_APPLY, EV_PIECE, EV_SNAP, EV_CRASH };

struct net_event {
    uint64_t at, seq;
    enum net_event_kind kind;
    uint32_t node, life;
    struct raft_msg msg; /* DELIVER: owns its entries */
    struct raft_config config;
    uint8_t data[16];
    uint64_t save_seq, a, b;
    size_t n;
    struct raft_event step; /* SNAP: given to the core as it is */
};

enum { SNAP_PIECES = 4, SNAP_PIECE = 4 };

uint64_t net_random(struct net *net, uint64_t bound)
{
    uint64_t z = (net->rng += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return bound ? (z ^ (z >> 31)) % bound : 0;
}

static bool chance(struct net *net, uint32_t permille)
{
    return permille != 0 && net_random(net, 1000) < permille;
}

TC_PRINTF(2, 3) static void violate(struct net *net, const char *fmt, ...)
{
    va_list ap;

    if (net->violation[0])
        return;
    va_start(ap, fmt);
    vsnprintf(net->violation, sizeof net->violation, fmt, ap);
    va_end(ap);
    if (net->trace)
        fprintf(net->trace, "%8.1f     ! %s\n", (double)net->now / 1e6, net->violation);
}

/* -- time and the queue ----------------------------------------------------------------------- */

static uint64_t local_now(const struct net *net, const struct net_node *n)
{
    return (uint64_t)((int64_t)(net->now / 1000 * n->clock_permille) + n->clock_offset);
}

static uint64_t true_delay(const struct net_node *n, uint64_t local)
{
    return local / n->clock_permille * 1000 + 1000;
}

static bool before(const struct net_event *a, const struct net_event *b)
{
    return a->at < b->at || (a->at == b->at && a->seq < b->seq);
}

static void heap_push(struct net *net, struct net_event *e)
{
    size_t i = net->n_heap++;

    if (net->n_heap > net->cap_heap) {
        net->cap_heap = net->cap_heap ? net->cap_heap * 2 : 256;
        net->heap = tc_realloc(net->heap, net->cap_heap * sizeof net->heap[0]);
    }
    e->seq = net->seq++;
    for (; i > 0 && before(e, net->heap[(i - 1) / 2]); i = (i - 1) / 2)
        net->heap[i] = net->heap[(i - 1) / 2];
    net->heap[i] = e;
}

static struct net_event *heap_pop(struct net *net)
{
    struct net_event *top = net->heap[0];
    struct net_event *e = net->heap[--net->n_heap];
    size_t i = 0;

    for (;;) {
        size_t c = 2 * i + 1;

        if (c >= net->n_heap)
            break;
        if (c + 1 < net->n_heap && before(net->heap[c + 1], net->heap[c]))
            c++;
        if (before(e, net->heap[c]))
            break;
        net->heap[i] = net->heap[c];
        i = c;
    }
    if (net->n_heap > 0)
        net->heap[i] = e;
    return top;
}

static struct net_event *event_new(const struct net *net, enum net_event_kind kind,
                                   const struct net_node *n, uint64_t at)
{
    struct net_event *e = tc_calloc(1, sizeof *e);

    e->kind = kind;
    e->node = (uint32_t)(n - net->nodes);
    e->life = n->life;
    e->at = at;
    return e;
}

static void entries_free(struct raft_msg *m)
{
    if (m->type != RAFT_MSG_APPEND || m->append.n == 0)
        return;
    for (uint32_t i = 0; i < m->append.n; i++)
        free((void *)(uintptr_t)m->append.entries[i].data);
    free((void *)(uintptr_t)m->append.entries);
}

static void event_free(struct net_event *e)
{
    if (e->kind == EV_DELIVER)
        entries_free(&e->msg);
    free(e);
}

/* -- properties ------------------------------------------------------------------------------- */

static void check_commit(struct net *net, struct net_node *n, const struct raft_status *s)
{
    for (uint64_t i = MAX(n->seen_commit + 1, s->first); i <= s->commit; i++) {
        uint64_t term = raft_term_at(n->core, i);

        if (net->committed_term[i] != 0 && net->committed_term[i] != term)
            violate(net, "node %" PRIu64 " committed %" PRIu64 "/%" PRIu64 ", others %" PRIu64,
                    n->id, i, term, net->committed_term[i]);
        if (net->committed_term[i] == 0)
            net->committed_in[i] = s->term;
        net->committed_term[i] = term;
    }
    n->seen_commit = MAX(n->seen_commit, s->commit);
    net->commit = MAX(net->commit, s->commit);
}

/* Election safety and leader completeness, at the moment a node becomes leader. */
static void check_leader(struct net *net, const struct net_node *n, const struct raft_status *s)
{
    uint64_t *leader = &net->leader_of[s->term % ARRAY_SIZE(net->leader_of)];

    if (*leader == n->id)
        return;
    if (*leader != 0)
        violate(net, "two leaders of term %" PRIu64 ": %" PRIu64 " and %" PRIu64, s->term, *leader,
                n->id);
    *leader = n->id;
    net->elections++;
    for (uint64_t i = s->first; i <= net->commit; i++)
        if (net->committed_in[i] < s->term && raft_term_at(n->core, i) != net->committed_term[i])
            violate(net, "leader %" PRIu64 " of term %" PRIu64 " lacks committed %" PRIu64, n->id,
                    s->term, i);
}

static void check_lease(struct net *net)
{
    uint32_t holders = 0;

    for (uint32_t i = 0; i < net->n; i++) {
        struct raft_status s;

        if (!net_lease(net, i))
            continue;
        holders++;
        raft_get_status(net->nodes[i].core, &s);
        if (s.commit < net->commit)
            violate(net, "node %" PRIu64 " holds the lease of term %" PRIu64 " at commit %" PRIu64
                    ", others have %" PRIu64, s.id, s.term, s.commit, net->commit);
    }
    if (holders > 1)
        violate(net, "%u leases at one time", holders);
}

static void trace_state(struct net *net, struct net_node *n, const struct raft_status *s)
{
    uint32_t learners = 0;

    for (uint32_t i = 0; i < s->n_peers; i++)
        learners += s->peers[i].member_role != RAFT_VOTER;
    if (s->role != n->last_role || s->term != n->last_term || s->commit != n->last_commit ||
        learners != n->last_learners) {
        fprintf(net->trace, "%8.1f     = %" PRIu64 " %s t%" PRIu64 " last=%" PRIu64 " commit=%"
                PRIu64 "%s%s\n", (double)net->now / 1e6, n->id, raft_role_name(s->role), s->term,
                s->last, s->commit, learners ? " learner-in-config" : "",
                s->voter ? "" : " no-voter");
        n->last_learners = learners;
    }
}

static void check_node(struct net *net, struct net_node *n)
{
    struct raft_status s;

    raft_get_status(n->core, &s);
    if (s.last + 8 >= NET_INDEX_MAX || s.term >= ARRAY_SIZE(net->leader_of)) {
        violate(net, "the test is too small");
        return;
    }
    if (s.commit != n->seen_commit)
        check_commit(net, n, &s);
    if (s.role == RAFT_LEADER)
        check_leader(net, n, &s);
    if (net->trace)
        trace_state(net, n, &s);
    n->last_role = s.role;
    n->last_term = s.term;
    n->last_commit = s.commit;
    check_lease(net);
}

/* -- obeying an update ------------------------------------------------------------------------ */

static uint64_t disk_done(struct net *net, struct net_node *n)
{
    uint64_t took = net->disk_min + net_random(net, net->disk_spread + 1);

    if (chance(net, net->disk_slow))
        took += net_random(net, net->disk_slow_max);
    n->disk_at = MAX(n->disk_at, net->now) + took;
    return n->disk_at;
}

static void push_msg(struct net *net, const struct raft_msg *m, uint64_t at)
{
    struct net_node *to = &net->nodes[m->to - 1];
    struct net_event *e = event_new(net, EV_DELIVER, to, at);

    e->msg = *m;
    if (m->type == RAFT_MSG_APPEND && m->append.n > 0) {
        struct raft_entry *copy = tc_malloc(m->append.n * sizeof *copy);

        for (uint32_t i = 0; i < m->append.n; i++) {
            uint8_t *data = tc_malloc(m->append.entries[i].len + 1);

            copy[i] = m->append.entries[i];
            if (copy[i].len > 0)
                memcpy(data, copy[i].data, copy[i].len);
            copy[i].data = data;
        }
        e->msg.append.entries = copy;
    }
    if (m->type == RAFT_MSG_SNAPSHOT) {
        e->config = *m->snapshot.config;
        ASSERT(m->snapshot.len <= sizeof e->data);
        memcpy(e->data, m->snapshot.data, m->snapshot.len);
    }
    heap_push(net, e);
}

static void send_msg(struct net *net, const struct raft_msg *m)
{
    uint32_t copies = 1;

    ASSERT(m->to >= 1 && m->to <= net->n);
    if (net->hold_type_from == ((uint64_t)m->type << 8 | m->from)) {
        net->held = *m;
        net->has_held = true;
        return;
    }
    if (net->cut[m->from - 1][m->to - 1] || chance(net, net->loss))
        return;
    if (chance(net, net->twice))
        copies++;
    while (copies-- > 0) {
        uint64_t at = net->now + net->delay_min + net_random(net, net->delay_spread + 1);

        if (chance(net, net->late))
            at += net_random(net, net->late_max);
        push_msg(net, m, at);
    }
}

static void recs_push(struct net_node *n, const struct raft_entry *e)
{
    uint8_t *data = tc_malloc(e->len + 1);

    if (n->n_recs == n->cap_recs) {
        n->cap_recs = n->cap_recs ? n->cap_recs * 2 : 64;
        n->recs = tc_realloc(n->recs, n->cap_recs * sizeof n->recs[0]);
    }
    if (e->len > 0)
        memcpy(data, e->data, e->len);
    n->recs[n->n_recs].e = *e;
    n->recs[n->n_recs++].e.data = data;
}

static void recs_drop_front(struct net_node *n, size_t k)
{
    for (size_t i = 0; i < k; i++)
        free((void *)(uintptr_t)n->recs[i].e.data);
    memmove(n->recs, n->recs + k, (n->n_recs - k) * sizeof n->recs[0]);
    n->n_recs -= k;
    n->n_synced -= MIN(n->n_synced, k);
}

static void recs_drop_back(struct net_node *n, size_t keep)
{
    while (n->n_recs > keep)
        free((void *)(uintptr_t)n->recs[--n->n_recs].e.data);
    n->n_synced = MIN(n->n_synced, keep);
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ (h >> 29);
}

static void fsm_set(struct net *net, struct net_node *n, uint64_t index, uint64_t hash)
{
    if (net->applied_hash[index] != 0 && net->applied_hash[index] != hash)
        violate(net, "node %" PRIu64 " has another state at %" PRIu64, n->id, index);
    net->applied_hash[index] = hash;
    n->applied = index;
    n->hash = hash;
}

static void want(struct net *net, struct net_node *n, const struct raft_want *w)
{
    struct net_event *e = event_new(net, EV_SNAP, n, disk_done(net, n));
    uint32_t at = (uint32_t)w->offset;
    uint8_t all[SNAP_PIECES * SNAP_PIECE];

    e->step.peer = w->peer;
    if (w->snap_id == 0) {
        struct raft_status s;

        raft_get_status(n->core, &s);
        if (n->snap_id == 0 || n->snap_index + 1 < s.first || n->snap_life != n->life) { /* else it still meets the log */
            n->snap_id = net_random(net, UINT64_MAX - 1) + 1;
            n->snap_index = n->applied;
            n->snap_hash = n->hash;
            n->snap_life = n->life;
        }
        e->step.type = RAFT_EV_SNAP_MADE;
        e->step.index = n->snap_index;
    } else if (w->snap_id != n->snap_id || w->offset >= sizeof all) {
        e->step.type = RAFT_EV_SNAP_FAILED;
    } else {
        memcpy(all, &n->snap_hash, 8);
        memcpy(all + 8, &n->snap_index, 8);
        memcpy(e->data, all + at, SNAP_PIECE);
        e->step.type = RAFT_EV_SNAP_PIECE;
        e->step.offset = w->offset;
        e->step.data = e->data;
        e->step.len = SNAP_PIECE;
        e->step.last = at + SNAP_PIECE == sizeof all;
    }
    e->step.snap_id = n->snap_id;
    heap_push(net, e);
}

static void store_piece(struct net *net, struct net_node *n, const struct raft_msg *m)
{
    struct net_event *e = event_new(net, EV_PIECE, n, disk_done(net, n));

    if (m->snapshot.offset == 0)
        n->in_len = 0;
    if (m->snapshot.offset != n->in_len)
        violate(net, "a piece at %" PRIu64 " of %u", m->snapshot.offset, n->in_len);
    if (n->in_len < 8)
        memcpy((uint8_t *)&n->in_hash + n->in_len, m->snapshot.data, m->snapshot.len);
    n->in_len += m->snapshot.len;
    e->msg = *m;
    e->config = *m->snapshot.config;
    heap_push(net, e);
}

static void node_step(struct net *net, struct net_node *n, struct raft_event *ev);

static void obey(struct net *net, struct net_node *n, const struct raft_update *up)
{
    struct net_event *e;

    if (up->flags & RAFT_SAVE_STATE) {
        e = event_new(net, EV_STATE, n, disk_done(net, n));
        e->save_seq = up->state_seq;
        e->a = up->term;
        e->b = up->vote;
        if (chance(net, net->crash_at_save))
            heap_push(net, event_new(net, EV_CRASH, n,
                                     net->now + net_random(net, e->at - net->now)));
        heap_push(net, e);
    }
    if (up->flags & RAFT_SAVE_ENTRIES) {
        for (uint64_t i = up->save_first; i <= up->save_last; i++)
            recs_push(n, raft_entry_at(n->core, i));
        e = event_new(net, EV_LOG, n, disk_done(net, n));
        e->save_seq = up->save_seq;
        e->n = n->n_recs;
        e->a = n->base_index; /* drops in front shift the count: see EV_LOG */
        heap_push(net, e);
    }
    for (uint32_t i = 0; i < up->n_msgs; i++)
        send_msg(net, &up->msgs[i]);
    if (up->flags & RAFT_APPLY) {
        e = event_new(net, EV_APPLY, n, net->now + net_random(net, net->disk_spread + 1));
        e->a = up->apply_to;
        heap_push(net, e);
    }
    for (uint32_t i = 0; i < up->n_wants; i++)
        want(net, n, &up->wants[i]);
    if (up->flags & RAFT_STORE_PIECE)
        store_piece(net, n, up->piece);
    for (uint32_t i = 0; i < up->n_reads; i++) {
        uint64_t commit = n->read_commit[up->reads[i].seq % 64];

        net->reads += !up->reads[i].failed;
        net->reads_failed += up->reads[i].failed;
        if (net->trace)
            fprintf(net->trace, "%8.1f     = %" PRIu64 " read %" PRIu64 " %s\n", (double)net->now / 1e6, n->id,
                    up->reads[i].seq, up->reads[i].failed ? "failed" : "ready");
        if (!up->reads[i].failed && n->applied < commit)
            violate(net, "node %" PRIu64 " answers a read at %" PRIu64 ", %" PRIu64 " was committed before", n->id,
                    n->applied, commit);
    }
    if (!n->no_tick) {
        uint64_t now = local_now(net, n);
        uint64_t in = up->deadline > now ? true_delay(n, up->deadline - now) : 1000;

        if (n->tick_at <= net->now || net->now + in < n->tick_at) {
            n->tick_at = net->now + in;
            heap_push(net, event_new(net, EV_TICK, n, n->tick_at));
        }
    }
}

static int node_step_err(struct net *net, struct net_node *n, struct raft_event *ev)
{
    struct raft_update up;
    int err;

    ev->now = local_now(net, n);
    err = raft_step(n->core, ev, &up);
    obey(net, n, &up);
    check_node(net, n);
    return err;
}

static void node_step(struct net *net, struct net_node *n, struct raft_event *ev)
{
    (void)node_step_err(net, n, ev); /* a refused request changes nothing */
}

/* -- events ----------------------------------------------------------------------------------- */

static void install(struct net *net, struct net_node *n, const struct net_event *e)
{
    const struct raft_msg *m = &e->msg;
    struct raft_event step = {.snap_id = m->snapshot.id};

    if (!m->snapshot.last) {
        step.type = RAFT_EV_SNAP_STORED;
        step.offset = m->snapshot.offset + m->snapshot.len;
        node_step(net, n, &step);
        return;
    }
    net->snapshots++;
    n->fsm_index = n->base_index = m->snapshot.index;
    n->fsm_hash = n->in_hash;
    n->base_term = m->snapshot.index_term;
    n->base_config = e->config;
    if (raft_term_at(n->core, m->snapshot.index) != m->snapshot.index_term)
        recs_drop_front(n, n->n_recs);
    fsm_set(net, n, n->fsm_index, n->fsm_hash);
    n->seen_commit = n->fsm_index;
    step.type = RAFT_EV_SNAP_INSTALLED;
    node_step(net, n, &step);
}

static void apply(struct net *net, struct net_node *n, uint64_t to)
{
    struct raft_event step = {.type = RAFT_EV_APPLIED, .index = to};

    while (n->applied < to) {
        const struct raft_entry *e = raft_entry_at(n->core, n->applied + 1);
        uint64_t h = n->hash;

        if (!e) {
            violate(net, "node %" PRIu64 " has no entry %" PRIu64, n->id, n->applied + 1);
            return;
        }
        h = mix(mix(mix(h, e->index), e->term), e->type);
        for (uint32_t i = 0; i < e->len; i++)
            h = mix(h, e->data[i]);
        fsm_set(net, n, e->index, h ? h : 1);
    }
    node_step(net, n, &step);
}

static void trace_msg(struct net *net, const struct raft_msg *m)
{
    char line[200];

    if (!net->trace || (m->type == RAFT_MSG_APPEND && m->append.n == 0))
        return;
    if (m->type == RAFT_MSG_APPEND_RES && !m->append_res.reject) {
        uint64_t *last = &net->traced[m->from - 1][m->to - 1];

        if (*last == m->append_res.match)
            return;
        *last = m->append_res.match;
    }
    raft_msg_format(m, line, sizeof line);
    fprintf(net->trace, "%8.1f %s\n", (double)net->now / 1e6, line);
}

static void run_event(struct net *net, struct net_event *e)
{
    struct net_node *n = &net->nodes[e->node];
    struct raft_event step = {0};

    if (!n->core || (e->life != n->life && e->kind != EV_DELIVER))
        return;
    switch (e->kind) {
    case EV_DELIVER:
        trace_msg(net, &e->msg);
        if (e->msg.type == RAFT_MSG_SNAPSHOT) {
            e->msg.snapshot.config = &e->config;
            e->msg.snapshot.data = e->data;
        }
        step.type = RAFT_EV_RECV;
        step.recv = &e->msg;
        node_step(net, n, &step);
        break;
    case EV_TICK:
        step.type = RAFT_EV_TICK;
        if (!n->no_tick)
            node_step(net, n, &step);
        break;
    case EV_STATE:
        n->term = e->a;
        n->vote = e->b;
        step.type = RAFT_EV_STATE_SAVED;
        step.seq = e->save_seq;
        node_step(net, n, &step);
        break;
    case EV_LOG:
        n->n_synced = MAX(n->n_synced, MIN(e->n, n->n_recs));
        step.type = RAFT_EV_PERSISTED;
        step.seq = e->save_seq;
        node_step(net, n, &step);
        break;
    case EV_APPLY:
        apply(net, n, e->a);
        break;
    case EV_PIECE:
        install(net, n, e);
        break;
    case EV_SNAP:
        node_step(net, n, &e->step);
        break;
    case EV_CRASH:
        net_crash(net, e->node);
        net_start(net, e->node);
        break;
    }
}

void net_run(struct net *net, uint64_t ms)
{
    uint64_t end = net->now + ms * NS_PER_MS;

    while (net->n_heap > 0 && net->heap[0]->at <= end && !net->violation[0]) {
        struct net_event *e = heap_pop(net);
        struct net_node *n = &net->nodes[e->node];

        net->now = MAX(net->now, e->at);
        if (n->paused_until > net->now) {
            e->at = n->paused_until;
            heap_push(net, e);
            continue;
        }
        run_event(net, e);
        event_free(e);
    }
    net->now = MAX(net->now, end);
}

/* -- nodes ------------------------------------------------------------------------------------ */

static void default_config(const struct net *net, struct raft_config *c)
{
    c->n = net->n;
    for (uint32_t i = 0; i < net->n; i++)
        c->members[i] = (struct raft_member){i + 1, 0, RAFT_VOTER};
}

struct net *net_new(uint32_t n, uint64_t seed, uint32_t rules_off)
{
    struct net *net = tc_calloc(1, sizeof *net);
    struct raft_entry first = {.index = 1, .term = 1, .type = RAFT_ENTRY_CONFIG};
    uint8_t buf[RAFT_CONFIG_BYTES_MAX];
    struct raft_config c = {0};

    net->n = n;
    net->rng = seed;
    net->rules_off = rules_off;
    net->now = NS_PER_S;
    net->delay_min = net->disk_min = NS_PER_MS;
    default_config(net, &c);
    first.len = raft_config_encode(&c, buf);
    first.data = buf;
    for (uint32_t i = 0; i < n; i++) {
        net->nodes[i].id = i + 1;
        net->nodes[i].clock_permille = 1000;
        net->nodes[i].term = 1;
        recs_push(&net->nodes[i], &first);
        net->nodes[i].n_synced = 1;
    }
    return net;
}

void net_start(struct net *net, uint32_t i)
{
    struct net_node *n = &net->nodes[i];
    struct raft_cfg cfg = {
        .id = n->id, .now = local_now(net, n), .seed = net_random(net, UINT64_MAX),
        .term = n->term, .vote = n->vote, .incarnation = n->incarnation,
        .base_index = n->base_index, .base_term = n->base_term, .base_config = n->base_config,
        .log_bytes_max = net->log_bytes_max, .rules_off = net->rules_off, .append_bytes_max = 64,
    };
    struct raft_event step = {.type = RAFT_EV_FLUSH};

    n->life++;
    n->core = raft_new(&cfg);
    for (size_t k = 0; k < n->n_recs; k++)
        if (raft_restore_entry(n->core, &n->recs[k].e) < 0)
            violate(net, "node %" PRIu64 ": bad entry in its log", n->id);
    if (raft_restore_done(n->core, n->fsm_index) < 0) {
        violate(net, "node %" PRIu64 ": damaged log", n->id);
        n->core = raft_free(n->core);
        return;
    }
    n->applied = n->fsm_index;
    n->hash = n->fsm_hash;
    n->seen_commit = n->fsm_index;
    n->tick_at = 0;
    n->disk_at = net->now;
    n->last_role = RAFT_FOLLOWER;
    n->last_term = 0;
    node_step(net, n, &step);
}

void net_crash(struct net *net, uint32_t i)
{
    struct net_node *n = &net->nodes[i];

    if (!n->core)
        return;
    n->core = raft_free(n->core);
    n->life++;
    n->paused_until = 0;
    if (net->trace)
        fprintf(net->trace, "%8.1f     = %" PRIu64 " crashed\n", (double)net->now / 1e6, n->id);
    recs_drop_back(n, n->n_synced + net_random(net, n->n_recs - n->n_synced + 1));
    n->n_synced = n->n_recs;
    n->snap_id = 0;
}

void net_wipe(struct net *net, uint32_t i)
{
    struct net_node *n = &net->nodes[i];

    net_crash(net, i);
    if (net->trace)
        fprintf(net->trace, "%8.1f     = %" PRIu64 " lost its disk\n", (double)net->now / 1e6, n->id);
    recs_drop_back(n, 0);
    n->term = n->vote = n->base_index = n->base_term = n->fsm_index = n->fsm_hash = 0;
    n->base_config.n = 0;
    n->incarnation = net_random(net, UINT64_MAX - 1) + 1;
}

struct net *net_free(struct net *net)
{
    net->trace = NULL;
    for (uint32_t i = 0; i < net->n; i++) {
        net_crash(net, i);
        recs_drop_back(&net->nodes[i], 0);
        free(net->nodes[i].recs);
    }
    while (net->n_heap > 0)
        event_free(heap_pop(net));
    free(net->heap);
    free(net);
    return NULL;
}

void net_pause(struct net *net, uint32_t i, uint64_t ms)
{
    net->nodes[i].paused_until = net->now + ms * NS_PER_MS;
}

void net_isolate(struct net *net, uint32_t i, bool cut)
{
    for (uint32_t j = 0; j < net->n; j++)
        if (j != i)
            net->cut[i][j] = net->cut[j][i] = cut;
}

void net_heal(struct net *net)
{
    memset(net->cut, 0, sizeof net->cut);
}

void net_preload(struct net *net, uint32_t i, const uint64_t *terms, uint32_t n, uint64_t term)
{
    struct net_node *d = &net->nodes[i];

    recs_drop_back(d, 1);
    for (uint32_t k = 0; k < n; k++) {
        struct raft_entry e = {.index = k + 2, .term = terms[k], .type = RAFT_ENTRY_DATA};

        recs_push(d, &e);
    }
    d->n_synced = d->n_recs;
    d->term = term;
    d->vote = 0;
}

int net_propose(struct net *net, uint32_t i, const char *text)
{
    struct net_node *n = &net->nodes[i];
    uint64_t index;

    if (!n->core || n->paused_until > net->now ||
        raft_propose(n->core, text, (uint32_t)strlen(text), &index) < 0)
        return -1;
    net->proposals++;
    return net_event(net, i, RAFT_EV_FLUSH, 0, 0);
}

int net_event(struct net *net, uint32_t i, uint32_t type, uint64_t peer, uint64_t index)
{
    struct raft_event step = {.type = type, .peer = peer, .index = index};

    if (!net->nodes[i].core)
        return -1;
    return node_step_err(net, &net->nodes[i], &step);
}

int net_read(struct net *net, uint32_t i)
{
    struct net_node *n = &net->nodes[i];
    struct raft_event step = {.type = RAFT_EV_READ, .seq = ++n->read_seq};

    n->read_commit[step.seq % 64] = net->commit;
    return n->core && n->paused_until <= net->now ? node_step_err(net, n, &step) : -1;
}

int net_change(struct net *net, uint32_t i, uint64_t peer, uint32_t role)
{
    struct raft_event step = {.type = RAFT_EV_CHANGE, .peer = peer, .member_role = role};
    int err;

    if (!net->nodes[i].core)
        return -1;
    err = node_step_err(net, &net->nodes[i], &step);
    net->changes += err == 0;
    return err;
}

void net_compact(struct net *net, uint32_t i, uint64_t keep)
{
    struct net_node *n = &net->nodes[i];
    struct raft_status s;
    size_t k = 0;

    if (!n->core || n->applied <= keep)
        return;
    raft_get_status(n->core, &s);
    if (s.installing)
        return;
    n->fsm_index = n->applied;
    n->fsm_hash = n->hash;
    (void)net_event(net, i, RAFT_EV_COMPACT, 0, n->applied - keep);
    raft_get_status(n->core, &s);
    n->base_index = s.first - 1;
    n->base_term = raft_term_at(n->core, n->base_index);
    n->base_config = *raft_config_at(n->core, n->base_index);
    while (k < n->n_synced && n->recs[k].e.index <= n->base_index)
        k++;
    /* Counts of saves under way no longer fit: do it when the log is quiet. */
    if (s.persisted == s.last)
        recs_drop_front(n, k);
}

int net_leader(const struct net *net)
{
    uint64_t term = 0;
    int leader = -1;

    for (uint32_t i = 0; i < net->n; i++) {
        struct raft_status s;

        if (!net->nodes[i].core)
            continue;
        raft_get_status(net->nodes[i].core, &s);
        if (s.role == RAFT_LEADER && s.term > term) {
            term = s.term;
            leader = (int)i;
        }
    }
    return leader;
}

bool net_lease(const struct net *net, uint32_t i)
{
    const struct net_node *n = &net->nodes[i];

    return n->core && raft_lease_valid(n->core, local_now(net, n));
}

void net_release(struct net *net)
{
    ASSERT(net->has_held);
    net->hold_type_from = 0;
    net->has_held = false;
    push_msg(net, &net->held, net->now);
}

void net_status(const struct net *net, uint32_t i, struct raft_status *s)
{
    ASSERT(net->nodes[i].core);
    raft_get_status(net->nodes[i].core, s);
}

bool net_converged(const struct net *net)
{
    if (net_leader(net) < 0)
        return false;
    for (uint32_t i = 0; i < net->n; i++) {
        const struct net_node *n = &net->nodes[i];
        struct raft_status s;

        if (!n->core)
            return false;
        raft_get_status(n->core, &s);
        if (!s.voter || s.applied != s.last || s.last != net->commit || n->applied != s.applied ||
            n->hash != net->nodes[0].hash)
            return false;
    }
    return true;
}

/* -- the random run --------------------------------------------------------------------------- */

/* A disk may be lost while all others are whole and everyone agrees on who votes. */
static bool may_wipe(const struct net *net)
{
    if (net->n < 3)
        return false; /* an operator's case: the rest has no quorum */
    for (uint32_t i = 0; i < net->n; i++) {
        struct raft_status s;

        if (!net->nodes[i].core)
            return false;
        raft_get_status(net->nodes[i].core, &s);
        if (!s.voter || s.config_index > s.commit)
            return false;
        for (uint32_t k = 0; k < s.n_peers; k++)
            if (s.peers[k].member_role != RAFT_VOTER || s.n_peers != net->n ||
                s.peers[k].incarnation != net->nodes[s.peers[k].id - 1].incarnation)
                return false;
    }
    return true;
}

/* No disk was lost that the leader does not know of yet: what it takes for a voter is one. */
static bool known_whole(const struct net *net, uint32_t leader)
{
    struct raft_status s;

    raft_get_status(net->nodes[leader].core, &s);
    for (uint32_t k = 0; k < s.n_peers; k++)
        if (s.peers[k].incarnation != net->nodes[s.peers[k].id - 1].incarnation)
            return false;
    return true;
}

static void fault(struct net *net)
{
    uint32_t i = (uint32_t)net_random(net, net->n);
    uint32_t j = (uint32_t)net_random(net, net->n);
    int leader = net_leader(net);

    if (leader >= 0 && chance(net, 300))
        i = (uint32_t)leader;
    switch (net_random(net, 17)) {
    case 0:
    case 1:
        net_crash(net, i);
        if (chance(net, 500))
            net_start(net, i);
        break;
    case 2:
        if (may_wipe(net))
            net_wipe(net, i);
        break;
    case 3:
        net_pause(net, i, net_random(net, 1200));
        break;
    case 4:
        net_isolate(net, i, true);
        break;
    case 5:
        net->cut[i][j] = true;
        break;
    case 6:
        net_heal(net);
        break;
    case 7:
        net_compact(net, i, net_random(net, 8));
        break;
    case 8:
        if (leader >= 0)
            (void)net_event(net, (uint32_t)leader, RAFT_EV_TRANSFER, 0, 0);
        break;
    case 9: /* power fails everywhere, and comes back */
        for (uint32_t k = 0; k < net->n; k++)
            net_crash(net, k);
        for (uint32_t k = 0; k < net->n; k++)
            if (chance(net, 800))
                net_start(net, k);
        break;
    case 10: /* leader and one other do not hear each other; the rest hear both */
        if (leader >= 0) {
            net_heal(net);
            net->cut[leader][j] = net->cut[j][leader] = true;
        }
        break;
    case 11: /* the leader and the newest copy go at once */
        if (leader >= 0 && may_wipe(net) && (int)i != leader) {
            net_crash(net, (uint32_t)leader);
            net_wipe(net, i);
            net_start(net, i);
            if (chance(net, 500))
                net_start(net, (uint32_t)leader);
        }
        break;
    case 12:
    case 13: /* an operator, who may be wrong: unsafe changes are refused */
        if (leader >= 0 && known_whole(net, (uint32_t)leader)) {
            static const uint32_t roles[] = {RAFT_REMOVED, RAFT_STANDBY, RAFT_VOTER, RAFT_VOTER};

            (void)net_change(net, (uint32_t)leader, i + 1, roles[net_random(net, 4)]);
        }
        break;
    default: /* most of the time something comes back */
        for (uint32_t k = 0; k < net->n; k++)
            if (!net->nodes[k].core && chance(net, 500))
                net_start(net, k);
        if (chance(net, 300))
            net_heal(net);
        break;
    }
}

static void draw_options(struct net *net)
{
    static const uint32_t losses[] = {0, 0, 10, 100};

    net->loss = losses[net_random(net, 4)];
    net->twice = (uint32_t)net_random(net, 50);
    net->late = (uint32_t)net_random(net, 30);
    net->late_max = (1 + net_random(net, 1500)) * NS_PER_MS;
    net->delay_min = 100 * NS_PER_US;
    net->delay_spread = (1 + net_random(net, 20)) * NS_PER_MS;
    net->disk_min = 50 * NS_PER_US;
    net->disk_spread = (1 + net_random(net, 10)) * NS_PER_MS;
    net->disk_slow = (uint32_t)net_random(net, 60);
    net->crash_at_save = (uint32_t)net_random(net, 100);
    net->disk_slow_max = (1 + net_random(net, 2500)) * NS_PER_MS;
    for (uint32_t i = 0; i < net->n; i++) {
        net->nodes[i].clock_permille = 960 + (uint32_t)net_random(net, 80);
        net->nodes[i].clock_offset = (int64_t)(net_random(net, 1000) * NS_PER_S);
    }
}

/* Whoever was removed, or added and not promoted, becomes a voter again. */
static void bring_back(struct net *net)
{
    int leader = net_leader(net);

    for (uint32_t i = 0; i < net->n && leader >= 0; i++) {
        if (net_change(net, (uint32_t)leader, i + 1, RAFT_STANDBY) != 0)
            (void)net_change(net, (uint32_t)leader, i + 1, RAFT_VOTER);
    }
}

static void calm(struct net *net)
{
    net->loss = net->twice = net->late = net->disk_slow = net->crash_at_save = 0;
    net_heal(net);
    for (uint32_t i = 0; i < net->n; i++)
        if (!net->nodes[i].core)
            net_start(net, i);
    for (int k = 0; k < 60 && !net->violation[0]; k++) {
        net_run(net, 500);
        bring_back(net);
        if (k > 4 && net_converged(net))
            return;
    }
    violate(net, "no convergence");
}

bool net_random_run(uint64_t seed, uint32_t rules_off, char *ret_violation, size_t size,
                    uint64_t counters[6])
{
    static const uint32_t sizes[] = {3, 3, 3, 5, 2, 1};
    struct net *net;
    uint64_t fault_ms;
    bool good;

    net = net_new(sizes[seed % ARRAY_SIZE(sizes)], seed, rules_off);
    draw_options(net);
    if (getenv("TC_RAFT_TRACE"))
        net->trace = stderr;
    fault_ms = 50 + net_random(net, 400);
    for (uint32_t i = 0; i < net->n; i++)
        net_start(net, i);
    net_run(net, 700);
    for (int k = 0; k < 60 && !net->violation[0]; k++) {
        char text[32];

        net_run(net, net_random(net, fault_ms));
        for (uint32_t i = 0; i < net->n * 3; i++) {
            snprintf(text, sizeof text, "%" PRIu64 ".%d.%u", seed, k, i);
            if (chance(net, 500))
                (void)net_propose(net, i % net->n, text);
            if (chance(net, 200))
                (void)net_read(net, i % net->n);
        }
        fault(net);
    }
    if (!net->violation[0] && rules_off == 0)
        calm(net); /* without a rule only safety is asked for: it must fail in earnest */
    good = !net->violation[0];
    snprintf(ret_violation, size, "%s", net->violation);
    counters[0] += net->elections;
    counters[1] += net->snapshots;
    counters[2] += net->proposals;
    counters[3] += net->commit;
    counters[4] += net->changes;
    counters[5] += net->reads;
    net_free(net);
    return good;
}
