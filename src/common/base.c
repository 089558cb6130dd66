/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void tc_assert_fail(const char *expr, const char *file, int line, const char *func)
{
    fprintf(stderr, "level=fatal mod=assert msg=\"assertion failed\" expr=\"%s\" at=%s:%d in=%s\n",
            expr, file, line, func);
    fflush(stderr);
    abort();
}

void *tc_calloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);

    ASSERT(p);
    return p;
}

void *tc_malloc(size_t size)
{
    void *p = malloc(size ? size : 1);

    ASSERT(p);
    return p;
}

void *tc_aligned(size_t alignment, size_t size)
{
    void *p = aligned_alloc(alignment, (size + alignment - 1) & ~(alignment - 1));

    ASSERT(p);
    return p;
}

void *tc_realloc(void *p, size_t size)
{
    void *q = realloc(p, size ? size : 1);

    ASSERT(q);
    return q;
}

char *tc_strdup(const char *s)
{
    char *p = strdup(s);

    ASSERT(p);
    return p;
}

char *tc_asprintf(const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&s, fmt, ap);
    va_end(ap);
    ASSERT(n >= 0);
    return s;
}
