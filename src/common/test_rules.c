/* SPDX-License-Identifier: Apache-2.0 */
#include "common/test_rules.h"

#ifdef TC_TEST_RULES_BUILD
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SITES_MAX = 256, SITE_NAME_MAX = 200 };

uint64_t tc_test_rules_off[TC_RULE_WORDS];

static const char *const names[TC_RULE_COUNT] = {
#define X(name, text) #name,
    TC_TEST_RULES(X)
#undef X
};

static pthread_mutex_t sites_lock = PTHREAD_MUTEX_INITIALIZER;
static char sites[SITES_MAX][SITE_NAME_MAX]; /* reached so far */
static unsigned n_sites;

static void site_reached(const char *name)
{
    const char *path = getenv("TERCET_SYNC_LOG");
    unsigned i = 0;
    int fd;

    while (i < n_sites && strcmp(sites[i], name) != 0)
        i++;
    if (!path || i < n_sites || i == SITES_MAX)
        return;
    snprintf(sites[n_sites++], SITE_NAME_MAX, "%s", name);
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    dprintf(fd, "%s\n", name);
    close(fd);
}

bool tc_sync_off(const char *file, const char *function, const char *expression)
{
    const char *base = strrchr(file, '/'), *off = getenv("TERCET_SYNC_OFF");
    char name[SITE_NAME_MAX];

    snprintf(name, sizeof name, "%s:%s:%s", base ? base + 1 : file, function, expression);
    pthread_mutex_lock(&sites_lock);
    site_reached(name);
    pthread_mutex_unlock(&sites_lock);
    return off && strcmp(off, name) == 0;
}

uint64_t tc_test_value(const char *name, uint64_t normal)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 0) : normal;
}

static void name_off(const char *name)
{
    for (unsigned i = 0; i < TC_RULE_COUNT; i++) {
        if (strcmp(names[i], name) != 0)
            continue;
        tc_test_rules_off[i / 64] |= UINT64_C(1) << i % 64;
        return;
    }
    fprintf(stderr, "TERCET_RULES_OFF: there is no rule %s\n", name);
    exit(2); /* a test that "passes without it" would say nothing */
}

void tc_test_rules_set(const uint64_t off[TC_RULE_WORDS])
{
    const char *text = getenv("TERCET_RULES_OFF");
    char *list, *save, *name;

    memcpy(tc_test_rules_off, off, sizeof tc_test_rules_off);
    if (!text)
        return;
    list = tc_strdup(text);
    for (name = strtok_r(list, ",", &save); name; name = strtok_r(NULL, ",", &save))
        name_off(name);
    free(list);
}

__attribute__((constructor)) static void test_rules_init(void)
{
    static const uint64_t none[TC_RULE_WORDS];

    tc_test_rules_set(none);
}
#else
void tc_test_rules_set(const uint64_t off[TC_RULE_WORDS])
{
    (void)off;
}
#endif
