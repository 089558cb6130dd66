/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata members as they and their leader see them: conclusions, and the table.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "report.h"

#define MEMBER_BEHIND 10000 /* entries */

void report_problem(struct report *r, enum severity severity, const char *cure, const char *fmt, ...)
{
    static const char *const names[] = {"info", "warning", "error"};
    char *what = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&what, fmt, ap) < 0)
        what = NULL;
    va_end(ap);
    json_array_append_new(r->problems, json_pack("{s:s, s:s, s:s}", "severity", names[severity], "what",
                                                 what ? what : "?", "cure", cure));
    r->unhealthy = r->unhealthy || severity > SEVERITY_INFO;
    free(what);
}

const char *report_config(const struct report *r)
{
    return r->m->config ? r->m->config->path : "FILE";
}

uint32_t report_member_id(const struct report *r, unsigned i)
{
    return r->m->ids[i] ? r->m->ids[i] : (uint32_t)json_u64(r->s.docs[i], "id", 0);
}

const json_t *report_leader_says(const struct report *r, unsigned i)
{
    return json_by_id(json_object_get(r->leader, "members"), report_member_id(r, i));
}

/* Who is of the group, by whoever knows best; NULL: nobody says. */
static const json_t *group_of(const struct report *r)
{
    const json_t *now = json_object_get(r->leader, "members");

    return now ? now : tool_last_group(&r->s);
}

/* ---- one member ---- */

static void check_answer(struct report *r, unsigned i)
{
    const json_t *d = r->s.docs[i];
    uint32_t id = report_member_id(r, i);
    const char *endpoint = r->m->endpoints[i];

    if (json_text(d, "trouble", NULL))
        report_problem(r, SEVERITY_WARNING,
                       json_text(d, "trouble_cure", "see its log; if its disk is lost, empty its data directory and start it again"),
                       "metadata member %" PRIu32 " (%s): %s", id, endpoint, json_text(d, "trouble", ""));
    if (json_text(d, "aside", NULL)) {
        char *remove = tc_asprintf("look at its disk; when nothing else is wrong: tercet clean member %" PRIu32, id), text[16];

        report_problem(r, SEVERITY_INFO, remove, "metadata member %" PRIu32 " (%s) was damaged and keeps the files (%s): %s",
                       id, endpoint, format_bytes(json_u64(d, "aside_bytes", 0), text), json_text(d, "aside_why", ""));
        free(remove);
    }
    if (json_object_get(d, "disk_free"))
        report_problem(r, SEVERITY_WARNING, "make room on the file system of its data directory, or move it to a larger one",
                       "the disk of metadata member %" PRIu32 " (%s) is nearly full: %" PRIu64 " MiB free", id, endpoint,
                       json_u64(d, "disk_free", 0) >> 20);
    if (json_is_true(json_object_get(d, "wrong_cluster")))
        report_problem(r, SEVERITY_ERROR, "look which data directory or configuration is in the wrong place",
                       "metadata member %" PRIu32 " (%s) is spoken to by members of another cluster", id, endpoint);
}

static void check_silent(struct report *r, unsigned i)
{
    uint32_t id = report_member_id(r, i);
    char *cure = tc_asprintf("start it: tercet-meta --config=%s --id=%" PRIu32
                             "; if it runs, look at its log and at the network",
                             report_config(r), id);

    report_problem(r, SEVERITY_WARNING, cure, "metadata member %" PRIu32 " (%s) is down: %s", id, r->m->endpoints[i],
                   tc_strerror(r->s.answers[i].status));
    free(cure);
}

/* Configured, and not of the group: being brought in, or removed and left in the file. */
static void check_stranger(struct report *r, unsigned i)
{
    char *cure = tc_asprintf("tercet meta add %" PRIu32 ", or take it out of %s", report_member_id(r, i),
                             report_config(r));

    report_problem(r, SEVERITY_INFO, cure, "meta.%" PRIu32 " (%s) is not a member of the group", report_member_id(r, i),
                   r->m->endpoints[i]);
    free(cure);
}

static void check_lag(struct report *r)
{
    uint64_t last = json_u64(r->leader, "last", 0);
    const json_t *m;
    size_t i;

    json_array_foreach(json_object_get(r->leader, "members"), i, m)
    {
        uint64_t match = json_u64(m, "match", last), id = json_u64(m, "id", 0);
        bool standby = json_is_true(json_object_get(m, "standby"));
        char *cure = tc_asprintf("tercet meta promote %" PRIu64 ", when it has caught up", id);

        if (last > match && last - match > MEMBER_BEHIND)
            report_problem(r, SEVERITY_WARNING, "it catches up by itself; if it does not, look at its log and disk",
                           "metadata member %" PRIu64 " is %" PRIu64 " entries behind", id, last - match);
        if (standby)
            report_problem(r, SEVERITY_INFO, cure, "metadata member %" PRIu64 " was added and does not vote yet", id);
        else if (json_is_true(json_object_get(m, "learner")))
            report_problem(r, SEVERITY_WARNING, "it is being filled again and votes when it is done: wait",
                           "metadata member %" PRIu64 " does not vote yet", id);
        free(cure);
    }
}

void report_members(struct report *r)
{
    unsigned n = 0, up = 0, formatted = 0, answers = 0;
    const json_t *group = group_of(r);
    bool loading = false;

    for (unsigned i = 0; i < r->s.n; i++) {
        const json_t *d = r->s.docs[i], *said = json_by_id(group, report_member_id(r, i));
        bool voter = !group || (said && !json_is_true(json_object_get(said, "learner")));

        answers += d != NULL;
        loading = loading || json_is_true(json_object_get(d, "loading"));
        n += voter;
        up += d && voter;
        formatted += d && json_is_true(json_object_get(d, "formatted"));
        if (group && !said)
            check_stranger(r, i);
        else if (!d)
            check_silent(r, i);
        if (d)
            check_answer(r, i);
    }
    if (loading)
        report_problem(r, SEVERITY_ERROR, "run tercet meta load FILE to its end, again if it was cut short",
                       "a dump of the metadata is being loaded: nobody is served");
    if (answers > 0 && formatted == 0)
        report_problem(r, SEVERITY_ERROR, "run tercet format; to restore a dump: tercet meta load FILE", "the cluster is not formatted");
    else if (2 * up <= n)
        report_problem(r, SEVERITY_ERROR, "bring members up until more than half of them run; nothing is lost meanwhile. Only if "
                       "the disks of the others are lost for good: tercet meta recover",
                       "no quorum: %u of %u metadata members answer; everything that needs them waits", up, n);
    else if (r->s.leader < 0)
        report_problem(r, SEVERITY_ERROR, "wait a second; if it stays so, the members do not reach each other: look at their logs",
                       "no leader: %u of %u metadata members answer, but none leads", up, n);
    if (r->leader)
        check_lag(r);
}

/* ---- for humans ---- */

void report_print_problems(const struct report *r)
{
    const json_t *p;
    size_t i;

    json_array_foreach(r->problems, i, p)
    {
        bool info = strcmp(json_text(p, "severity", ""), "info") == 0;

        printf("  %c %s\n    -> %s\n", info ? '-' : '!', json_text(p, "what", ""), json_text(p, "cure", ""));
    }
}

/* How the leader's log gets to it. */
static void print_way(const struct report *r, const json_t *said)
{
    const char *state = json_text(said, "state", "");
    char bytes[16];

    if (json_u64(said, "id", 0) == json_u64(r->leader, "id", 0))
        return;
    printf("  behind %" PRIu64, json_u64(said, "lag", 0));
    if (strcmp(state, "snapshot") == 0)
        printf("  snapshot: %s sent", format_bytes(json_u64(said, "snapshot_bytes", 0), bytes));
    else if (strcmp(state, "replicate") != 0)
        printf("  looking for where its log ends");
}

void report_print_members(const struct report *r)
{
    printf("\nmetadata members\n");
    for (unsigned i = 0; i < r->s.n; i++) {
        const json_t *d = r->s.docs[i], *said = report_leader_says(r, i);

        printf("  %-4" PRIu32 " %-28s ", report_member_id(r, i), r->m->endpoints[i]);
        if (r->leader && json_object_get(r->leader, "members") && !said)
            printf("%s\n", d ? "no member" : "no member, DOWN");
        else if (d)
            printf("%-10s term %-5" PRIu64 " commit %-8" PRIu64 " applied %" PRIu64, json_text(d, "role", "?"),
                   json_u64(d, "term", 0), json_u64(d, "commit", 0), json_u64(d, "applied", 0));
        else
            printf("DOWN      ");
        if (said && d && json_is_true(json_object_get(d, "installing")))
            printf("  takes a snapshot in");
        if (said)
            print_way(r, said);
        if (said || !r->leader)
            printf("\n");
    }
}
