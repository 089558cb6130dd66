/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet meta recover: a majority of the metadata members is lost for good, one is left. Works on its directory while
 * it is stopped (replica_recover()); says first what there is, and does nothing without being told that data may be
 * lost. Refuses where it can see that nothing is lost: somebody leads, or a majority still answers.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/os_env.h"
#include "meta/fsm.h"
#include "meta/replica.h"
#include "tercet.h"

/* May it be done? Others are asked, as far as they answer. */
static int group_is_lost(const struct cli *cli, struct env *env, struct tool_members *m)
{
    struct tool_status s;
    unsigned up = 0;
    int status = 0;

    tool_status_ask(env, m, 2000, &s);
    for (unsigned i = 0; i < s.n; i++)
        up += s.docs[i] && json_is_true(json_object_get(s.docs[i], "formatted"));
    if (s.leader >= 0)
        status = cli_failed(cli, "member meta.%" PRIu32 " leads: nothing is lost, nothing was changed", m->ids[s.leader]);
    else if (2 * up > s.n)
        status = cli_failed(cli, "%u of %u members answer: they can elect a leader, see tercet status; nothing was changed",
                            up, s.n);
    tool_status_fini(&s);
    return status;
}

/* The store behind the log: is it whole, of which cluster, how far? */
static int store_look(const struct cli *cli, const struct config *config, const char *dir, const char *path,
                      uint64_t *ret_applied)
{
    const struct genesis *g;
    struct kv *kv = NULL;
    struct fsm *fsm = NULL;
    int status = 0, r = kv_open_rocks(path, NULL, &kv);

    if (r == 0)
        r = fsm_open(kv, &fsm);
    if (r < 0) {
        kv_close(kv);
        return cli_failed(cli, "%s: the store of this member is not whole: %s; nothing was changed", dir, tc_strerror(r));
    }
    g = fsm_genesis(fsm);
    if (g && (g->name.n != strlen(config->cluster.name) || memcmp(g->name.p, config->cluster.name, g->name.n) != 0))
        status = cli_failed(cli, "%s: belongs to cluster \"%.*s\"; nothing was changed", dir, (int)g->name.n, g->name.p);
    *ret_applied = fsm_applied(fsm);
    fsm_close(fsm);
    kv_close(kv);
    return status;
}

struct written {
    struct env *env;
    int err;
    bool done;
};

static void on_recovered(void *arg, int err)
{
    struct written *w = arg;

    w->err = err;
    w->done = true;
    os_env_stop(w->env, 0);
}

static void say_what(const struct replica_status *s, uint32_t id, const char *dir, uint64_t applied)
{
    printf("Member meta.%" PRIu32 " (%s)\n  log: entries up to %" PRIu64 ", term %" PRIu64 "; store as of entry %" PRIu64
           "\n  group as this member knows it:",
           id, dir, s->last, s->term, applied);
    for (unsigned i = 0; i < s->n_peers; i++)
        printf(" meta.%" PRIu32 "%s", s->peers[i].id, s->peers[i].voter ? "" : " (does not vote)");
    printf("\n\n"
           "It becomes the ONLY member of the group.\n"
           "  - Whatever other members had acknowledged and this one had not received IS LOST.\n"
           "    Look at the logs of all members you still have: take the one with the highest term, then the longest log.\n"
           "  - The other members must NEVER be started again with the directories they have now. Empty them.\n");
}

static int recover_open(const struct cli *cli, struct env *env, const struct config *config,
                        const struct config_node *node, bool sure)
{
    static const struct replica_ops none;
    struct replica_peer self = {node->id, node->endpoint};
    struct replica_config rc = {.id = node->id, .peers = &self, .n_peers = 1, .dir = node->data, .ops = &none};
    struct written w = {.env = env};
    struct replica_status s;
    struct replica *r = NULL;
    uint64_t applied = 0;
    char why[512] = "";
    int status, err = replica_open(env, &rc, why, sizeof why, &r);

    if (err < 0)
        return cli_failed(cli, "%s", why[0] ? why : tc_strerror(err));
    replica_get_status(r, &s);
    if (!s.formatted)
        status = cli_failed(cli, "%s: this member was never formatted; nothing was changed", node->data);
    else
        status = store_look(cli, config, node->data, replica_kv_path(r), &applied);
    if (status == 0 && (applied > s.last || applied + 1 < s.first))
        status = cli_failed(cli, "%s: log and store do not meet; nothing was changed", node->data);
    if (status == 0) {
        say_what(&s, node->id, node->data, applied);
        if (!sure)
            status = cli_failed(cli, "nothing was changed. If this is what you want: --yes-i-lose-data");
    }
    if (status == 0) {
        replica_recover(r, on_recovered, &w);
        if (!w.done)
            (void)os_env_run(env);
        if (w.err < 0)
            status = cli_failed(cli, "%s: cannot be written: %s", node->data, tc_strerror(w.err));
        else
            printf("\nDone. Start tercet-meta --id=%" PRIu32 "; it leads alone. Then bring the group back to three:\n"
                   "empty the directories of the others, start them, and tercet meta add each.\n",
                   node->id);
    }
    replica_close(r);
    return status;
}

int meta_recover(const struct cli *cli, struct env *env, struct tool_members *m, uint32_t id, bool sure)
{
    const struct config_node *node = config_meta(m->config, id);
    struct vfs_file *lock = NULL;
    char *path;
    int status, r;

    if (!node)
        return cli_usage_error(cli, "--id=N is missing, or %s has no such section [meta.N]", cli->config_path);
    status = group_is_lost(cli, env, m);
    if (status != 0)
        return status;
    path = tc_asprintf("%s/lock", node->data);
    r = vfs_lock(env_vfs(env), path, &lock);
    free(path);
    if (r == -TC_E_LOCKED_DIR)
        return cli_failed(cli, "%s is in use: stop tercet-meta first; nothing was changed", node->data);
    if (r < 0)
        return cli_failed(cli, "%s: %s", node->data, tc_strerror(r));
    status = recover_open(cli, env, m->config, node, sure);
    vfs_close(lock);
    return status;
}
