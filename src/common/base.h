/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every file may rely on: assertions that stay in release builds, ownership helpers, and the
 * few macros the language lacks. No state, no I/O (but for the report of a failed assertion).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define TC_MUST_CHECK __attribute__((warn_unused_result))
#define TC_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define TC_NORETURN __attribute__((noreturn))
#define TC_UNUSED __attribute__((unused))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Report a broken belief on stderr with place and expression, then abort. Never returns. */
TC_NORETURN void tc_assert_fail(const char *expr, const char *file, int line, const char *func);

/* ASSERT states what must hold, in release builds too; never for input: that gets an error. */
#define ASSERT(x) ((x) ? (void)0 : tc_assert_fail(#x, __FILE__, __LINE__, __func__))
#define IMPLIES(a, b) (!(a) || (b))

/* Yields the pointer and clears the variable: who had it has it no more. */
#define TAKE(p)                       \
    ({                                \
        __typeof__(p) take_ = (p);    \
        (p) = NULL;                   \
        take_;                        \
    })

/* Allocation that cannot fail: the daemons have bounded memory, so NULL here is a broken belief. */
void *tc_calloc(size_t n, size_t size);
void *tc_malloc(size_t size);
/* What a disk reads into directly begins, and ends, at multiples of this, in memory and in the file. */
#define DISK_ALIGN 4096u
void *tc_aligned(size_t alignment, size_t size); /* alignment: a power of two */
void *tc_realloc(void *p, size_t size);
char *tc_strdup(const char *s);
/* printf into a new string. Returns: caller frees with free(). */
char *tc_asprintf(const char *fmt, ...) TC_PRINTF(1, 2);

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)
