/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"

#include <string.h>

static const struct {
    int code;
    int errnum;
    const char *name;
    const char *text;
} errors[] = {
#define X(name, num, err, text) {TC_E_##name, err, #name, text},
    TC_ERRORS(X)
#undef X
};

static int find(int err)
{
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        if (errors[i].code == -err)
            return (int)i;
    }
    return -1;
}

const char *tc_strerror(int err)
{
    int i;

    if (err == 0)
        return "ok";
    if (-err > 0 && -err < TC_E_BASE)
        return strerror(-err);
    i = find(err);
    return i < 0 ? "unknown error" : errors[i].text;
}

const char *tc_error_name(int err)
{
    int i = err == 0 ? -1 : find(err);

    if (err == 0)
        return "OK";
    return i < 0 ? "UNKNOWN" : errors[i].name;
}

int tc_error_to_errno(int err)
{
    int i;

    if (err == 0)
        return 0;
    if (-err > 0 && -err < TC_E_BASE)
        return -err;
    i = find(err);
    return i < 0 ? EIO : errors[i].errnum;
}

int tc_error_from_errno(int errnum)
{
    if (errnum == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        if (errors[i].errnum == errnum && errors[i].code < TC_E_UNKNOWN)
            return -errors[i].code;
    }
    return -TC_E_UNKNOWN;
}

uint32_t tc_error_to_wire(int err)
{
    if (err >= 0)
        return 0;
    if (-err < TC_E_BASE)
        err = tc_error_from_errno(-err);
    return (uint32_t)(-err - TC_E_BASE);
}

int tc_error_from_wire(uint32_t status)
{
    if (status == 0)
        return 0;
    if (status > 4095 || find(-(int)status - TC_E_BASE) < 0)
        return -TC_E_UNKNOWN;
    return -(int)status - TC_E_BASE;
}
