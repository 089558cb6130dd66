/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the verbs that look at files and their chunks share: the cluster map from the leader, the stores, a file of a
 * mount as an inode number and a size.
 */
#pragma once

#include "common/map.h"
#include "rpc.h"
#include "tercet.h"

#define TOOL_CHUNK_BYTES (1u << 20)
#define TOOL_CHUNK_BLOCKS 256u

struct tool_data {
    const struct cli *cli;
    struct env *env;
    struct tool_members members;
    struct tool_status status; /* as the leader, at least, said at ... */
    uint64_t looked;           /* ... this time: at the opening, and when a store did not answer */
    struct map *map;
    uint64_t tag; /* of the cluster */
};

struct tool_file {
    uint64_t ino, size;
    uint32_t chunks;
};

/* Members, env, status and the whole map. False: exit with *ret_status. The caller ends with tool_data_close() anyhow. */
TC_MUST_CHECK bool tool_data_open(struct cli *cli, const char *servers, struct tool_data *d, int *ret_status);
/* The leader has not heard that member for seconds, or it is none of the group's: it is not waited for. */
bool tool_member_silent(const struct tool_data *d, uint32_t id);
void tool_data_close(struct tool_data *d);
bool tool_on_mount(const char *path); /* true also if that cannot be said: errors are told by whoever opens it */
/* A regular file on a Tercet mount, what was written to it flushed. False: *ret_status, said why. */
TC_MUST_CHECK bool tool_file_open(const struct cli *cli, const char *path, struct tool_file *f, int *ret_status);

/* The leader's entry of a store, or NULL. */
const json_t *tool_store_status(const struct tool_data *d, uint64_t store);
/* The id of a store in a document of its. */
uint64_t tool_store_id(const json_t *store);
/* Like rpc_ask(), of stores (req->stores are their ids, 0: no store): one that the leader calls down is UNREACHABLE at once. */
void tool_stores_ask(struct tool_data *d, const char *const *endpoints, unsigned n, const struct rpc_request *req,
                     struct rpc_answer *answers);
/* The first chunk of @f at or behind @from that is no hole, f->chunks: there is none. @from itself if that cannot be said. */
uint32_t tool_chunk_from(struct tool_data *d, const struct tool_file *f, uint32_t from);
/* SCRUB of several stores (@stores: their ids, 0: a member of the metadata group) at once: documents, NULL where none
 * came. The caller drops them. */
void tool_scrub_ask(struct tool_data *d, const char *const *endpoints, const uint64_t *stores, unsigned n,
                    const struct scrub_req *req, uint64_t timeout_ms, json_t **docs, int *statuses);
/* "2026-01-31 12:00", "never". Returns @out. */
const char *format_time(uint64_t ns, char out[32]);
