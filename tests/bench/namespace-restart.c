/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A restart at its worst: a member alone in its group (replica, journal, state machine) whose store is the big one takes
 * creates until its log has as many bytes as make a checkpoint due, and dies without one. Then another process starts it.
 * Once as it is, with a store that writes full buffers out by itself; once as if its disk had taken none of them, until all
 * buffers that there are would be full.
 *
 * DIR.member is its directory, with DIR as the store. The log begins where the store was when that was made.
 */
#include "namespace.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/journal.h"
#include "common/os_env.h"
#include "common/schema.h"
#include "meta/replica.h"
#include "meta/replica_disk.h"

#define LOG_BYTES (UINT64_C(64) << 20) /* checkpoint_bytes of a member */
#define AT_ONCE 256u

struct member {
    struct env *env;
    struct replica *r;
    struct kv *kv;
    struct fsm *fsm;
    bool writes;       /* creates until the log is long, then dies */
    uint64_t end;      /* or: stop when this entry is applied */
    uint64_t began_at; /* of applying */
    uint64_t applied, under_way;
    uint64_t longest;  /* turn of the loop, as far as applying goes: ns of one entry */
    uint64_t session, seq, nonce, clock;
    const uint64_t *dirs;
    uint64_t n_dirs, unflushed_max;
    bool full;
};

static void propose(struct member *m, uint32_t type, const struct wire_schema *schema, const void *body)
{
    struct buf *b = wire_encode(schema, body);
    struct command cmd = {.type = type, .time = m->clock += 1000, .body = {b->data, b->len}, .term = replica_term(m->r)};
    struct buf *e = wire_encode(&command_schema, &cmd);

    namespace_must(replica_propose(m->r, slice_of(e->data, e->len), NULL, NULL), "propose");
    m->under_way++;
    buf_unref(e);
    buf_unref(b);
}

static void propose_file(struct member *m)
{
    struct make_req req = {.ctx = {.session = m->session, .incarnation = 1}, .has_ctx = true, .mode = S_IFREG | 0644, .excl = true};
    char name[40];

    m->seq++;
    req.ctx.seq = m->seq;
    req.ctx.watermark = m->seq - 1;
    req.parent = m->dirs[m->seq / NAMESPACE_PER_DIR % m->n_dirs];
    snprintf(name, sizeof name, "f%llu-%llu", (unsigned long long)m->session, (unsigned long long)m->seq);
    req.name = wire_str_of(name);
    propose(m, MSG_MAKE, &make_req_schema, &req);
}

static void on_apply(void *arg, uint64_t index, uint64_t term, struct slice data, void *cookie TC_UNUSED)
{
    struct member *m = arg;
    struct fsm_result res = {0};
    uint64_t from = namespace_now();

    if (!m->began_at)
        m->began_at = from;
    namespace_must(fsm_apply(m->fsm, index, term, data, &res), "apply");
    namespace_must(data.len ? res.status : 0, "entry");
    m->longest = MAX(m->longest, namespace_now() - from);
    m->applied++;
    m->under_way -= m->under_way > 0;
    if (res.type == MSG_SESSION_OPEN)
        m->session = res.session;
    fsm_result_fini(&res);
    if (!m->writes) {
        if (index >= m->end)
            os_env_stop(m->env, 0);
        return;
    }
    if (m->unflushed_max && index % AT_ONCE == 0) {
        struct kv_stats stats;

        kv_stats(m->kv, &stats);
        m->full |= stats.unflushed >= m->unflushed_max;
    }
    m->full |= replica_log_bytes(m->r) >= LOG_BYTES;
    if (m->full && m->under_way == 0) {
        printf("log        %llu creates in %llu MiB behind the store, and the member dies\n", (unsigned long long)m->seq,
               (unsigned long long)(replica_log_bytes(m->r) >> 20));
        (void)fflush(stdout);
        _exit(0); /* as kill -9: nothing is flushed */
    }
    if (!m->session && !data.len) {
        struct session_open_req open = {.has_ctx = true, .nonce = m->nonce};

        propose(m, MSG_SESSION_OPEN, &session_open_req_schema, &open);
    }
    while (m->session && m->under_way < AT_ONCE && !m->full)
        propose_file(m);
}

static void on_leader(void *arg TC_UNUSED, uint64_t term TC_UNUSED, uint32_t leader TC_UNUSED, bool self TC_UNUSED)
{
}

static void on_lost(void *arg TC_UNUSED, void *cookie TC_UNUSED, int err)
{
    namespace_must(err, "lost");
}

static void on_failed(void *arg TC_UNUSED, int err)
{
    namespace_must(err, "the log");
}

static const struct replica_ops ops = {.apply = on_apply, .leader_changed = on_leader, .lost = on_lost, .failed = on_failed};

static int no_record(void *arg TC_UNUSED, uint64_t pos TC_UNUSED, struct slice record TC_UNUSED)
{
    return -TC_E_DAMAGED;
}

/* A member's directory whose log begins behind the store @dir. */
static void make_dir(struct env *env, const char *dir, struct fsm *fsm)
{
    struct vfs *vfs = env_vfs(env);
    struct replica_base base = {.kv_gen = 1, .log_gen = 1, .index = fsm_applied(fsm), .term = fsm_applied_term(fsm),
                                .config = {.n = 1, .members = {{.id = 1, .role = RAFT_VOTER}}}};
    struct replica_state state = {.seq = 1, .id = 1, .cluster = 1, .term = base.term};
    char *member = tc_asprintf("%s.member", dir), *path = tc_asprintf("%s/kv-1", member), *real = realpath(dir, NULL);
    struct journal *log = NULL;

    namespace_must(vfs_make_dir(vfs, member), member);
    (void)unlink(path);
    namespace_must(real && symlink(real, path) == 0 ? 0 : -TC_E_IO, path);
    free(path);
    path = tc_asprintf("%s/log-1", member);
    replica_dir_remove(vfs, path);
    namespace_must(journal_open(env, path, NULL, no_record, NULL, NULL, &log), path);
    journal_close(log);
    namespace_must(replica_base_write(vfs, member, &base), member);
    namespace_must(replica_state_write(vfs, member, &state), member);
    free(path);
    free(member);
    free(real);
}

static void open_log(struct member *m, const char *dir)
{
    static const struct replica_peer self = {1, "tcp://127.0.0.1:1"};
    char *path = tc_asprintf("%s.member", dir), why[REPLICA_WHY_MAX] = "";
    struct replica_config cfg = {.id = 1, .peers = &self, .n_peers = 1, .dir = path, .ops = &ops, .arg = m};

    if (replica_open(m->env, &cfg, why, sizeof why, &m->r) < 0) {
        fprintf(stderr, "%s\n", why);
        exit(1);
    }
    free(path);
}

void namespace_restart_log(const char *dir, struct kv *kv, struct fsm *fsm, const uint64_t *dirs, uint64_t n_dirs, uint64_t unflushed_max)
{
    struct member m = {.kv = kv, .fsm = fsm, .writes = true, .dirs = dirs, .n_dirs = n_dirs, .unflushed_max = unflushed_max,
                       .nonce = namespace_now(), .clock = fsm_clock(fsm)};

    namespace_must(os_env_new(NULL, &m.env), "env");
    make_dir(m.env, dir, fsm);
    open_log(&m, dir);
    namespace_must(replica_start(m.r, fsm_applied(fsm)), "start");
    os_env_run(m.env);
}

static double seconds(uint64_t from)
{
    return (double)(namespace_now() - from) / NS_PER_S;
}

static double processor(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / NS_PER_S;
}

void namespace_restart_run(const char *dir, const struct kv_options *opt)
{
    struct member m = {.env = NULL};
    uint64_t began, behind;
    double log_s, store_s, cpu;

    namespace_must(os_env_new(NULL, &m.env), "env");
    began = namespace_now();
    open_log(&m, dir);
    log_s = seconds(began);
    namespace_must(kv_open_rocks(replica_kv_path(m.r), opt, &m.kv), "store");
    namespace_must(fsm_open(m.kv, &m.fsm), "store");
    store_s = seconds(began) - log_s;
    m.end = replica_last(m.r);
    behind = m.end - fsm_applied(m.fsm);
    cpu = processor();
    namespace_must(replica_start(m.r, fsm_applied(m.fsm)), "start");
    if (behind > 0)
        os_env_run(m.env);
    printf("replay     %.2f s to read the log, %.2f s to open the store, which had all but the last %llu of its entries; %.2f s to "
           "apply these (%.2f s of processor, one at most %.1f ms), %.2f s in all, an election among them\n",
           log_s, store_s, (unsigned long long)behind, m.began_at ? seconds(m.began_at) : 0, processor() - cpu,
           (double)m.longest / NS_PER_MS, seconds(began));
    replica_close(m.r);
    fsm_close(m.fsm);
    kv_close(m.kv);
    os_env_free(m.env);
}
