/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster's configuration: one file for all daemons and tools, the same on every machine.
 *
 * There is one table (config.c): the parser, --help and tercet.conf(5) are made from it. Anything it
 * does not know is an error: a mistyped key must not silently mean a default.
 */
#pragma once

#include <stdio.h>

#include "common/base.h"
#include "common/error.h"
#include "common/log.h"

#define CONFIG_METAS_MAX 7
#define CONFIG_STORAGES_MAX 1024
#define CONFIG_PORT_META 7101 /* where a metadata member is looked for when only a host is named */
#define CONFIG_PATH_DEFAULT "/etc/tercet/tercet.conf"

struct config_cluster {
    char *name;
    uint64_t n, w, r, pg_count;
    uint64_t rebuild_after_ms;
};

struct config_node { /* a [meta.ID] or [storage.ID] section */
    uint32_t id;
    uint32_t line; /* of the section, for messages */
    char *endpoint;
    char *listen; /* NULL: endpoint */
    char *data;
    char *zone;       /* storage; NULL: none */
    uint64_t reserve; /* storage; 0: its default */
};

struct config_raft {
    uint64_t heartbeat_ms, election_ms;
};

struct config_limits {
    uint64_t memory_max, client_memory_max;
};

struct config_scrub {
    uint64_t rate, interval; /* bytes, seconds; interval 0: on request only */
};

struct config_log {
    uint64_t level; /* enum log_level */
};

struct config {
    char *path;
    struct config_cluster cluster;
    struct config_raft raft;
    struct config_limits limits;
    struct config_scrub scrub;
    struct config_log log;
    struct config_node *metas; /* ascending id */
    uint32_t n_metas;
    struct config_node *storages; /* ascending id */
    uint32_t n_storages;
};

/*
 * Read and check @path. On error (CONFIG, or what opening the file failed with) @err holds one line that
 * names file, line and what to do. Returns: caller frees with config_free().
 */
TC_MUST_CHECK int config_load(const char *path, struct config **ret_config, char *err, size_t err_size);
/* The same on text; @path is for messages. */
TC_MUST_CHECK int config_parse(const char *text, const char *path, struct config **ret_config, char *err,
                               size_t err_size);
/* Accepts NULL, returns NULL. */
struct config *config_free(struct config *c);

/* NULL if there is no such section. Borrowed. */
const struct config_node *config_meta(const struct config *c, uint32_t id);
const struct config_node *config_storage(const struct config *c, uint32_t id);

/* tcp://HOST:PORT with a port from 1 to 65535 and no blanks. */
bool config_endpoint_ok(const char *s);

/*
 * A list of metadata members as users write it, "host1,host2:7102,[::1]:7103", into endpoints
 * ("tcp://host1:7101", ...). Returns their number; the caller frees strings and array. CONFIG: malformed.
 */
TC_MUST_CHECK int config_parse_servers(const char *list, char ***ret_endpoints);

enum config_type { CONFIG_STRING, CONFIG_ENDPOINT, CONFIG_PATH, CONFIG_NUMBER, CONFIG_BYTES, CONFIG_LEVEL };

/* One setting: what parser, help and manual know of it. */
struct config_setting {
    const char *section; /* "meta." and "storage." take an id */
    const char *key;
    const char *value_default; /* NULL: required; "": none */
    const char *text;
    uint64_t min, max; /* of numbers and bytes */
    enum config_type type;
    uint32_t offset; /* in the section's struct */
};
/* The table for --help, and as the body of a manual page (man(7) source). */
void config_print_help(FILE *f);
void config_print_man(FILE *f);
