/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leader does not take this store in (PROTOCOL 6.1): its directory is of another cluster or node, or its place is
 * taken. What only an operator can mend ends the node; what passes is asked again.
 */
#include "storage/server_int.h"

#include "common/log.h"

#define TAKEN_MAX 60 /* answers, some 4 s: one that moved to another address is let in when the leader misses it there */

static void place_taken(struct storage_server *s)
{
    if (s->taken++ == 0)
        LOG_WARN("storage", s->empty ? "another store has the place of this node and is up: waiting until it is down"
                                     : "this store is up at another address: waiting until it is down there",
                 "node=%u store=%016llx dir=%s", s->cfg.node, (unsigned long long)s->id.store, s->dir);
    if (!s->empty && s->taken == TAKEN_MAX)
        server_fatal(s, -TC_E_CONFIG, "this store runs at another address already: the data directory is a copy of its own. Stop "
                                      "one; a copy must never take part");
}

bool register_refused(struct storage_server *s, int status)
{
    switch (status) {
    case -TC_E_WRONG_CLUSTER:
        server_fatal(s, status, "the data directory belongs to another cluster");
        return true;
    case -TC_E_CONFIG:
        server_fatal(s, status, "the data directory is that of another storage node: start it under that number, or give this "
                                "node an empty directory");
        return true;
    case -TC_E_BUSY:
        s->misses = 0;
        lost_heard(s);
        place_taken(s);
        return true;
    default:
        return false;
    }
}

void register_removed(struct storage_server *s)
{
    server_fatal(s, -TC_E_CONFIG, "this store was removed from the cluster, or another took its place; to let the node take part "
                                  "again give it an empty data directory");
}
