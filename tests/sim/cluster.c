/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Booting, formatting and killing what the cluster is made of.
 */
#include "sim/cluster.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "sim/actor.h"
#include "sim/nemesis.h"

/* ---- the log: the last lines are kept for the report of a failure --------------------------------- */

enum { LOG_LINES = 400, LOG_LINE = 400 };

static char log_ring[LOG_LINES][LOG_LINE];
static uint64_t log_n;
static struct cluster *log_cluster;

static void log_line(void *arg, const char *line)
{
    struct cluster *c = log_cluster;
    char *out = log_ring[log_n++ % LOG_LINES];

    (void)arg;
    if (c && c->watch_log)
        c->watch_log(line);
    if (c && c->strike_log)
        c->strike_log(c->strike_arg, line);
    snprintf(out, LOG_LINE, "%10.6f %.*s", c ? (double)sim_now(c->s) / 1e9 : 0.0, (int)strcspn(line, "\n"), line);
    if (c && c->opt.verbose)
        fprintf(stderr, "%s\n", out);
}

void cluster_log(struct cluster *c, const char *fmt, ...)
{
    char line[LOG_LINE];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    log_cluster = c;
    log_line(NULL, line);
}

void cluster_dump_log(void)
{
    for (uint64_t i = log_n > LOG_LINES ? log_n - LOG_LINES : 0; i < log_n; i++)
        fprintf(stderr, "%s\n", log_ring[i % LOG_LINES]);
}

void cluster_fail(struct cluster *c, const char *fmt, ...)
{
    va_list ap;

    if (c->failed)
        return;
    c->failed = true;
    va_start(ap, fmt);
    vsnprintf(c->why, sizeof c->why, fmt, ap);
    va_end(ap);
    cluster_log(c, "FAILED: %s", c->why);
}

/* ---- lives ---------------------------------------------------------------------------------------- */

static void client_new_life(struct client *cl)
{
    struct cluster *c = cl->c;

    if (c->n_lives == c->lives_cap) {
        c->lives_cap = c->lives_cap ? 2 * c->lives_cap : 64;
        c->lives = tc_realloc(c->lives, c->lives_cap * sizeof *c->lives);
    }
    cl->life = c->n_lives;
    c->lives[c->n_lives++] = (struct life){.client = cl->index, .process = cl->kills};
}

void client_life_lost(struct client *cl, const char *why)
{
    struct life *l = &cl->c->lives[cl->life];

    l->lost = true;
    snprintf(l->why, sizeof l->why, "%s", why);
    cluster_log(cl->c, "client %u life %u ended: %s", cl->index, cl->life, why);
    client_new_life(cl);
}

void client_disturb(struct client *cl, bool on)
{
    uint64_t now = sim_now(cl->c->s);

    if (on && !cl->disturbed_since)
        cl->disturbed_since = now + 1;
    if (!on && cl->disturbed_since) {
        if (now - cl->disturbed_since > cl->c->opt.ttl_ms * NS_PER_MS / 2)
            cl->c->lives[cl->life].disturbed = true;
        cl->disturbed_since = 0;
    }
}

bool life_same_process(struct cluster *c, uint32_t a, uint32_t b)
{
    return c->lives[a].client == c->lives[b].client && c->lives[a].process == c->lives[b].process;
}

bool life_may_lose(struct cluster *c, uint32_t life)
{
    struct life *l = &c->lives[life];
    struct client *cl = &c->clients[l->client];

    if (cl->life == life && cl->disturbed_since) {
        client_disturb(cl, false);
        client_disturb(cl, true);
    }
    return l->lost || l->disturbed;
}

/* ---- members -------------------------------------------------------------------------------------- */

static void member_on_failed(void *arg, int err, const char *what)
{
    struct member *m = arg;

    cluster_log(m->c, "member %u gives up: %s (%s)", m->id, tc_error_name(err), what);
    m->fatal = true;
}

void member_boot(struct member *m)
{
    struct cluster *c = m->c;
    struct meta_member all[MEMBERS_MAX];
    struct meta_server_config cfg = {.id = m->id, .members = all, .dir = "meta", .failed = member_on_failed, .arg = m,
                                     .keep_entries = c->opt.keep_entries,
                                     .check_interval_ns = c->opt.faults & FAULT_DAMAGE ? 2 * NS_PER_S : 0,
                                     .kv_mem = true, .session_ttl_ms = c->opt.ttl_ms, .checkpoint_ms = 5000,
                                     .rules_off = (uint32_t)c->opt.rules_off[RULE_META],
                                     .raft_rules_off = (uint32_t)c->opt.rules_off[RULE_RAFT],
                                     .fsm_rules_off = (uint32_t)c->opt.rules_off[RULE_FSM]};
    struct env *env;
    char why[512] = "";
    int r;

    for (unsigned i = 0; i < c->n_members; i++)
        if (c->members[i].in || &c->members[i] == m)
            all[cfg.n_members++] = (struct meta_member){c->members[i].id, c->members[i].endpoint};
    m->stopping = m->stopped = m->fatal = false;
    env = sim_node_boot(m->node);
    r = meta_server_open(env, &cfg, why, sizeof why, &m->server);
    if (r) {
        m->server = NULL;
        sim_node_kill(m->node);
        if (m->leaving)
            cluster_log(c, "member %u does not start again: %s", m->id, why);
        else
            cluster_fail(c, "member %u does not open: %s (%s)", m->id, tc_error_name(r), why);
        m->down = m->leaving;
        return;
    }
    m->boots++;
    cluster_log(c, "member %u booted", m->id);
}

void member_kill(struct member *m)
{
    sim_node_kill(m->node);
    m->server = meta_server_close(m->server);
    cluster_log(m->c, "member %u killed", m->id);
}

struct member *cluster_leader(struct cluster *c)
{
    for (unsigned i = 0; i < c->n_members; i++)
        if (c->members[i].server && !sim_node_paused(c->members[i].node) && meta_server_leads(c->members[i].server))
            return &c->members[i];
    return NULL;
}

/* ---- stores --------------------------------------------------------------------------------------- */

static int store_kv_open(void *arg, struct env *env, const char *path, struct kv **ret_kv)
{
    (void)arg;
    return kv_open_mem(env_vfs(env), path, ret_kv);
}

static void store_on_fatal(void *arg, int err, const char *why)
{
    struct store *s = arg;

    cluster_log(s->c, "store %u gives up: %s (%s)", s->id, tc_error_name(err), why ? why : "");
    s->fatal = true;
}

void store_boot(struct store *s)
{
    struct cluster *c = s->c;
    const char *metas[MEMBERS_MAX];
    struct storage_config cfg = {.node = s->id,
                                 .dir = "store",
                                 .scrub_interval_ns = c->opt.faults & (FAULT_ROT | FAULT_DAMAGE) ? 2 * NS_PER_S : 0,
                                 .pending_bytes = c->opt.faults & (FAULT_ROT | FAULT_DAMAGE) ? 64 << 10 : 0, /* little outside of files */
                                 .listen = s->endpoint,
                                 .metas = metas,
                                 .kv_open = store_kv_open,
                                 .journal = {.segment_bytes = 4 << 20, .spare_max = 2},
                                 .fatal = store_on_fatal,
                                 .fatal_arg = s};
    struct env *env;
    int r;

    for (unsigned i = 0; i < c->n_members; i++)
        if (c->members[i].in)
            metas[cfg.n_metas++] = c->members[i].endpoint;
    s->fatal = false;
    env = sim_node_boot(s->node);
    r = storage_server_open(env, &cfg, &s->server);
    if (r) {
        s->server = NULL;
        sim_node_kill(s->node);
        cluster_fail(c, "store %u does not open: %s", s->id, tc_error_name(r));
    }
    cluster_log(c, "store %u booted", s->id);
}

void store_kill(struct store *s)
{
    sim_node_kill(s->node);
    storage_server_close(s->server);
    s->server = NULL;
    cluster_log(s->c, "store %u killed", s->id);
}

/* ---- clients -------------------------------------------------------------------------------------- */

static void client_on_ready(void *arg, int status)
{
    struct client *cl = arg;

    cl->open_status = status;
    cl->ready = status == 0;
    cluster_log(cl->c, "client %u ready: %s", cl->index, tc_error_name(status));
    if (status)
        cluster_fail(cl->c, "client %u cannot open a session: %s", cl->index, tc_error_name(status));
}

void client_boot(struct client *cl)
{
    struct cluster *c = cl->c;
    const char *members[MEMBERS_MAX];
    char name[32];
    struct tc_client_config cfg = {.members = members, .name = name, .wait_ms = UINT64_MAX};
    struct env *env;
    int r;

    cfg.read_anywhere = (c->opt.seed + cl->index) % 4 == 0;
    snprintf(name, sizeof name, "sim:/c%u", cl->index);
    for (unsigned i = 0; i < c->n_members; i++)
        if (c->members[i].in)
            members[cfg.n_members++] = c->members[i].endpoint;
    env = sim_node_boot(cl->node);
    client_new_life(cl);
    r = tc_client_open(env, &cfg, client_on_ready, cl, &cl->tc);
    if (r)
        cluster_fail(c, "client %u does not open: %s", cl->index, tc_error_name(r));
}

void client_kill(struct client *cl)
{
    client_disturb(cl, false);
    cl->kills++;
    client_life_lost(cl, "killed");
    cl->ready = false;
    sim_node_kill(cl->node);
    tc_client_free(cl->tc);
    cl->tc = NULL;
    actors_killed(cl);
}

/* ---- format --------------------------------------------------------------------------------------- */

/* What `tercet format` does: sends genesis to every member until each has it. */
struct tool {
    struct cluster *c;
    struct sim_node *node;
    struct env *env;
    struct env_timer timer;
    bool foreign;
    unsigned n_meta;
    struct tool_peer {
        struct tool *t;
        struct net_port *port;
        bool formatted;
    } peers[METAS_MAX];
};

/*
 * One member of many cannot lead with the files of another cluster. One that is a whole group of one does, by right: nothing
 * tells it from the other cluster, and it never gives its files up (replica_foreign()).
 */
static unsigned foreign_metas(const struct cluster *c)
{
    return MAX(c->opt.n_meta, 3U);
}

static void tool_on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct tool_peer *p = arg;
    struct wire_header h;
    struct slice body;

    (void)peer;
    (void)payload;
    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0 || h.kind != WIRE_REPLY)
        return;
    if (h.status == 0 || tc_error_from_wire(h.status) == -TC_E_ALREADY_FORMATTED)
        p->formatted = true;
    else
        cluster_log(p->t->c, "format: %s", tc_error_name(tc_error_from_wire(h.status)));
}

static void tool_endpoint(const struct tool *t, unsigned i, char ret[32])
{
    snprintf(ret, 32, "tcp://%c%u:7101", t->foreign ? 'x' : 'm', i + 1);
}

static void tool_on_timer(struct env_timer *t)
{
    struct tool *tool = container_of(t, struct tool, timer);
    struct cluster *c = tool->c;
    static const uint8_t ids[2][16] = {"simulatedcluster", "anothersimulated"}, key[16] = "keyofthecookies!";
    struct member_info members[METAS_MAX];
    char endpoints[METAS_MAX][32];
    struct genesis g = {.cluster = {ids[tool->foreign], 16}, .name = wire_str_of("sim"), .n = c->opt.n, .w = c->opt.w, .r = c->opt.r,
                        .pg_count = c->opt.pg_count, .siphash_key = {key, 16}, .time = env_realtime(tool->env),
                        .stores = c->opt.n_store, .root_mode = 0755};

    for (unsigned i = 0; i < tool->n_meta; i++) {
        tool_endpoint(tool, i, endpoints[i]);
        members[i] = (struct member_info){.id = i + 1, .endpoint = wire_str_of(endpoints[i])};
    }
    g.members.items = members;
    g.members.n = tool->n_meta;
    g.time = UINT64_C(1700000000) * NS_PER_S; /* the same in every copy */
    for (unsigned i = 0; i < tool->n_meta; i++) {
        struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_FORMAT, .id = 1 + i};

        if (!tool->peers[i].formatted)
            env_send(tool->peers[i].port, 0, wire_encode_frame(&h, &genesis_schema, &g), NULL);
    }
    env_timer_set(tool->env, t, env_now(tool->env) + 200 * NS_PER_MS);
}

static bool tool_done(struct cluster *c)
{
    for (unsigned i = 0; i < c->tool->n_meta; i++)
        if (!c->tool->peers[i].formatted)
            return false;
    return true;
}

static void cluster_format(struct cluster *c, bool foreign)
{
    struct tool *t = c->tool = tc_calloc(1, sizeof *t);
    char endpoint[32];

    t->c = c;
    t->foreign = foreign;
    t->n_meta = foreign ? foreign_metas(c) : c->opt.n_meta;
    t->node = sim_node_new(c->s, foreign ? "xtool" : "tool");
    t->env = sim_node_boot(t->node);
    for (unsigned i = 0; i < t->n_meta; i++) {
        t->peers[i].t = t;
        tool_endpoint(t, i, endpoint);
        ASSERT(env_connect(t->env, endpoint, tool_on_msg, &t->peers[i], &t->peers[i].port) == 0);
    }
    t->timer.fn = tool_on_timer;
    env_timer_set(t->env, &t->timer, 0);
    if (!cluster_run(c, sim_now(c->s) + 30 * NS_PER_S, tool_done))
        cluster_fail(c, "the cluster cannot be formatted");
    env_timer_cancel(t->env, &t->timer);
    for (unsigned i = 0; i < t->n_meta; i++)
        env_port_close(t->peers[i].port);
    sim_node_kill(t->node);
    free(TAKE(c->tool));
}

/* Another cluster lives for a moment: what its members leave is what may be found in the place of a member's files. */
static void cluster_live_foreign(struct cluster *c)
{
    struct meta_server *servers[METAS_MAX];
    struct meta_member all[METAS_MAX];
    char endpoints[METAS_MAX][32], host[16];
    unsigned n = foreign_metas(c);

    for (unsigned i = 0; i < n; i++) {
        snprintf(host, sizeof host, "x%u", i + 1);
        snprintf(endpoints[i], sizeof endpoints[i], "tcp://%s:7101", host);
        c->foreign[i] = sim_node_new(c->s, host);
        all[i] = (struct meta_member){i + 1, endpoints[i]};
    }
    for (unsigned i = 0; i < n; i++) {
        struct meta_server_config cfg = {.id = i + 1, .members = all, .n_members = n, .dir = "meta", .kv_mem = true};

        ASSERT(meta_server_open(sim_node_boot(c->foreign[i]), &cfg, NULL, 0, &servers[i]) == 0);
    }
    cluster_format(c, true);
    cluster_run_until(c, sim_now(c->s) + 2 * NS_PER_S);
    for (unsigned i = 0; i < n; i++) {
        sim_node_kill(c->foreign[i]);
        meta_server_close(servers[i]);
    }
}

/* ---- the cluster ---------------------------------------------------------------------------------- */

struct sim_node *cluster_node(struct cluster *c, unsigned i)
{
    if (i < c->opt.n_meta)
        return c->members[i].node;
    i -= c->opt.n_meta;
    if (i < c->opt.n_store)
        return c->stores[i].node;
    i -= c->opt.n_store;
    if (i < c->opt.n_client)
        return c->clients[i].node;
    i += c->opt.n_meta - c->opt.n_client;
    return i < c->n_members ? c->members[i].node : NULL;
}

static void member_new(struct cluster *c, bool in)
{
    unsigned i = c->n_members++;
    struct member *m = &c->members[i];
    char host[16];

    snprintf(host, sizeof host, "m%u", i + 1);
    *m = (struct member){.c = c, .id = i + 1, .node = sim_node_new(c->s, host), .in = in, .down = !in};
    snprintf(m->endpoint, sizeof m->endpoint, "tcp://%s:7101", host);
}

struct cluster *cluster_new(const struct cluster_options *opt)
{
    struct cluster *c = tc_calloc(1, sizeof *c);
    char host[16];

    c->opt = *opt;
    c->s = sim_new(opt->seed);
    log_cluster = c;
    log_n = 0;
    log_set_sink(log_line, NULL);
    log_setup(opt->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, 2);
    for (unsigned i = 0; i < opt->n_meta; i++)
        member_new(c, true);
    for (unsigned i = 0; i < opt->n_store; i++) {
        struct store *s = &c->stores[i];

        snprintf(host, sizeof host, "s%u", i + 1);
        *s = (struct store){.c = c, .id = i + 1, .node = sim_node_new(c->s, host)};
        snprintf(s->endpoint, sizeof s->endpoint, "tcp://%s:7201", host);
    }
    for (unsigned i = 0; i < opt->n_client; i++) {
        snprintf(host, sizeof host, "c%u", i + 1);
        c->clients[i] = (struct client){.c = c, .index = i, .node = sim_node_new(c->s, host)};
    }
    for (unsigned i = 0; (opt->faults & FAULT_MEMBERS) && i < SPARES_MAX; i++)
        member_new(c, false);
    return c;
}

static bool all_ready(struct cluster *c)
{
    for (unsigned i = 0; i < c->opt.n_client; i++)
        if (!c->clients[i].ready)
            return false;
    return true;
}

bool cluster_start(struct cluster *c)
{
    if (c->opt.faults & FAULT_DAMAGE)
        cluster_live_foreign(c);
    for (unsigned i = 0; i < c->opt.n_meta && !c->failed; i++)
        member_boot(&c->members[i]);
    for (unsigned i = 0; i < c->opt.n_store && !c->failed; i++)
        store_boot(&c->stores[i]);
    if (!c->failed)
        cluster_format(c, false);
    for (unsigned i = 0; i < c->opt.n_client && !c->failed; i++)
        client_boot(&c->clients[i]);
    if (!cluster_run(c, sim_now(c->s) + 60 * NS_PER_S, all_ready))
        cluster_fail(c, "clients do not get sessions");
    return !c->failed;
}

/* Those whose disk froze in the middle of something have crashed: end them. */
static void cluster_reap(struct cluster *c)
{
    for (unsigned i = 0; i < c->n_members; i++)
        if (c->members[i].server && (sim_node_crashed(c->members[i].node) || c->members[i].fatal)) {
            c->members[i].fatal = false;
            member_kill(&c->members[i]);
        }
    for (unsigned i = 0; i < c->opt.n_store; i++) {
        if (sim_node_crashed(c->stores[i].node) || c->stores[i].fatal) {
            c->stores[i].fatal = false;
            store_kill(&c->stores[i]);
        }
    }
}

void cluster_run_until(struct cluster *c, uint64_t until)
{
    cluster_run(c, until, NULL);
}

static void wake(void *arg)
{
    (void)arg;
}

bool cluster_run(struct cluster *c, uint64_t until, bool (*done)(struct cluster *c))
{
    sim_at(c->s, until, wake, NULL); /* so that time gets there */
    while (!c->failed) {
        if (done && done(c))
            return true;
        if (sim_now(c->s) >= until)
            return false;
        sim_step(c->s);
        cluster_reap(c);
    }
    return false;
}

void cluster_free(struct cluster *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < c->opt.n_client; i++)
        if (c->clients[i].tc)
            client_kill(&c->clients[i]);
    for (unsigned i = 0; i < c->opt.n_store; i++)
        if (c->stores[i].server)
            store_kill(&c->stores[i]);
    for (unsigned i = 0; i < c->n_members; i++)
        if (c->members[i].server)
            member_kill(&c->members[i]);
    for (unsigned i = 0; i < c->n_actors; i++)
        actor_free(c->actors[i]);
    operator_free(c);
    sim_free(c->s);
    log_cluster = NULL;
    log_set_sink(NULL, NULL);
    free(c->lives);
    free(c);
}
