/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parsers of what users write: the configuration file and lists of servers. What is accepted must
 * keep its bounds; what is refused must say why in one line.
 */
#include <string.h>

#include "common/config.h"
#include "fuzz/fuzz.h"

static void check_config(const char *text)
{
    struct config *c = NULL;
    char err[256] = "";
    int r = config_parse(text, "test.conf", &c, err, sizeof err);

    if (r < 0) {
        ASSERT(!c && err[0] && !strchr(err, '\n'));
        return;
    }
    ASSERT(c->n_metas <= CONFIG_METAS_MAX && c->n_storages <= CONFIG_STORAGES_MAX);
    for (uint32_t i = 0; i < c->n_metas; i++) {
        ASSERT(c->metas[i].endpoint && c->metas[i].data);
        ASSERT(config_meta(c, c->metas[i].id) == &c->metas[i]);
    }
    for (uint32_t i = 0; i < c->n_storages; i++) {
        ASSERT(c->storages[i].endpoint && c->storages[i].data);
        ASSERT(config_storage(c, c->storages[i].id) == &c->storages[i]);
    }
    config_free(c);
}

static void check_servers(const char *text)
{
    char **endpoints = NULL;
    int n = config_parse_servers(text, &endpoints);

    for (int i = 0; i < n; i++) {
        ASSERT(strncmp(endpoints[i], "tcp://", 6) == 0);
        free(endpoints[i]);
    }
    free(endpoints);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = tc_malloc(size + 1);

    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    check_config(text);
    check_servers(text);
    free(text);
    return 0;
}

size_t fuzz_seed(uint64_t n, uint8_t *buf, size_t cap)
{
    static const char *const texts[] = {
        "[cluster]\nname = test\nn = 3\nw = 2\nr = 2\npg_count = 64\n[log]\nlevel = debug\n"
        "; comment\n[meta.1]\nendpoint = tcp://127.0.0.1:7101\ndata = /var/lib/tercet/meta-1\n"
        "[storage.1]\nendpoint = tcp://127.0.0.1:7201\ndata = /var/lib/tercet/s1\nzone = a\n"
        "[storage.2]\nendpoint = tcp://127.0.0.1:7202\ndata = /var/lib/tercet/s2\n"
        "[storage.3]\nendpoint = tcp://127.0.0.1:7203\ndata = /d/s3\nreserve = 1G\n",
        "# only a comment\n",
        "[cluster]\nn = 99999999999999999999\n",
        "[raft]\nheartbeat_ms = 50\nelection_ms = 300\n[limits]\nmemory_max = 512M\n",
        "host1,host2:7102,[::1]:7103",
        "h",
    };
    size_t len;

    if (n >= ARRAY_SIZE(texts))
        return 0;
    len = strlen(texts[n]);
    ASSERT(len <= cap);
    memcpy(buf, texts[n], len);
    return len;
}
