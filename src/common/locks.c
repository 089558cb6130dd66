/* SPDX-License-Identifier: Apache-2.0 */
#include "common/locks.h"

#include "common/error.h"

void locks_fini(struct lock_table *t)
{
    free(t->locks);
    *t = (struct lock_table){0};
}

bool lock_valid(const struct file_lock *l)
{
    return l->family <= LOCK_FLOCK && l->type <= LOCK_EXCLUSIVE && l->start <= l->end;
}

struct lock_item lock_to_item(const struct file_lock *l)
{
    return (struct lock_item){.owner = l->owner, .start = l->start, .end = l->end, .pid = l->pid, .family = l->family,
                              .type = l->type};
}

struct file_lock lock_of_item(const struct lock_item *it, uint64_t session)
{
    return (struct file_lock){.session = session, .owner = it->owner, .start = it->start, .end = it->end, .pid = it->pid,
                              .family = (uint8_t)MIN(it->family, UINT8_MAX), .type = (uint8_t)MIN(it->type, UINT8_MAX)};
}

static bool same_owner(const struct file_lock *a, const struct file_lock *b)
{
    return a->session == b->session && a->owner == b->owner && a->family == b->family;
}

static bool overlap(const struct file_lock *a, const struct file_lock *b)
{
    return a->start <= b->end && b->start <= a->end;
}

const struct file_lock *locks_conflict(const struct lock_table *t, const struct file_lock *want)
{
    if (want->type == LOCK_UNLOCK)
        return NULL;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct file_lock *l = &t->locks[i];

        if (l->family == want->family && !same_owner(l, want) && overlap(l, want) &&
            (l->type == LOCK_EXCLUSIVE || want->type == LOCK_EXCLUSIVE))
            return l;
    }
    return NULL;
}

void locks_add(struct lock_table *t, const struct file_lock *l)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 4;
        t->locks = tc_realloc(t->locks, t->cap * sizeof(t->locks[0]));
    }
    t->locks[t->n++] = *l;
}

/* Does @l end right before @b begins? */
static bool touches(const struct file_lock *l, const struct file_lock *b)
{
    return l->end != LOCK_END && l->end + 1 == b->start;
}

int locks_set(struct lock_table *t, const struct file_lock *set)
{
    struct file_lock whole = *set;
    uint32_t n = t->n;

    ASSERT(lock_valid(set));
    /* A lock in the middle of another one makes two more of it. */
    if (n + 2 > LOCKS_MAX && !(set->type == LOCK_UNLOCK && set->start == 0 && set->end == LOCK_END))
        return -TC_E_LIMIT;
    for (uint32_t i = 0; i < n;) {
        struct file_lock l = t->locks[i];
        bool joins = l.type == set->type && (touches(&l, set) || touches(set, &l));

        if (!same_owner(&l, set) || !(overlap(&l, set) || joins)) {
            i++;
            continue;
        }
        t->locks[i] = t->locks[--n];
        t->locks[n] = t->locks[--t->n]; /* pieces were put behind the old ones */
        if (l.type == set->type) {
            whole.start = MIN(whole.start, l.start);
            whole.end = MAX(whole.end, l.end);
            continue;
        }
        if (l.start < set->start) {
            struct file_lock left = l;

            left.end = set->start - 1;
            locks_add(t, &left);
        }
        if (l.end > set->end) {
            struct file_lock right = l;

            right.start = set->end + 1;
            locks_add(t, &right);
        }
    }
    if (set->type != LOCK_UNLOCK)
        locks_add(t, &whole);
    return 0;
}

void locks_drop_session(struct lock_table *t, uint64_t session)
{
    for (uint32_t i = 0; i < t->n;) {
        if (t->locks[i].session == session)
            t->locks[i] = t->locks[--t->n];
        else
            i++;
    }
}

bool locks_owned(const struct lock_table *t, uint64_t session, uint64_t owner, enum lock_family family)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const struct file_lock *l = &t->locks[i];

        if (l->session == session && l->owner == owner && l->family == family)
            return true;
    }
    return false;
}
