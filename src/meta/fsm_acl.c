/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX ACLs as the kernel hands them over in extended attributes: a version, then entries in the
 * order owner, users, group, groups, mask, others (acl(5); linux/posix_acl_xattr.h). Pure
 * functions.
 */
#include "meta/fsm_int.h"

enum {
    ACL_USER_OBJ = 1,
    ACL_USER = 2,
    ACL_GROUP_OBJ = 4,
    ACL_GROUP = 8,
    ACL_MASK = 16,
    ACL_OTHER = 32
};
enum { ACL_VERSION = 2, ACL_HEAD = 4, ACL_ENTRY = 8 };

static uint32_t entries(size_t len)
{
    return (uint32_t)((len - ACL_HEAD) / ACL_ENTRY);
}

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint16_t tag_of(const uint8_t *v, uint32_t i)
{
    return get16(v + ACL_HEAD + i * ACL_ENTRY);
}

static uint16_t perm_of(const uint8_t *v, uint32_t i)
{
    return get16(v + ACL_HEAD + i * ACL_ENTRY + 2);
}

static void set_perm(uint8_t *v, uint32_t i, uint32_t perm)
{
    v[ACL_HEAD + i * ACL_ENTRY + 2] = (uint8_t)(perm & 7);
    v[ACL_HEAD + i * ACL_ENTRY + 3] = 0;
}

int acl_check(struct wire_bin v)
{
    static const uint16_t follows[] = {ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ,
                                       ACL_GROUP,    ACL_MASK, ACL_OTHER};
    uint32_t counts[ARRAY_SIZE(follows)] = {0};
    size_t at = 0;

    if (v.n < ACL_HEAD || (v.n - ACL_HEAD) % ACL_ENTRY || get16(v.p) != ACL_VERSION ||
        get16(v.p + 2) != 0)
        return -TC_E_INVAL;
    if (entries(v.n) > ACL_MAX)
        return -TC_E_INVAL;
    for (uint32_t i = 0; i < entries(v.n); i++) {
        while (at < ARRAY_SIZE(follows) && follows[at] != tag_of(v.p, i))
            at++;
        if (at == ARRAY_SIZE(follows) || perm_of(v.p, i) > 7)
            return -TC_E_INVAL;
        counts[at]++;
    }
    if (counts[0] != 1 || counts[2] != 1 || counts[5] != 1 || counts[4] > 1)
        return -TC_E_INVAL;
    return (counts[1] || counts[3]) && !counts[4] ? -TC_E_INVAL : 0;
}

/* The group class of the mode is the mask if there is one. */
static bool has_mask(const uint8_t *v, size_t len)
{
    for (uint32_t i = 0; i < entries(len); i++) {
        if (tag_of(v, i) == ACL_MASK)
            return true;
    }
    return false;
}

uint32_t acl_to_mode(struct wire_bin v, bool *ret_equal)
{
    bool mask = has_mask(v.p, v.n);
    uint32_t mode = 0;

    for (uint32_t i = 0; i < entries(v.n); i++) {
        uint32_t perm = perm_of(v.p, i);

        switch (tag_of(v.p, i)) {
        case ACL_USER_OBJ:
            mode |= perm << 6;
            break;
        case ACL_GROUP_OBJ:
            if (!mask)
                mode |= perm << 3;
            break;
        case ACL_MASK:
            mode |= perm << 3;
            break;
        case ACL_OTHER:
            mode |= perm;
            break;
        default:
            break;
        }
    }
    *ret_equal = entries(v.n) == 3;
    return mode;
}

void acl_chmod(uint8_t *v, size_t len, uint32_t mode)
{
    bool mask = has_mask(v, len);

    for (uint32_t i = 0; i < entries(len); i++) {
        switch (tag_of(v, i)) {
        case ACL_USER_OBJ:
            set_perm(v, i, mode >> 6);
            break;
        case ACL_GROUP_OBJ:
            if (!mask)
                set_perm(v, i, mode >> 3);
            break;
        case ACL_MASK:
            set_perm(v, i, mode >> 3);
            break;
        case ACL_OTHER:
            set_perm(v, i, mode);
            break;
        default:
            break;
        }
    }
}

bool acl_inherit(uint8_t *v, size_t len, uint32_t *mode)
{
    bool mask = has_mask(v, len);
    uint32_t out = 0;

    for (uint32_t i = 0; i < entries(len); i++) {
        uint32_t shift, perm;

        switch (tag_of(v, i)) {
        case ACL_USER_OBJ:
            shift = 6;
            break;
        case ACL_GROUP_OBJ:
            if (mask)
                continue;
            shift = 3;
            break;
        case ACL_MASK:
            shift = 3;
            break;
        case ACL_OTHER:
            shift = 0;
            break;
        default:
            continue;
        }
        perm = perm_of(v, i) & (*mode >> shift);
        set_perm(v, i, perm);
        out |= (perm & 7) << shift;
    }
    *mode = (*mode & ~0777u) | out;
    return entries(len) > 3;
}
