/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What any member answers: STATUS (docs/OPERATIONS.md has the document), WHO_LEADS, FORMAT.
 */
#include "meta/server_internal.h"

#include <jansson.h>
#include <stdio.h>

#define NEARLY_FULL(total, avail) ((total) && (avail) < (total) / 10)

static json_t *num(uint64_t v)
{
    return json_integer((json_int_t)(v > INT64_MAX ? INT64_MAX : v));
}

static json_t *hex(const uint8_t *p, size_t n)
{
    char text[65];

    for (size_t i = 0; i < n && i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", p[i]);
    return json_string(text);
}

/* ---- problems ---- */

static void problem(json_t *list, const char *severity, const char *cure, const char *fmt, ...) TC_PRINTF(4, 5);

static void problem(json_t *list, const char *severity, const char *cure, const char *fmt, ...)
{
    char what[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    json_array_append_new(list, json_pack("{s:s,s:s,s:s}", "severity", severity, "what", what, "cure", cure));
}

/* ---- any member ---- */

static const char *role_of(const struct replica_status *r)
{
    if (!r->formatted)
        return "blank";
    if (strcmp(r->role, "leader") == 0)
        return "leader";
    if (strcmp(r->role, "follower") != 0)
        return "candidate";
    return r->voter ? "follower" : "learner";
}

#define STORE_BAD_CURE "make a dump now (tercet meta dump FILE), add members if it can, and look at its disk"

#define PARTED "the leader lacks what was committed here: it is of members that were given up in `tercet meta recover`"
#define PARTED_CURE "now stop all members, keep their directories, and start this one alone; the others with empty directories, as " \
                    "OPERATIONS says under recover. This one forgets its part when it is started beside them"

static void status_damage(struct meta_server *s, json_t *j, const struct replica_status *r, json_t *problems)
{
    const char *what = s->failed ? "a disk failed" : r->parted ? PARTED : r->damage;
    const char *cure = s->failed ? "look at its log, replace the disk if it is at fault, and start it again"
                       : r->parted ? PARTED_CURE : "wait: the others fill it again, if a majority of them runs; then look at its disk. "
                         "What is damaged is kept in aside-N of its data directory";
    struct aside aside = aside_keeper_now(s->kept);

    if (what) {
        json_object_set_new(j, "trouble", json_string(what));
        json_object_set_new(j, "trouble_cure", json_string(cure));
        problem(problems, "error", cure, "member %u: %s", s->cfg.id, what);
    }
    if (s->fsm && fsm_loading(s->fsm)) {
        json_object_set_new(j, "loading", json_true());
        problem(problems, "error", "run `tercet meta load FILE` to its end, again if it was cut short",
                "a dump is being loaded: nobody is served");
    }
    json_object_set_new(j, "check", json_pack("{s:b,s:o,s:o}", "running", s->check.running, "found", num(s->check.found),
                                              "ended", num(s->check.ended)));
    if (s->check.store_bad && !s->failed) {
        json_object_set_new(j, "trouble", json_string("its store (kv) is damaged on disk"));
        json_object_set_new(j, "trouble_cure", json_string(STORE_BAD_CURE));
        problem(problems, "error", STORE_BAD_CURE, "member %u: its store (kv) is damaged on disk", s->cfg.id);
    }
    if (s->aside && (aside.n || aside.busy)) {
        json_object_set_new(j, "aside_bytes", num(aside.bytes));
        json_object_set_new(j, "aside", json_string(s->aside));
        json_object_set_new(j, "aside_why", json_string(s->aside_why));
    }
}

/* Of a member that has nothing but its genesis: with it a format that was interrupted is brought to its end. */
static json_t *genesis_hex(struct slice genesis)
{
    const uint8_t *bytes = genesis.data;
    char *text = tc_malloc(2 * genesis.len + 1);
    json_t *j;

    for (size_t i = 0; i < genesis.len; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    j = json_string(text);
    free(text);
    return j;
}

/* The command in @genesis, its body decoded. */
static int genesis_read(struct meta_server *s, struct slice genesis, struct wire_bin *ret_body, struct genesis *ret)
{
    struct command cmd;
    int r = wire_decode(genesis, &command_schema, &s->arena, &cmd);

    if (r == 0)
        r = wire_decode(slice_of(cmd.body.p, cmd.body.n), &genesis_schema, &s->arena, ret);
    if (r == 0)
        *ret_body = cmd.body;
    return r;
}

/* Who was of the group as of what is applied here: all that is known of it where nobody leads. */
static void status_group(struct meta_server *s, json_t *j)
{
    json_t *list = json_array();
    const struct member_info *m;
    uint32_t n;

    m = fsm_members(s->fsm, &n);
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:o,s:s%,s:b}", "id", num(m[i].id), "endpoint", m[i].endpoint.p,
                                              (size_t)m[i].endpoint.n, "learner", m[i].learner));
    json_object_set_new(j, "group", list);
}

static void status_member(struct meta_server *s, json_t *j, const struct replica_status *r, json_t *problems)
{
    const struct genesis *g = s->fsm ? fsm_genesis(s->fsm) : NULL;
    struct slice begun = replica_genesis(s->replica);
    struct genesis first;
    struct wire_bin body;

    json_object_set_new(j, "version", json_string(TC_VERSION));
    json_object_set_new(j, "id", num(s->cfg.id));
    json_object_set_new(j, "formatted", json_boolean(r->formatted));
    if (g)
        json_object_set_new(j, "cluster", hex(g->cluster.p, g->cluster.n));
    if (g && r->formatted)
        status_group(s, j);
    wire_arena_reset(&s->arena);
    if (begun.len && genesis_read(s, begun, &body, &first) == 0) {
        json_object_set_new(j, "cluster", hex(first.cluster.p, first.cluster.n));
        json_object_set_new(j, "genesis", genesis_hex(slice_of(body.p, body.n)));
    }
    json_object_set_new(j, "role", json_string(role_of(r)));
    json_object_set_new(j, "lease", json_boolean(r->lease));
    json_object_set_new(j, "term", num(r->term));
    json_object_set_new(j, "leader", num(r->leader));
    if (replica_endpoint(s->replica, r->leader))
        json_object_set_new(j, "leader_endpoint", json_string(replica_endpoint(s->replica, r->leader)));
    json_object_set_new(j, "installing", json_boolean(r->installing));
    if (r->refused) {
        json_object_set_new(j, "snapshot_refused", json_string(tc_error_name(r->refused)));
        problem(problems, "error", r->refused == -TC_E_NOSPC ? "free space on its data directory's file system; it is tried again"
                                                             : "look at its disk and its log; it is tried again",
                "member %u cannot take the leader's snapshot: %s", s->cfg.id, tc_error_name(r->refused));
    }
    json_object_set_new(j, "first", num(r->first));
    json_object_set_new(j, "last", num(r->last));
    json_object_set_new(j, "commit", num(r->commit));
    json_object_set_new(j, "applied", num(s->fsm ? fsm_applied(s->fsm) : 0));
    json_object_set_new(j, "checkpoint", num(s->checkpoint_index));
    json_object_set_new(j, "log_bytes", num(r->log_bytes));
    status_damage(s, j, r, problems);
    if (r->wrong_cluster)
        problem(problems, "error", "look which data directory or configuration is in the wrong place",
                "member %u is spoken to by members of another cluster", s->cfg.id);
    if (r->wrong_cluster)
        json_object_set_new(j, "wrong_cluster", json_true());
    if (NEARLY_FULL(s->data_total, s->data_free)) {
        json_object_set_new(j, "disk_free", num(s->data_free));
        problem(problems, "warning", "free space on its data directory's file system, or move it to a larger one",
                "member %u: disk nearly full, %llu MiB free", s->cfg.id, (unsigned long long)(s->data_free >> 20));
    }
    if (members_outside(s))
        problem(problems, "info", "wait if it was just added; else stop it. To have it back: empty its data directory, start "
                "it, and tercet meta add", "member %u takes no part: it was removed, or its addition has not arrived there yet",
                s->cfg.id);
    if (!r->formatted)
        problem(problems, "error", "run `tercet format`; a member that lost its disk waits for the leader to fill it",
                "member %u is not formatted", s->cfg.id);
    else if (!r->leader)
        problem(problems, "error", "start the other members, or mend the network between them, until a majority runs",
                "member %u knows no leader: a majority of the members does not answer", s->cfg.id);
}

/* ---- the leader ---- */

static void status_members(json_t *j, const struct replica_status *r, json_t *problems)
{
    json_t *list = json_array();
    unsigned away = 0, voters = 0;

    for (unsigned i = 0; i < r->n_peers; i++) {
        const struct replica_peer_status *p = &r->peers[i];
        bool silent = !p->self && p->heard_ms > 2000;

        json_array_append_new(
            list, json_pack("{s:o,s:s,s:b,s:b,s:o,s:o,s:o,s:s,s:o,s:o}", "id", num(p->id), "endpoint",
                            p->endpoint ? p->endpoint : "", "learner", !p->voter, "standby", p->standby, "match",
                            num(p->match), "lag", num(p->lag), "silent_ms", num(p->self ? 0 : p->heard_ms), "state",
                            p->state, "snapshot_bytes", num(p->snapshot_bytes),
                            "snapshot_refusals", num(p->snapshot_refusals)));
        voters += p->voter;
        away += p->voter && silent;
        if (silent)
            problem(problems, "warning", "start tercet-meta there, or mend the network to it",
                    "member %u (%s) is down", p->id, p->endpoint ? p->endpoint : "?");
        else if (p->snapshot_refusals > 1) /* one may have been damaged on the way */
            problem(problems, "error", "look at its own status: its disk may be full",
                    "member %u (%s) refuses the snapshot that it is to be filled by", p->id, p->endpoint ? p->endpoint : "?");
        else if (p->standby)
            problem(problems, "info", "when it has caught up: tercet meta promote", "member %u was added and does not vote yet",
                    p->id);
        else if (!p->voter || p->blank)
            problem(problems, "warning", "wait: the leader fills it", "member %u is being filled and does not vote yet",
                    p->id);
        else if (p->lag > 50000)
            problem(problems, "warning", "wait, or look at its disk and network", "member %u is %llu entries behind",
                    p->id, (unsigned long long)p->lag);
    }
    json_object_set_new(j, "members", list);
    if (voters && 2 * (voters - away) <= voters)
        problem(problems, "error", "start members until a majority runs", "no quorum: %u of %u members are away", away,
                voters);
}

static const char *store_state_name(struct meta_server *s, const struct fsm_store *st, const struct meta_store *h,
                                    uint64_t silent_ms)
{
    if (st->state == STORE_REPLACED)
        return "replaced";
    if (!h || !h->heard_at || silent_ms >= s->cfg.store_down_ms)
        return "down";
    return silent_ms >= s->cfg.store_suspect_ms ? "suspect" : "up";
}

static json_t *store_flags_json(uint32_t flags)
{
    json_t *f = json_array();

    if (flags & STORE_FULL)
        json_array_append_new(f, json_string("full"));
    if (flags & STORE_NEARLY_FULL)
        json_array_append_new(f, json_string("nearly_full"));
    if (flags & STORE_DISK_ERROR)
        json_array_append_new(f, json_string("disk_error"));
    return f;
}

static json_t *scrub_json(const struct meta_store *h)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "found", num(h ? h->found : 0), "repaired", num(h ? h->repaired : 0),
                     "unrepaired", num(h ? h->unrepaired : 0), "scrubbed", num(h ? h->scrubbed : 0), "permille",
                     num(h ? h->scrub_permille : 0), "aside", num(h ? h->aside : 0), "aside_bytes",
                     num(h ? h->aside_bytes : 0));
}

static void store_problems(const struct fsm_store *st, const struct meta_store *h, const char *state, json_t *problems)
{
    if (strcmp(state, "down") == 0)
        problem(problems, "warning", "start tercet-storage there; if its disk is lost, start it with an empty directory",
                "storage node %u (%s) is down", st->node, st->endpoint);
    if (!h || strcmp(state, "up") != 0)
        return;
    if (h->behind)
        problem(problems, "warning", "wait: it is being brought up to date", "storage node %u is behind by %llu chunks",
                st->node, (unsigned long long)h->behind);
    if (h->unrepaired)
        problem(problems, "error", "start all storage nodes; what no quorum has undamaged is lost there: tercet verify FILE",
                "storage node %u has %llu damaged chunks that could not be repaired", st->node,
                (unsigned long long)h->unrepaired);
    if (h->aside)
        problem(problems, "info", "look at its disk; when all else is healthy: tercet clean node N",
                "storage node %u keeps %llu MiB of damaged files that were put aside", st->node,
                (unsigned long long)(h->aside_bytes >> 20));
    if (h->flags & STORE_DISK_ERROR)
        problem(problems, "error", "replace its disk", "storage node %u has disk errors", st->node);
    if (h->flags & STORE_FULL)
        problem(problems, "error", "remove files, or add storage nodes or larger disks", "storage node %u is full",
                st->node);
    else if (h->flags & STORE_NEARLY_FULL || NEARLY_FULL(h->capacity, h->free))
        problem(problems, "warning", "remove files, or add storage nodes or larger disks",
                "storage node %u: disk nearly full, %llu MiB free", st->node, (unsigned long long)(h->free >> 20));
}

static const char *admin_name(uint32_t admin)
{
    return admin == STORE_DRAIN ? "drain" : admin == STORE_MAINTENANCE ? "maintenance" : "in";
}

/* Groups that a store holds, those of them that it will hold no more, and those it is being filled with. */
static void count_groups(struct meta_server *s, uint64_t store, uint64_t *ret_pgs, uint64_t *ret_leaving,
                         uint64_t *ret_coming)
{
    const struct map_pg *p;

    *ret_pgs = *ret_leaving = *ret_coming = 0;
    for (uint32_t i = 0; (p = fsm_pg(s->fsm, i)); i++) {
        bool c1 = false, c2 = false;

        for (unsigned v = 0; v < p->n; v++)
            c1 = c1 || p->voters[v] == store;
        for (unsigned v = 0; v < p->n_next; v++)
            c2 = c2 || p->next[v] == store;
        *ret_pgs += c1;
        *ret_leaving += c1 && p->n_next && !c2;
        *ret_coming += c2 && !c1;
    }
}

static void store_groups(struct meta_server *s, const struct fsm_store *st, const struct meta_store *h, json_t *j)
{
    uint64_t pgs, leaving, coming;

    count_groups(s, st->store, &pgs, &leaving, &coming);
    json_object_set_new(j, "admin", json_string(admin_name(st->admin)));
    json_object_set_new(j, "pgs", num(pgs));
    json_object_set_new(j, "leaving", num(leaving));
    json_object_set_new(j, "coming", num(coming));
    json_object_set_new(j, "share", num(h ? h->quota : 0));
}

static void status_stores(struct meta_server *s, json_t *j, json_t *problems)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    const struct fsm_store *st;
    uint64_t now = env_now(s->env);
    json_t *list = json_array();
    uint32_t n, up = 0;

    st = fsm_stores(s->fsm, &n);
    for (uint32_t i = 0; i < n; i++) {
        const struct meta_store *h = store_find_health(s, st[i].store);
        uint64_t silent = h && h->heard_at ? (now - h->heard_at) / NS_PER_MS : INT64_MAX;
        const char *state = store_state_name(s, &st[i], h, silent);
        char id[17];

        snprintf(id, sizeof(id), "%016llx", (unsigned long long)st[i].store);
        up += strcmp(state, "up") == 0 || strcmp(state, "suspect") == 0;
        json_t *o = json_pack("{s:o,s:s,s:s,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "node", num(st[i].node), "store", id,
                            "endpoint", st[i].endpoint, "zone", st[i].zone, "state", state, "silent_ms", num(silent),
                            "capacity", num(h ? h->capacity : st[i].capacity), "free", num(h ? h->free : 0), "used",
                            num(h ? h->used : 0), "chunks", num(h ? h->chunks : 0), "behind", num(h ? h->behind : 0),
                            "flags", store_flags_json(h ? h->flags : 0));
        json_object_set_new(o, "scrub", scrub_json(h));
        store_groups(s, &st[i], h, o);
        json_array_append_new(list, o);
        store_problems(&st[i], h, state, problems);
    }
    if (s->lead)
        json_object_set_new(j, "placement", json_pack("{s:b,s:o,s:o}", "idle", s->lead->plan_idle, "waiting",
                                                      num(s->lead->plan_waiting), "stuck", num(s->lead->plan_stuck)));
    json_object_set_new(j, "stores_configured", num(g->stores));
    json_object_set_new(j, "stores", list);
    if (!fsm_has_table(s->fsm))
        problem(problems, "error", "start the storage nodes of the configuration",
                "waiting for storage nodes: %u of %u are up", up, g->n);
}

static void status_pgs(struct meta_server *s, json_t *j, json_t *problems, bool each)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    uint64_t total = 0, healthy = 0, degraded = 0, moving = 0, unavailable = 0;
    json_t *list = each ? json_array() : NULL;
    const struct map_pg *p;

    for (uint32_t i = 0; (p = fsm_pg(s->fsm, i)); i++) {
        unsigned up = 0;

        for (unsigned v = 0; v < p->n; v++)
            up += store_up(s, p->voters[v]);
        total++;
        if (up < MAX(g->w, g->r))
            unavailable++;
        else if (p->n_next)
            moving++;
        else if (up < p->n)
            degraded++;
        else
            healthy++;
        if (each) {
            json_t *voters = json_array();

            for (unsigned v = 0; v < p->n; v++)
                json_array_append_new(voters, json_sprintf("%016llx", (unsigned long long)p->voters[v]));
            json_array_append_new(list, json_pack("{s:o,s:o,s:o,s:b}", "pg", num(i), "epoch", num(p->epoch), "voters",
                                                  voters, "moving", p->n_next > 0));
        }
    }
    json_object_set_new(j, "pgs", json_pack("{s:o,s:o,s:o,s:o,s:o}", "total", num(total), "healthy", num(healthy),
                                            "degraded", num(degraded), "moving", num(moving), "unavailable",
                                            num(unavailable)));
    if (each)
        json_object_set_new(j, "pg_list", list);
    if (unavailable)
        problem(problems, "error", "start storage nodes until a quorum of every group runs",
                "no quorum for %llu of %llu placement groups: reads and writes there wait",
                (unsigned long long)unavailable, (unsigned long long)total);
    if (g->n == 1)
        problem(problems, "warning", "format a cluster with more copies if the data matters", "no redundancy: one copy");
}

#define ORPHANS_COUNTED 256

/* Mounts that are silent: nobody has had to wait for them yet, so their sessions live. Returns how many files they were
 * writing; each becomes unclean when somebody uses it, or when the session is given up. */
static uint64_t status_silent(struct meta_server *s, json_t *j, json_t *problems)
{
    json_t *list = json_array();
    struct meta_session *x, *tmp;
    struct fsm_session f;
    uint64_t files = 0;

    HASH_ITER(hh, s->lead->sessions, x, tmp)
    {
        uint64_t silent = (env_now(s->env) - x->heard_at) / NS_PER_MS;

        if (!session_silent(s, x) || !fsm_session(s->fsm, x->lease.id, &f))
            continue;
        files += f.n_x;
        json_array_append_new(list, json_pack("{s:s,s:o,s:o}", "client", f.client ? f.client : "", "silent_ms", num(silent),
                                              "writing", num(f.n_x)));
        problem(problems, "info", "if it is gone nothing has to be done: it is given up when somebody needs its files, or after 5 minutes",
                "mount %s is silent for %llu s, it was writing %llu files", f.client ? f.client : "?",
                (unsigned long long)(silent / 1000), (unsigned long long)f.n_x);
    }
    json_object_set_new(j, "silent_sessions", list);
    return files;
}

static void status_leader(struct meta_server *s, json_t *j, const struct replica_status *r, json_t *problems, bool each)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    uint64_t inodes, blocks, total, avail, used;

    json_object_set_new(j, "name", json_stringn(g->name.n ? g->name.p : "", g->name.n));
    json_object_set_new(j, "n", num(g->n));
    json_object_set_new(j, "w", num(g->w));
    json_object_set_new(j, "r", num(g->r));
    json_object_set_new(j, "pg_count", num(g->pg_count));
    json_object_set_new(j, "map_epoch", num(fsm_map_epoch(s->fsm)));
    status_members(j, r, problems);
    status_stores(s, j, problems);
    status_pgs(s, j, problems, each);
    fsm_usage(s->fsm, &inodes, &blocks);
    store_capacity(s, &total, &avail, &used);
    json_object_set_new(j, "inodes", num(inodes));
    json_object_set_new(j, "bytes", num(blocks * 4096));
    json_object_set_new(j, "capacity",
                        json_pack("{s:o,s:o,s:o}", "total", num(total), "free", num(avail), "used", num(used)));
    if (s->lead) {
        struct lead *l = s->lead;
        uint64_t unclean = MAX(l->unclean_count, l->unclean_seen) + status_silent(s, j, problems);
        uint64_t inos[ORPHANS_COUNTED];

        json_object_set_new(j, "unclean", num(unclean));
        json_object_set_new(j, "orphans", num(fsm_orphans(s->fsm, 0, inos, ORPHANS_COUNTED)));
        json_object_set_new(j, "sessions", num(HASH_COUNT(l->sessions)));
        json_object_set_new(j, "leases", num(leases_refs(l->leases)));
        if (unclean)
            problem(problems, "warning", "start all storage nodes, and wait: their copies are being compared",
                    "%llu unclean files: a writer of theirs was lost", (unsigned long long)unclean);
    }
    json_object_set_new(
        j, "counters",
        json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "requests", num(s->n.requests), "reads", num(s->n.reads),
                  "mutations", num(s->n.mutations), "proposals", num(s->n.proposals), "recalls", num(s->n.recalls),
                  "recall_resends", num(s->n.recall_resends), "expired", num(s->n.expired), "bad", num(s->n.bad)));
}

static char *status_text(struct meta_server *s, bool each)
{
    json_t *j = json_object(), *problems = json_array();
    struct replica_status r = {0};
    char *text;

    replica_get_status(s->replica, &r);
    status_member(s, j, &r, problems);
    if (r.formatted && replica_leads(s->replica) && s->fsm && fsm_genesis(s->fsm))
        status_leader(s, j, &r, problems, each);
    json_object_set_new(j, "problems", problems);
    text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    return text ? text : tc_strdup("{}");
}

char *meta_server_status_json(struct meta_server *s)
{
    return status_text(s, false);
}

void status_request(struct meta_server *s, const struct request *q)
{
    char *text = status_text(s, ((const struct status_req *)q->msg)->what == 1);
    struct status_res res = {.json = wire_str_of(text)};

    server_reply(s, q->peer, q->id, q->type, 0, &status_res_schema, &res);
    free(text);
}

void who_leads(struct meta_server *s, const struct request *q)
{
    struct leader_msg m;

    server_leader_msg(s, &m);
    server_reply(s, q->peer, q->id, q->type, 0, &leader_msg_schema, &m);
}

/* ---- format ---- */

static int genesis_check(const struct meta_server *s, const struct genesis *g)
{
    bool named = false;

    if (g->n < 1 || g->n > PG_VOTERS_MAX || g->w < 1 || g->w > g->n || g->r < 1 || g->r > g->n || g->w + g->r <= g->n ||
        2 * g->w <= g->n || g->pg_count < 1 || g->pg_count > 65536)
        return -TC_E_INVAL;
    if (g->cluster.n != 16 || g->siphash_key.n != 16 || g->members.n < 1 || g->members.n > REPLICA_PEERS_MAX)
        return -TC_E_INVAL;
    for (uint32_t i = 0; i < g->members.n; i++)
        named = named || g->members.items[i].id == s->cfg.id;
    return named ? 0 : -TC_E_CONFIG;
}

struct format {
    struct meta_server *s;
    uint64_t peer, id;
    struct buf *entry;
};

static void format_done(void *arg, int err)
{
    struct format *f = arg;
    struct meta_server *s = f->s;

    s->formatting = false;
    LOG_INFO("meta", err == 0 ? "formatted" : "format refused", "error=\"%s\"", tc_strerror(err));
    server_reply(s, f->peer, f->id, MSG_FORMAT, err, NULL, NULL);
    buf_unref(f->entry);
    free(f);
}

void format_request(struct meta_server *s, const struct request *q)
{
    const struct genesis *g = q->msg;
    struct command cmd = {.type = CMD_GENESIS, .time = g->time, .body = {q->body.data, (uint32_t)q->body.len}};
    uint32_t members[REPLICA_PEERS_MAX];
    struct format *f;
    int r = genesis_check(s, g);

    if (r == 0 && replica_formatted(s->replica)) {
        const struct genesis *have = s->fsm ? fsm_genesis(s->fsm) : NULL;
        struct slice begun = replica_genesis(s->replica);
        struct genesis first;
        struct wire_bin body;
        bool same;

        if (begun.len && genesis_read(s, begun, &body, &first) == 0)
            have = &first;
        same = have && have->cluster.n == 16 && memcmp(have->cluster.p, g->cluster.p, 16) == 0;

        r = same ? 0 : -TC_E_ALREADY_FORMATTED; /* a retry of the same is done already */
        server_reply(s, q->peer, q->id, q->type, r, NULL, NULL);
        return;
    }
    if (r == 0 && s->formatting)
        return; /* the answer comes */
    if (r < 0) {
        server_reply(s, q->peer, q->id, q->type, r, NULL, NULL);
        return;
    }
    for (uint32_t i = 0; i < g->members.n; i++)
        members[i] = g->members.items[i].id;
    f = tc_calloc(1, sizeof(*f));
    f->s = s;
    f->peer = q->peer;
    f->id = q->id;
    f->entry = wire_encode(&command_schema, &cmd);
    s->formatting = true;
    replica_format(s->replica, map_cluster_tag(g->cluster.p), members, g->members.n,
                   slice_of(f->entry->data, f->entry->len), format_done, f);
}
