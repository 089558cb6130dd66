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

uint64_t tc_test_rules_off;

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

void tc_test_rules_set(uint64_t off)
{
    tc_test_rules_off = off | tc_test_value("TERCET_RULES_OFF", 0);
}

__attribute__((constructor)) static void test_rules_init(void)
{
    tc_test_rules_set(0);
}
#else
void tc_test_rules_set(uint64_t off)
{
    (void)off;
}
#endif
