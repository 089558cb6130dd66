/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet meta checkpoint: every member that answers writes out what its log holds. A checkpoint may take its time, so who does
 * not answer at all is found out first, and named without waiting for him as long.
 */
#include <inttypes.h>
#include <stdio.h>

#include "common/os_env.h"
#include "tercet.h"

#define ALIVE_MS 2000

/* The @asked answers, in order of those who were asked, to where all members have theirs. */
static void spread(const struct tool_status *s, struct rpc_answer *answers, unsigned asked)
{
    for (unsigned i = s->n; i-- > 0;) {
        if (s->docs[i])
            answers[i] = answers[--asked];
        else
            answers[i] = (struct rpc_answer){.status = s->answers[i].status};
    }
}

int meta_checkpoint(const struct cli *cli, struct env *env, struct tool_members *m, bool json)
{
    struct rpc_request req = {.type = MSG_CHECKPOINT, .body = &(struct empty_msg){0}, .timeout_ms = 120000};
    struct rpc_answer *answers;
    const char **endpoints;
    json_t *list = json_array();
    unsigned good = 0, asked = 0;
    struct tool_status s;

    tool_status_ask(env, m, ALIVE_MS, &s);
    answers = tc_calloc(m->n, sizeof *answers);
    endpoints = tc_calloc(m->n, sizeof *endpoints);
    for (unsigned i = 0; i < m->n; i++) {
        if (s.docs[i])
            endpoints[asked++] = m->endpoints[i];
    }
    rpc_ask(env, endpoints, asked, &req, answers);
    spread(&s, answers, asked);
    for (unsigned i = 0; i < m->n; i++) {
        struct wire_arena a = {0};
        struct checkpoint_res res = {0};
        int r = answers[i].status;

        if (r == 0)
            r = wire_decode(answers[i].body, &checkpoint_res_schema, &a, &res);
        good += r == 0;
        if (json)
            json_array_append_new(list, json_pack("{s:s, s:b, s:I, s:I}", "endpoint", m->endpoints[i], "done", r == 0,
                                                  "index", (json_int_t)res.index, "micros", (json_int_t)res.micros));
        else if (r == 0)
            printf("%s: all up to entry %" PRIu64 " is in the store (%" PRIu64 " ms)\n", m->endpoints[i], res.index,
                   res.micros / 1000);
        else
            (void)cli_failed(cli, "%s: no checkpoint: %s", m->endpoints[i], tc_strerror(r));
        wire_arena_fini(&a);
    }
    if (json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(list);
    rpc_answers_fini(answers, m->n);
    tool_status_fini(&s);
    free(endpoints);
    free(answers);
    return good == m->n ? CLI_OK : CLI_FAILED;
}
