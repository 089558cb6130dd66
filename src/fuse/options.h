/* SPDX-License-Identifier: Apache-2.0 */
/* Mount options: ours, those passed on to the kernel, those of mount(8) and fstab that mean nothing here. */
#pragma once

#include "common/cli.h"

struct mount_options {
    char *kernel;     /* comma list for libfuse */
    uint64_t wait_ms; /* UINT64_MAX: for ever */
    bool strict_pages;
    bool own_locks; /* locks=mount */
    bool read_anywhere;
    uint32_t busy_poll_us; /* 0: never */
};

/* 0, or the exit status after one line on stderr. */
TC_MUST_CHECK int mount_options_parse(const struct cli *c, const char *text, struct mount_options *ret);
void mount_options_fini(struct mount_options *o);
