/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storage nodes that are registered at one address: whoever listens there is one of them, and refuses what is meant for the
 * others, which count as down.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "report.h"

static bool counts(const json_t *s)
{
    return strcmp(json_text(s, "state", ""), "replaced") != 0;
}

/* The nodes at @endpoint; @who: "1 and 4", "1, 2 and 4". */
static json_t *nodes_at(const json_t *stores, const char *endpoint, char *who, size_t room)
{
    json_t *nodes = json_array();
    size_t i, n = 0, len = 0;
    const json_t *s;

    json_array_foreach(stores, i, s)
    {
        if (counts(s) && strcmp(json_text(s, "endpoint", ""), endpoint) == 0)
            json_array_append(nodes, json_object_get(s, "node"));
    }
    json_array_foreach(nodes, n, s)
    {
        int r = snprintf(who + len, room - len, "%s%" JSON_INTEGER_FORMAT,
                         n == 0 ? "" : n + 1 == json_array_size(nodes) ? " and " : ", ", json_integer_value(s));

        len = MIN(len + (size_t)MAX(r, 0), room - 1);
    }
    return nodes;
}

json_t *same_address(const json_t *stores)
{
    json_t *list = json_array();
    const json_t *s, *t;
    size_t i, k;

    json_array_foreach(stores, i, s)
    {
        const char *endpoint = json_text(s, "endpoint", "");
        bool first = counts(s) && *endpoint;
        char who[128] = "", *what;
        json_t *nodes;

        for (k = 0; k < i && first; k++) {
            t = json_array_get(stores, k);
            first = !counts(t) || strcmp(json_text(t, "endpoint", ""), endpoint) != 0;
        }
        nodes = first ? nodes_at(stores, endpoint, who, sizeof who) : json_array();
        if (json_array_size(nodes) > 1) {
            what = tc_asprintf("storage nodes %s are registered at one address (%s): it can be the place of one only", who, endpoint);
            json_array_append_new(list, json_pack("{s:s, s:O, s:s, s:s}", "endpoint", endpoint, "nodes", nodes, "what", what, "cure",
                                                  "give each an endpoint of its own in the configuration, the same on every machine, and "
                                                  "start the one that is down; if it is gone for good: tercet node remove N"));
            free(what);
        }
        json_decref(nodes);
    }
    return list;
}
