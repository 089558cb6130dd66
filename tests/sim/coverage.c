/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/coverage.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "common/schema.h"
#include "common/wire.h"
#include "meta/raft_wire.h"

/* Of log lines: what they contain. */
#define LOGGED(X)                                                                                      \
    X("leaders elected", "msg=\"leads\"")                                                                  \
    X("snapshots installed", "msg=\"snapshot installed\"")                                             \
    X("snapshots refused", "msg=\"snapshot refused, retrying\"")                                       \
    X("members damaged, without a vote", "msg=\"this member starts without a vote")                  \
    X("sessions expired by the leader", "msg=\"a session expires\"")                                   \
    X("sessions suspended", "msg=\"suspended: ")                                                       \
    X("sessions valid again", "msg=\"session valid again\"")                                           \
    X("clients told of expiry", "msg=\"session expired, opening another\"")                            \
    X("leases lost with unsaved data", "msg=\"lease lost with unsaved data\"")                         \
    X("caching rights run out", "msg=\"caching right ran out\"")                                       \
    X("size recoveries refused", "msg=\"size recovery was refused\"")                                  \
    X("stores down", "msg=\"a store is down\"")                                                        \
    X("journals damaged", "msg=\"damaged record before the synced mark\"")                             \
    X("blocks rotten on disk", "msg=\"stored block does not match its checksum")                       \
    X("power losses", "power loss everywhere")                                                         \
    X("leaders handed over", "hands leadership over")                                                  \
    X("clients cut off", " is cut off from ")                                                          \
    X("slow disks", ": disk stalls")                                                                   \
    X("planned stops", "stopped as planned")                                                           \
    X("damaged: a bit of a log", ": a bit of its log flips")                                           \
    X("damaged: a segment of a log cut short", ": a segment of its log is cut short")                  \
    X("damaged: segments of a log gone", ": segments of its log are gone")                             \
    X("damaged: term and vote", "its term and vote")                                                   \
    X("damaged: base of a log", ": its base is damaged")                                               \
    X("damaged: state of a member", ": its store is ")                                                 \
    X("damaged: files of another cluster", ": its files are those of another cluster")                 \
    X("damaged: journal of a store", "of its journal ")                                                \
    X("damaged: index of a store", ": its index is ")                                                  \
    X("damaged: identity of a store", "its identity ")                                                 \
    X("damaged: chunk files", ": a chunk file is cut short or gone")                                   \
    X("damaged while it runs", ", while it runs: ")                                                    \
    X("logs written anew", "msg=\"the entries of the log were written anew\"")                         \
    X("term and vote, or base written anew", "msg=\"a file of this member is damaged on disk, written anew\"") \
    X("members' files set aside", "msg=\"damaged files were set aside\"")                              \
    X("members filled that vote again", "msg=\"this member is whole and votes again\"")                \
    X("stores emptied for damage", "the node starts as an empty store")                                \
    X("members added", "operator: a member was added")                                                                    \
    X("members removed", "operator: a member left")                                                              \
    X("dead members replaced", "operator: a dead member was forgotten")                                                        \
    X("members learned from a store, by a client", "msg=\"a store knows a newer map\"")                \
    X("members learned from a store, by another", "msg=\"another store knows a newer map\"")           \
    X("nodes removed, others added", "was removed, node")                                              \
    X("stores drained", " admin 1")                                                                    \
    X("stores in maintenance", " admin 2")

/* Of messages: type, kind, status of a reply. */
#define SENT(X)                                                                                        \
    X("generations entered", MSG_LEASE_LIST, WIRE_REPLY, 0)                                            \
    X("recalls", MSG_RECALL, WIRE_NOTICE, 0)                                                           \
    X("fates asked", MSG_FATE, WIRE_REPLY, 0)                                                          \
    X("writes of the dead refused", MSG_WRITE, WIRE_REPLY, TC_E_FENCED)                                \
    X("sizes asked of stores", MSG_SIZE_QUERY, WIRE_REPLY, 0)                                          \
    X("reconciled by a store", MSG_RECONCILE, WIRE_REPLY, 0)                                           \
    X("manifests compared", MSG_MANIFEST, WIRE_REPLY, 0)                                               \
    X("requests asked of the wrong member", MSG_SETATTR, WIRE_REPLY, TC_E_NOT_LEADER)                  \
    X("leases granted to write", MSG_LEASE_GET_X, WIRE_REPLY, 0)                                       \
    X("maps fetched", MSG_MAP_GET, WIRE_REPLY, 0)                                                      \
    X("inodes checked for deletion", MSG_INO_CHECK, WIRE_REPLY, 0)                                     \
    X("changes of the group", MSG_META_CHANGE, WIRE_REPLY, 0)                                          \
    X("changes refused: no majority would answer", MSG_META_CHANGE, WIRE_REPLY, TC_E_NO_QUORUM)         \
    X("changes refused: another is under way", MSG_META_CHANGE, WIRE_REPLY, TC_E_BUSY)                 \
    X("promotions refused: too far behind", MSG_META_CHANGE, WIRE_REPLY, TC_E_AGAIN)                   \
    X("promotions refused: no answer", MSG_META_CHANGE, WIRE_REPLY, TC_E_UNREACHABLE)                  \
    X("locks asked for", MSG_LOCK, WIRE_REPLY, 0)                                                      \
    X("ends of L, with what is locked", MSG_LOCK_END, WIRE_REPLY, 0)                                   \
    X("locks waited for, or looked at", MSG_LOCK_LOOK, WIRE_REPLY, 0)                                  \
    X("drains refused", MSG_NODE_ADMIN, WIRE_REPLY, TC_E_QUORUM_LOST)

/* Found by looking closer. */
#define SEEN(X)                                                                                        \
    X(TRANSFER, "leaderships transferred")                                                             \
    X(PREVOTE, "pre-votes refused")                                                                    \
    X(REJECT, "appends refused, logs differ")                                                          \
    X(REPLY_AGAIN, "replies given twice")                                                              \
    X(BELOW_WATERMARK, "requests that came below the watermark")                                       \
    X(REPAIR, "blocks mended or written back")                                                         \
    X(UNCLEAN_END, "leases ended unclean (no seed fills disks: test-cases-data no_room)")               \
    X(REWRITTEN, "horizon entries rewritten")                                                          \
    X(HORIZON_FULL, "horizons of 16")                                                                  \
    X(DISOWNED, "commits of a lease that had ended")                                                   \
    X(LOCKS_LOCAL, "L granted")                                                                        \
    X(LOCKS_RECALL, "L recalled")                                                                      \
    X(LOCKS_REGISTERED, "locks registered at the end of L")                                            \
    X(LOCKS_WAITED, "locks found in the way")                                                          \
    X(BACKFILL, "blocks copied to a newcomer")                                                         \
    X(PG_EPOCH, "writes below a PG's epoch refused")

enum {
#define X(id, text) SEEN_##id,
    SEEN(X)
#undef X
    N_SEEN
};

static const char *const logged[][2] = {
#define X(text, what) {text, what},
    LOGGED(X)
#undef X
};

static const struct {
    const char *text;
    uint32_t type, kind;
    int status;
} sent[] = {
#define X(text, type, kind, status) {text, type, kind, status},
    SENT(X)
#undef X
};

static const char *const seen[] = {
#define X(id, text) text,
    SEEN(X)
#undef X
};

enum { REPLIES = 4096, WATERMARKS = 4096 };

static struct {
    uint64_t logged[ARRAY_SIZE(logged)], sent[ARRAY_SIZE(sent)], seen[N_SEEN];
} *counts;
static uint64_t replies[REPLIES]; /* ids of the last mutations answered, by hash */
static struct watermark {
    uint64_t session, seq;
} watermarks[WATERMARKS]; /* the highest that came, by hash */
static struct wire_arena arena;

void coverage_init(void)
{
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT(counts != MAP_FAILED);
}

void coverage_log(const char *line)
{
    for (size_t i = 0; counts && i < ARRAY_SIZE(logged); i++)
        if (strstr(line, logged[i][1]))
            counts->logged[i]++;
}

static void saw(unsigned what)
{
    counts->seen[what]++;
}

static void look_raft(struct slice body)
{
    struct raft_wire m;

    if (wire_decode(body, &raft_wire_schema, &arena, &m) < 0)
        return;
    if (m.type == RAFT_MSG_TIMEOUT_NOW)
        saw(SEEN_TRANSFER);
    if (m.type == RAFT_MSG_PREVOTE_RES && !m.granted)
        saw(SEEN_PREVOTE);
    if (m.type == RAFT_MSG_APPEND_RES && m.reject)
        saw(SEEN_REJECT);
}

static void look_mutation_reply(const struct wire_header *h)
{
    uint64_t *slot = &replies[(h->id ^ h->id >> 17) % REPLIES];

    if (*slot == h->id)
        saw(SEEN_REPLY_AGAIN);
    *slot = h->id;
}

static void look_write(const struct sim_node *from, struct slice body)
{
    struct write_req req;

    if (wire_decode(body, &write_req_schema, &arena, &req) < 0)
        return;
    for (uint32_t i = 0; i < req.items.n; i++)
        if (req.items.items[i].flags & WRITE_REPAIR)
            saw(sim_node_host(from)[0] == 's' ? SEEN_BACKFILL : SEEN_REPAIR);
}

static void look_write_reply(struct slice body)
{
    struct write_res res;

    if (wire_decode(body, &write_res_schema, &arena, &res) < 0)
        return;
    for (uint32_t i = 0; i < res.items.n; i++)
        if (res.items.items[i].status == tc_error_to_wire(-TC_E_STALE_EPOCH))
            saw(SEEN_PG_EPOCH);
}

static void look_commit_reply(struct slice body)
{
    struct commit_res res;

    if (wire_decode(body, &commit_res_schema, &arena, &res) < 0)
        return;
    for (uint32_t i = 0; i < res.items.n; i++)
        if (res.items.items[i].status == tc_error_to_wire(-TC_E_LEASE_LOST))
            saw(SEEN_DISOWNED);
}

static void look_commit(struct slice body)
{
    struct commit_req req;

    if (wire_decode(body, &commit_req_schema, &arena, &req) < 0)
        return;
    for (uint32_t i = 0; i < req.items.n; i++) {
        if (req.items.items[i].rewritten)
            saw(SEEN_REWRITTEN);
        if (req.items.items[i].action && req.items.items[i].data_state >= DATA_UNCLEAN)
            saw(SEEN_UNCLEAN_END);
    }
}

static void look_setattr_reply(struct slice body)
{
    struct entry_res res;

    if (wire_decode(body, &entry_res_schema, &arena, &res) == 0 && res.attr.horizons.n >= 15)
        saw(SEEN_HORIZON_FULL);
}

static void look_lock_reply(struct slice body)
{
    struct lock_res res;

    if (wire_decode(body, &lock_res_schema, &arena, &res) < 0)
        return;
    if (res.local)
        saw(SEEN_LOCKS_LOCAL);
    if (res.has_other)
        saw(SEEN_LOCKS_WAITED);
}

static void look_lock_end(struct slice body)
{
    struct lock_end_req req;

    if (wire_decode(body, &lock_end_req_schema, &arena, &req) == 0 && req.locks.n)
        saw(SEEN_LOCKS_REGISTERED);
}

static void look_recall(struct slice body)
{
    struct recall_msg m;

    if (wire_decode(body, &recall_msg_schema, &arena, &m) < 0)
        return;
    for (uint32_t i = 0; i < m.items.n; i++)
        if (m.items.items[i].kind == RECALL_LOCKS)
            saw(SEEN_LOCKS_RECALL);
}

void coverage_message(const struct sim_node *from, const struct wire_header *h, struct slice body)
{
    if (!counts)
        return;
    wire_arena_reset(&arena);
    for (size_t i = 0; i < ARRAY_SIZE(sent); i++)
        if (sent[i].type == h->type && sent[i].kind == h->kind &&
            (h->kind != WIRE_REPLY || h->status == tc_error_to_wire(-sent[i].status)))
            counts->sent[i]++;
    if (h->type == MSG_RAFT)
        look_raft(body);
    else if (h->kind == WIRE_REPLY && h->status == 0 && h->type >= MSG_MAKE && h->type <= MSG_COMMIT)
        look_mutation_reply(h);
    if (h->kind == WIRE_REPLY && h->status == 0 && (h->type == MSG_LOCK || h->type == MSG_LOCK_LOOK))
        look_lock_reply(body);
    if (h->kind == WIRE_REQUEST && h->type == MSG_LOCK_END)
        look_lock_end(body);
    if (h->kind == WIRE_NOTICE && h->type == MSG_RECALL)
        look_recall(body);
    if (h->kind == WIRE_REQUEST && h->type == MSG_WRITE)
        look_write(from, body);
    if (h->kind == WIRE_REPLY && h->status == 0 && h->type == MSG_WRITE)
        look_write_reply(body);
    if (h->kind == WIRE_REQUEST && h->type == MSG_COMMIT)
        look_commit(body);
    if (h->kind == WIRE_REPLY && h->status == 0 && h->type == MSG_COMMIT)
        look_commit_reply(body);
    if (h->kind == WIRE_REPLY && h->status == 0 && h->type == MSG_SETATTR)
        look_setattr_reply(body);
}

void coverage_arrived(const struct wire_header *h, struct slice body)
{
    const struct wire_schema *schema = schema_of(h->type, WIRE_REQUEST);
    const struct req_ctx *ctx;
    struct watermark *w;
    void *req;

    if (!counts || !schema || h->kind != WIRE_REQUEST || h->type < MSG_MAKE || h->type > MSG_COMMIT)
        return;
    wire_arena_reset(&arena);
    req = wire_arena_alloc(&arena, schema->size);
    if (!req || wire_decode(body, schema, &arena, req) < 0)
        return;
    ctx = req; /* the first of every request of a session */
    w = &watermarks[ctx->session % WATERMARKS];
    if (w->session != ctx->session)
        *w = (struct watermark){.session = ctx->session};
    if (ctx->seq <= w->seq)
        saw(SEEN_BELOW_WATERMARK);
    w->seq = MAX(w->seq, ctx->watermark);
}

static bool print_one(const char *text, uint64_t n)
{
    printf("  %10" PRIu64 "  %s%s\n", n, text, n ? "" : "   <- never reached");
    return n > 0;
}

bool coverage_print(void)
{
    bool all = true;

    for (size_t i = 0; i < ARRAY_SIZE(logged); i++)
        all &= print_one(logged[i][0], counts->logged[i]);
    for (size_t i = 0; i < ARRAY_SIZE(sent); i++)
        all &= print_one(sent[i].text, counts->sent[i]);
    for (size_t i = 0; i < N_SEEN; i++)
        all &= print_one(seen[i], counts->seen[i]) || i == SEEN_UNCLEAN_END;
    return all;
}
