/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command `tercet`: what its verbs share. Each verb is a cmd_*.c with one function that gets its own
 * command line and returns the exit status.
 */
#pragma once

#include <jansson.h>

#include "common/cli.h"
#include "common/env.h"
#include "rpc.h"

#define TOOL_TIMEOUT_MS 15000
#define TOOL_MEMBERS_MAX 32

int cmd_format(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_locate(int argc, char **argv);
int cmd_scrub(int argc, char **argv);
int cmd_clean(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_node(int argc, char **argv);
int cmd_umount(int argc, char **argv);
int cmd_meta(int argc, char **argv);

/* Options that most verbs have. */
#define OPTION_JSON(flag_) {.name = "json", .text = "answer as JSON", .flag = (flag_)}
#define OPTION_SERVERS(string_)                                                                                         \
    {.name = "servers", .value = "LIST", .text = "metadata members, HOST[:PORT],..., instead of a configuration",        \
     .string = (string_)}

/* The metadata members a tool talks to: of the configuration, or of a list of servers. */
struct tool_members {
    char **endpoints;
    uint32_t *ids; /* 0: not known before the member says it */
    unsigned n;
    struct config *config; /* NULL: a list was given */
};

/* From --servers=LIST (if not NULL), else from the configuration. False: exit with *ret_status. */
TC_MUST_CHECK bool tool_members_open(struct cli *cli, const char *servers, struct tool_members *m,
                                     int *ret_status);
void tool_members_fini(struct tool_members *m);

/* One more; its id is learnt when it says it. */
void tool_members_add(struct tool_members *m, uint32_t id, const char *endpoint);

/* STATUS of every member, parsed; also of members that the leader names and @m does not, which are added to @m.
 * docs[i] is NULL where there was no good answer (answers[i].status says why). The caller ends with
 * tool_status_fini(). */
struct tool_status {
    struct rpc_answer *answers;
    json_t **docs;
    unsigned n;
    int leader; /* index of the member that says it leads (of several: of the highest term); -1: none */
};
void tool_status_ask(struct env *env, struct tool_members *m, uint64_t timeout_ms, struct tool_status *ret);
/* The same for those who only want the leader's: the others are waited for until it has answered. */
void tool_leader_ask(struct env *env, struct tool_members *m, uint64_t timeout_ms, struct tool_status *ret);
/* Who is of the group, by the member that has applied most of its log: where nobody leads. NULL: nobody says. */
const json_t *tool_last_group(const struct tool_status *s);
void tool_status_fini(struct tool_status *s);

/* Values of a JSON object, with a default where absent or of another type. */
uint64_t json_u64(const json_t *o, const char *key, uint64_t otherwise);
const char *json_text(const json_t *o, const char *key, const char *otherwise);
/* The object of an array whose "id" is @id; NULL: none. */
const json_t *json_by_id(const json_t *array, uint64_t id);
/* tercet meta dump, load, checkpoint, recover (cmd_meta_dump.c): is the command line one of these? */
bool cmd_meta_keeps(int argc, char **argv);
int cmd_meta_keep(int argc, char **argv);
/* cmd_meta_checkpoint.c. Returns an exit status. */
int meta_checkpoint(const struct cli *cli, struct env *env, struct tool_members *m, bool json);
/* cmd_meta_recover.c. Returns an exit status. */
int meta_recover(const struct cli *cli, struct env *env, struct tool_members *m, uint32_t id, bool sure);

/* cmd_format.c: steps of making a group. Return 0 or an exit status; what is wrong is said. */
int format_check_members(const struct cli *cli, struct env *env, struct tool_members *m, char **ret_begun);
int format_genesis_begun(const struct cli *cli, const struct tool_members *m, const char *hex, struct wire_arena *arena,
                         struct genesis *g);
int format_send(const struct cli *cli, struct env *env, struct tool_members *m, const struct genesis *g);
int format_wait_leader(const struct cli *cli, struct env *env, struct tool_members *m);

/* "1.5 GiB" in @out. Returns @out. */
const char *format_bytes(uint64_t bytes, char out[16]);
