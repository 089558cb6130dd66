/* SPDX-License-Identifier: Apache-2.0 */
/* Prints tercet.conf(5): the table of settings (config.h) between the words around it. */
#include <stdio.h>

#include "common/config.h"

int main(void)
{
    fputs(".TH TERCET.CONF 5 \"\" \"Tercet " TC_VERSION "\" \"Tercet\"\n"
          ".SH NAME\ntercet.conf \\- configuration of a Tercet cluster\n"
          ".SH SYNOPSIS\n.B " CONFIG_PATH_DEFAULT "\n"
          ".SH DESCRIPTION\n"
          "One file for the whole cluster, the same on every machine; each daemon finds its own part by its id.\n"
          "Sections in brackets, one\n.IR key = value\n"
          "a line; a line that begins with # or ; is a comment. Unknown sections and keys are errors.\n"
          ".B \\-\\-check\\-config\nof every program says what is wrong, with its line.\n"
          ".PP\nSizes may end in K, M, G or T (powers of 1024).\n"
          ".PP\n"
          "What cannot change once the cluster is formatted: n, w, r, pg_count. Which metadata members there are is changed with\n"
          ".B tercet meta\n(a section [meta.N] alone makes no member).\n"
          "Storage nodes may come and go.\n"
          ".SH SETTINGS\n",
          stdout);
    config_print_man(stdout);
    fputs(".SH EXAMPLE\n.nf\n"
          "[cluster]\nname=home\n\n"
          "[meta.1]\nendpoint=tcp://alpha:7101\ndata=/var/lib/tercet/meta\n"
          "[meta.2]\nendpoint=tcp://beta:7101\ndata=/var/lib/tercet/meta\n"
          "[meta.3]\nendpoint=tcp://gamma:7101\ndata=/var/lib/tercet/meta\n\n"
          "[storage.1]\nendpoint=tcp://alpha:7201\ndata=/srv/tercet\nzone=rack1\n"
          "[storage.2]\nendpoint=tcp://beta:7201\ndata=/srv/tercet\nzone=rack2\n"
          "[storage.3]\nendpoint=tcp://gamma:7201\ndata=/srv/tercet\nzone=rack3\n.fi\n"
          ".SH SEE ALSO\n.BR tercet (1),\n.BR tercet\\-meta (8),\n.BR tercet\\-storage (8),\n"
          ".BR mount.tercet (8)\n",
          stdout);
    return 0;
}
