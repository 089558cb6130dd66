/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parsing and checking of the configuration. libinih takes the lines apart; a reader in between counts
 * them and strips indentation (which libinih would take for a continued value).
 *
 * The first error wins: it is written to the parser's buffer, and the rest is read without effect.
 */
#include "common/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <ini.h>

#define FILE_MAX (1 << 20)

#define AT(type, field) (uint32_t)offsetof(struct type, field)

/* clang-format off */
static const struct config_setting settings[] = {
    {"cluster", "name", "tercet", "name of the cluster, shown by status",
     0, 0, CONFIG_STRING, AT(config_cluster, name)},
    {"cluster", "n", "3", "copies of each block; fixed when the cluster is formatted, as are w, r and pg_count",
     1, 7, CONFIG_NUMBER, AT(config_cluster, n)},
    {"cluster", "w", "2", "copies that must be durable before a write is acknowledged; 2w > n",
     1, 7, CONFIG_NUMBER, AT(config_cluster, w)},
    {"cluster", "r", "2", "copies whose versions a read compares; w + r > n",
     1, 7, CONFIG_NUMBER, AT(config_cluster, r)},
    {"cluster", "pg_count", "4096", "placement groups that chunks are hashed to",
     1, 65536, CONFIG_NUMBER, AT(config_cluster, pg_count)},
    {"cluster", "rebuild_after_ms", "0", "how long a storage node is down before its copies are made on others; 0: at once",
     0, UINT64_C(30) * 86400 * 1000, CONFIG_NUMBER, AT(config_cluster, rebuild_after_ms)},
    {"meta.", "endpoint", NULL, "where others reach this metadata member: tcp://HOST:PORT",
     0, 0, CONFIG_ENDPOINT, AT(config_node, endpoint)},
    {"meta.", "listen", "", "where it listens, if not at its endpoint: tcp://ADDRESS:PORT or tcp://*:PORT",
     0, 0, CONFIG_ENDPOINT, AT(config_node, listen)},
    {"meta.", "data", NULL, "its data directory, an absolute path",
     0, 0, CONFIG_PATH, AT(config_node, data)},
    {"storage.", "endpoint", NULL, "where others reach this storage node: tcp://HOST:PORT",
     0, 0, CONFIG_ENDPOINT, AT(config_node, endpoint)},
    {"storage.", "listen", "", "where it listens, if not at its endpoint: tcp://ADDRESS:PORT or tcp://*:PORT",
     0, 0, CONFIG_ENDPOINT, AT(config_node, listen)},
    {"storage.", "data", NULL, "its data directory, an absolute path",
     0, 0, CONFIG_PATH, AT(config_node, data)},
    {"storage.", "zone", "", "what fails together with it (rack, room): copies go to different zones",
     0, 0, CONFIG_STRING, AT(config_node, zone)},
    {"storage.", "reserve", "0",
     "bytes of its disk never given to data; 0: 5 % of the disk, at least 64M (of a small one a quarter), at most 256M",
     0, UINT64_C(1) << 50, CONFIG_BYTES, AT(config_node, reserve)},
    {"raft", "heartbeat_ms", "50", "between heartbeats of the metadata leader",
     5, 60000, CONFIG_NUMBER, AT(config_raft, heartbeat_ms)},
    {"raft", "election_ms", "300", "silence after which an election begins (up to twice that, at random)",
     50, 600000, CONFIG_NUMBER, AT(config_raft, election_ms)},
    {"limits", "memory_max", "512M", "memory that the caches and queues of a server share",
     UINT64_C(64) << 20, UINT64_C(1) << 44, CONFIG_BYTES, AT(config_limits, memory_max)},
    {"limits", "client_memory_max", "256M", "the same of a mount",
     UINT64_C(32) << 20, UINT64_C(1) << 44, CONFIG_BYTES, AT(config_limits, client_memory_max)},
    {"scrub", "rate", "32M", "bytes a second that a storage node reads to find damage",
     UINT64_C(64) << 10, UINT64_C(1) << 40, CONFIG_BYTES, AT(config_scrub, rate)},
    {"scrub", "interval", "604800", "seconds from the beginning of one scrub to the next; 0: only by command",
     0, 315360000, CONFIG_NUMBER, AT(config_scrub, interval)},
    {"log", "level", "info", "what is logged: err, warn, info or debug",
     0, 0, CONFIG_LEVEL, AT(config_log, level)},
};
/* clang-format on */

static const char *const level_names[] = {"err", "warn", "info", "debug"};

/* Sections that may be there once. */
static const char *const single_names[] = {"cluster", "raft", "limits", "log", "scrub"};
enum { SINGLE_CLUSTER = 0, SINGLE_RAFT = 1 };

struct parser {
    struct config *config;
    const char *path;
    const char *text; /* what is left of it */
    uint32_t line;
    uint32_t line_single[5]; /* where the sections of single_names began */
    char section[64];      /* being read */
    bool seen[ARRAY_SIZE(settings)]; /* keys of the section being read */
    char *err;
    size_t err_size;
    bool failed;
};

/* Record the first error. */
static TC_PRINTF(3, 4) void fail(struct parser *p, uint32_t line, const char *fmt, ...)
{
    va_list ap;
    int n;

    if (p->failed)
        return;
    p->failed = true;
    n = line > 0 ? snprintf(p->err, p->err_size, "%s:%" PRIu32 ": ", p->path, line)
                 : snprintf(p->err, p->err_size, "%s: ", p->path);
    if (n < 0 || (size_t)n >= p->err_size)
        return;
    va_start(ap, fmt);
    vsnprintf(p->err + n, p->err_size - (size_t)n, fmt, ap);
    va_end(ap);
}

/* ---- values ----------------------------------------------------------------------------------- */

/* "512M" to bytes; plain numbers too. */
static bool parse_number(const char *s, bool suffix, uint64_t *ret)
{
    static const char units[] = "KMGT";
    uint64_t value = 0;
    const char *unit;

    if (!isdigit((unsigned char)*s))
        return false;
    for (; isdigit((unsigned char)*s); s++) {
        if (value > (UINT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (uint64_t)(*s - '0');
    }
    if (suffix && *s && (unit = strchr(units, toupper((unsigned char)*s)))) {
        unsigned shift = 10 * (unsigned)(unit - units + 1);

        if (value > UINT64_MAX >> shift)
            return false;
        value <<= shift;
        s++;
    }
    *ret = value;
    return *s == '\0';
}

bool config_endpoint_ok(const char *s)
{
    const char *host = s + 6, *colon = strrchr(s, ':');
    uint64_t port;

    if (strncmp(s, "tcp://", 6) != 0 || strlen(s) > 200 || !colon || colon <= host)
        return false;
    for (const char *c = host; c < colon; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("-._:[]*%", *c))
            return false;
    }
    if (memchr(host, ':', (size_t)(colon - host)) && (*host != '[' || colon[-1] != ']'))
        return false;
    return parse_number(colon + 1, false, &port) && port >= 1 && port <= 65535;
}

static void set_number(struct parser *p, const struct config_setting *s, const char *value,
                       uint64_t *out)
{
    uint64_t v;

    if (!parse_number(value, s->type == CONFIG_BYTES, &v)) {
        fail(p, p->line, "%s=%s: not a number%s", s->key, value,
             s->type == CONFIG_BYTES ? " of bytes (use 1048576, 512M, 2G)" : "");
    } else if (v < s->min || v > s->max) {
        fail(p, p->line, "%s=%s: must be from %" PRIu64 " to %" PRIu64, s->key, value, s->min, s->max);
    } else {
        *out = v;
    }
}

static void set_level(struct parser *p, const char *value, uint64_t *out)
{
    for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
        if (strcmp(value, level_names[i]) == 0) {
            *out = i;
            return;
        }
    }
    fail(p, p->line, "level=%s: must be err, warn, info or debug", value);
}

static void set_value(struct parser *p, const struct config_setting *s, void *base, const char *value)
{
    void *at = (char *)base + s->offset;

    if (s->type == CONFIG_NUMBER || s->type == CONFIG_BYTES) {
        set_number(p, s, value, at);
        return;
    }
    if (s->type == CONFIG_LEVEL) {
        set_level(p, value, at);
        return;
    }
    if (s->type == CONFIG_ENDPOINT && !config_endpoint_ok(value))
        fail(p, p->line, "%s=%s: must be tcp://HOST:PORT", s->key, value);
    else if (s->type == CONFIG_PATH && (value[0] != '/' || strlen(value) >= PATH_MAX - 64))
        fail(p, p->line, "%s=%s: must be an absolute path", s->key, value);
    else if (*value == '\0')
        fail(p, p->line, "%s has no value", s->key);
    else
        *(char **)at = tc_strdup(value);
}

/* ---- sections and keys ------------------------------------------------------------------------ */

/* Does @section ("meta.2") belong to the settings of @name ("meta.")? */
static bool section_is(const char *section, const char *name)
{
    size_t len = strlen(name);

    return name[len - 1] == '.' ? strncmp(section, name, len) == 0 : strcmp(section, name) == 0;
}

static void *section_base(struct parser *p)
{
    struct config *c = p->config;

    if (section_is(p->section, "meta."))
        return &c->metas[c->n_metas - 1];
    if (section_is(p->section, "storage."))
        return &c->storages[c->n_storages - 1];
    if (strcmp(p->section, "cluster") == 0)
        return &c->cluster;
    if (strcmp(p->section, "raft") == 0)
        return &c->raft;
    if (strcmp(p->section, "scrub") == 0)
        return &c->scrub;
    if (strcmp(p->section, "limits") == 0)
        return &c->limits;
    ASSERT(strcmp(p->section, "log") == 0);
    return &c->log;
}

static void set_defaults(struct parser *p, const char *section, void *base)
{
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        if (section_is(section, settings[i].section) && settings[i].value_default &&
            *settings[i].value_default)
            set_value(p, &settings[i], base, settings[i].value_default);
    }
}

/* The section just read is over: has it all it must have? */
static void section_end(struct parser *p)
{
    for (size_t i = 0; i < ARRAY_SIZE(settings) && p->section[0]; i++) {
        const struct config_setting *s = &settings[i];

        if (section_is(p->section, s->section) && !s->value_default && !p->seen[i]) {
            struct config_node *n = section_base(p);

            fail(p, n->line, "[%s] has no %s; add %s=%s", p->section, s->key, s->key,
                 s->type == CONFIG_ENDPOINT ? "tcp://HOST:PORT" : "/DIRECTORY");
        }
    }
    memset(p->seen, 0, sizeof p->seen);
}

static void node_begin(struct parser *p, const char *id_text, struct config_node **nodes, uint32_t *n,
                       uint32_t n_max)
{
    uint64_t id;

    if (!parse_number(id_text, false, &id) || id < 1 || id > 100000) {
        fail(p, p->line, "[%s]: the id must be a number from 1 to 100000", p->section);
        p->section[0] = '\0';
        return;
    }
    for (uint32_t i = 0; i < *n; i++) {
        if ((*nodes)[i].id == id)
            fail(p, p->line, "[%s] was there before, in line %" PRIu32 "; give each one an id of its own",
                 p->section, (*nodes)[i].line);
    }
    if (*n == n_max) {
        fail(p, p->line, "[%s]: more than %" PRIu32 " of them", p->section, n_max);
        p->section[0] = '\0';
        return;
    }
    *nodes = tc_realloc(*nodes, (*n + 1) * sizeof **nodes);
    (*nodes)[*n] = (struct config_node){.id = (uint32_t)id, .line = p->line};
    set_defaults(p, p->section, &(*nodes)[(*n)++]);
}

static void section_begin(struct parser *p, const char *name)
{
    struct config *c = p->config;

    section_end(p);
    snprintf(p->section, sizeof p->section, "%s", name);
    if (section_is(name, "meta.")) {
        node_begin(p, name + 5, &c->metas, &c->n_metas, CONFIG_METAS_MAX);
        return;
    }
    if (section_is(name, "storage.")) {
        node_begin(p, name + 8, &c->storages, &c->n_storages, CONFIG_STORAGES_MAX);
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(single_names); i++) {
        if (strcmp(name, single_names[i]) != 0)
            continue;
        if (p->line_single[i] > 0)
            fail(p, p->line, "[%s] was there before, in line %" PRIu32, name, p->line_single[i]);
        p->line_single[i] = p->line;
        return;
    }
    fail(p, p->line,
         "unknown section [%s]; known are [cluster], [meta.ID], [storage.ID], [raft], [limits], [scrub] and [log]",
         name);
    p->section[0] = '\0';
}

static void fail_unknown_key(struct parser *p, const char *key)
{
    char known[256] = "";
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        if (section_is(p->section, settings[i].section) && n < sizeof known)
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", settings[i].key);
    }
    fail(p, p->line, "unknown key '%s' in [%s]; known are: %s", key, p->section, known);
}

/* libinih's handler: one key. */
static int on_key(void *user, const char *section, const char *key, const char *value)
{
    struct parser *p = user;

    if (p->failed)
        return 1;
    if (section[0] == '\0') {
        fail(p, p->line, "'%s' stands before any section; put it under one, as [cluster]", key);
        return 1;
    }
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        if (!section_is(p->section, settings[i].section) || strcmp(key, settings[i].key) != 0)
            continue;
        if (p->seen[i]) {
            fail(p, p->line, "%s is given twice in [%s]", key, p->section);
            return 1;
        }
        p->seen[i] = true;
        if (settings[i].type <= CONFIG_PATH) { /* a default's copy */
            char **at = (char **)(void *)((char *)section_base(p) + settings[i].offset);

            free(*at);
            *at = NULL;
        }
        set_value(p, &settings[i], section_base(p), value);
        return 1;
    }
    fail_unknown_key(p, key);
    return 1;
}

/* libinih's reader, fgets() on our text: counts lines, strips indentation, sees sections begin. */
static char *next_line(char *str, int num, void *stream)
{
    struct parser *p = stream;
    const char *end;
    char *close;
    size_t len;

    if (*p->text == '\0')
        return NULL;
    p->line++;
    end = strchrnul(p->text, '\n');
    while (p->text < end && (*p->text == ' ' || *p->text == '\t'))
        p->text++;
    len = (size_t)(end - p->text);
    if (len > (size_t)num - 2) {
        fail(p, p->line, "the line is longer than %d characters", num - 2);
        len = 0;
    }
    memcpy(str, p->text, len);
    str[len] = '\n';
    str[len + 1] = '\0';
    p->text = *end ? end + 1 : end;
    if (str[0] == '[' && !p->failed) {
        char name[64];

        close = strchr(str, ']');
        if (!close || (size_t)(close - str) >= sizeof name) {
            fail(p, p->line, "a section must look like [cluster] or [meta.1]");
        } else {
            snprintf(name, sizeof name, "%.*s", (int)(close - str - 1), str + 1);
            section_begin(p, name);
        }
    }
    return str;
}

/* ---- the whole -------------------------------------------------------------------------------- */

static void check_quorum(struct parser *p)
{
    const struct config_cluster *c = &p->config->cluster;
    uint32_t line = p->line_single[SINGLE_CLUSTER];

    if (c->w > c->n || c->r > c->n)
        fail(p, line, "w=%" PRIu64 " r=%" PRIu64 ": neither may be above n=%" PRIu64, c->w, c->r, c->n);
    else if (c->w + c->r <= c->n)
        fail(p, line, "w + r must be above n, or a read may miss a write: w=%" PRIu64 " r=%" PRIu64
             " n=%" PRIu64 "; use n=3 w=2 r=2", c->w, c->r, c->n);
    else if (2 * c->w <= c->n)
        fail(p, line, "2w must be above n, or two writes may miss each other: w=%" PRIu64 " n=%" PRIu64
             "; use n=3 w=2 r=2", c->w, c->n);
}

/* Are the hosts of two endpoints the same text? */
static bool same_host(const char *a, const char *b)
{
    size_t na = (size_t)(strrchr(a, ':') - a), nb = (size_t)(strrchr(b, ':') - b);

    return na == nb && memcmp(a, b, na) == 0;
}

static void check_pair(struct parser *p, const struct config_node *a, const struct config_node *b)
{
    if (strcmp(a->endpoint, b->endpoint) == 0)
        fail(p, b->line, "endpoint %s is used in line %" PRIu32 " already", b->endpoint, a->line);
    else if (same_host(a->endpoint, b->endpoint) && strcmp(a->data, b->data) == 0)
        fail(p, b->line, "data=%s is used by the section in line %" PRIu32 " on the same host", b->data,
             a->line);
}

static void check_nodes(struct parser *p)
{
    const struct config *c = p->config;

    for (uint32_t i = 0; i < c->n_metas + c->n_storages && !p->failed; i++) {
        for (uint32_t j = 0; j < i && !p->failed; j++)
            check_pair(p, j < c->n_metas ? &c->metas[j] : &c->storages[j - c->n_metas],
                       i < c->n_metas ? &c->metas[i] : &c->storages[i - c->n_metas]);
    }
}

static void check(struct parser *p)
{
    const struct config *c = p->config;

    if (p->failed)
        return;
    check_quorum(p);
    if (c->n_metas == 0)
        fail(p, 0, "no metadata member; add a section [meta.1] with endpoint= and data=");
    if (c->n_storages < c->cluster.n)
        fail(p, p->line_single[SINGLE_CLUSTER], "%" PRIu32 " storage nodes are too few for n=%" PRIu64
             " copies; add sections [storage.ID] or lower n, w and r", c->n_storages, c->cluster.n);
    if (c->raft.election_ms < 3 * c->raft.heartbeat_ms)
        fail(p, p->line_single[SINGLE_RAFT], "election_ms=%" PRIu64 " must be at least three times heartbeat_ms=%" PRIu64,
             c->raft.election_ms, c->raft.heartbeat_ms);
    check_nodes(p);
}

static int by_id(const void *a, const void *b)
{
    const struct config_node *x = a, *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

int config_parse(const char *text, const char *path, struct config **ret_config, char *err,
                 size_t err_size)
{
    struct parser p = {.path = path, .text = text, .err = err, .err_size = err_size};
    int r;

    ASSERT(err_size > 0);
    err[0] = '\0';
    p.config = tc_calloc(1, sizeof *p.config);
    p.config->path = tc_strdup(path);
    set_defaults(&p, "cluster", &p.config->cluster);
    set_defaults(&p, "raft", &p.config->raft);
    set_defaults(&p, "scrub", &p.config->scrub);
    set_defaults(&p, "limits", &p.config->limits);
    set_defaults(&p, "log", &p.config->log);
    ASSERT(!p.failed);
    r = ini_parse_stream(next_line, &p, on_key, &p);
    if (r > 0)
        fail(&p, (uint32_t)r, "neither a section, nor key=value, nor a comment");
    section_end(&p);
    check(&p);
    if (p.failed) {
        config_free(p.config);
        return -TC_E_CONFIG;
    }
    qsort(p.config->metas, p.config->n_metas, sizeof *p.config->metas, by_id);
    qsort(p.config->storages, p.config->n_storages, sizeof *p.config->storages, by_id);
    *ret_config = p.config;
    return 0;
}

int config_load(const char *path, struct config **ret_config, char *err, size_t err_size)
{
    FILE *f = fopen(path, "re");
    char *text;
    size_t n;
    int r;

    if (!f) {
        r = tc_error_from_errno(errno);
        snprintf(err, err_size, "%s: %s; name the cluster's configuration with --config=FILE", path,
                 strerror(errno));
        return r;
    }
    text = tc_malloc(FILE_MAX + 1);
    n = fread(text, 1, FILE_MAX + 1, f);
    r = ferror(f) ? -TC_E_IO : 0;
    (void)fclose(f);
    if (r < 0 || n > FILE_MAX) {
        snprintf(err, err_size, "%s: %s", path, r < 0 ? "cannot be read" : "too long for a configuration");
        r = r < 0 ? r : -TC_E_CONFIG;
    } else if (memchr(text, '\0', n)) {
        snprintf(err, err_size, "%s: not a text file", path);
        r = -TC_E_CONFIG;
    } else {
        text[n] = '\0';
        r = config_parse(text, path, ret_config, err, err_size);
    }
    free(text);
    return r;
}

static void nodes_free(struct config_node *nodes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        free(nodes[i].endpoint);
        free(nodes[i].listen);
        free(nodes[i].data);
        free(nodes[i].zone);
    }
    free(nodes);
}

struct config *config_free(struct config *c)
{
    if (!c)
        return NULL;
    nodes_free(c->metas, c->n_metas);
    nodes_free(c->storages, c->n_storages);
    free(c->cluster.name);
    free(c->path);
    free(c);
    return NULL;
}

static const struct config_node *find_node(const struct config_node *nodes, uint32_t n, uint32_t id)
{
    for (uint32_t i = 0; i < n; i++) {
        if (nodes[i].id == id)
            return &nodes[i];
    }
    return NULL;
}

const struct config_node *config_meta(const struct config *c, uint32_t id)
{
    return find_node(c->metas, c->n_metas, id);
}

const struct config_node *config_storage(const struct config *c, uint32_t id)
{
    return find_node(c->storages, c->n_storages, id);
}

int config_parse_servers(const char *list, char ***ret_endpoints)
{
    char **endpoints = tc_calloc(CONFIG_METAS_MAX, sizeof(char *));
    char *copy = tc_strdup(list), *rest = copy, *host;
    int n = 0, r = 0;

    while (r == 0 && (host = strsep(&rest, ","))) {
        const char *colon = strrchr(host, ':');
        bool has_port = colon && (host[0] != '[' || colon[-1] == ']');

        if (n == CONFIG_METAS_MAX) {
            r = -TC_E_CONFIG;
            break;
        }
        endpoints[n] = has_port ? tc_asprintf("tcp://%s", host)
                                : tc_asprintf("tcp://%s:%d", host, CONFIG_PORT_META);
        if (!config_endpoint_ok(endpoints[n++]) || *host == '\0')
            r = -TC_E_CONFIG;
    }
    free(copy);
    if (r == 0) {
        *ret_endpoints = endpoints;
        return n;
    }
    while (n > 0)
        free(endpoints[--n]);
    free(endpoints);
    return r;
}

/* ---- help ------------------------------------------------------------------------------------- */

void config_print_help(FILE *f)
{
    const char *section = "";

    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        const struct config_setting *s = &settings[i];

        if (strcmp(section, s->section) != 0) {
            section = s->section;
            fprintf(f, "  [%s%s]\n", section, section[strlen(section) - 1] == '.' ? "ID" : "");
        }
        fprintf(f, "    %-18s %s", s->key, s->text);
        if (!s->value_default)
            fprintf(f, " (required)");
        else if (*s->value_default)
            fprintf(f, " (%s)", s->value_default);
        fputc('\n', f);
    }
}

void config_print_man(FILE *f)
{
    const char *section = "";

    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        const struct config_setting *s = &settings[i];

        if (strcmp(section, s->section) != 0) {
            section = s->section;
            fprintf(f, ".SS [%s%s]\n", section, section[strlen(section) - 1] == '.' ? "ID" : "");
        }
        fprintf(f, ".TP\n.B %s\n%s.", s->key, s->text);
        if (!s->value_default)
            fprintf(f, " Required.");
        else if (*s->value_default)
            fprintf(f, " Default: %s.", s->value_default);
        if (s->type == CONFIG_NUMBER)
            fprintf(f, " From %" PRIu64 " to %" PRIu64 ".", s->min, s->max);
        fputc('\n', f);
    }
}
