/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/server_int.h"

int recovery_open(struct storage_server *s)
{
    (void)s;
    return 0;
}

void recovery_close(struct storage_server *s)
{
    (void)s;
}

void recovery_map_changed(struct storage_server *s)
{
    (void)s;
}

uint64_t recovery_behind(const struct storage_server *s)
{
    (void)s;
    return 0;
}

uint32_t recovery_ready(struct storage_server *s, struct pg_ready *to, uint32_t max)
{
    (void)s;
    (void)to;
    (void)max;
    return 0;
}

void heal_start(struct heal *h)
{
    h->done(h, -TC_E_NOSYS);
}
