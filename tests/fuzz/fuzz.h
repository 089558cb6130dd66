/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a fuzz target is: libFuzzer's entry, and a source of well-formed inputs to mutate. Built with
 * runner.c it is a test; linked with libFuzzer or AFL's driver instead, a fuzzer.
 *
 * A target aborts (ASSERT) when the parser breaks a promise.
 */
#pragma once

#include "common/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Write the @n-th well-formed input into @buf. Returns its size (at most @cap); 0: there is no such. */
size_t fuzz_seed(uint64_t n, uint8_t *buf, size_t cap);
