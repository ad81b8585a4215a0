/*
 * options: the command line, for all programs of all stages.
 *
 * A program names the options that mean something to it; all others are wrong usage there, and are not in
 * its --help.
 */
#ifndef COMMON_OPTIONS_H
#define COMMON_OPTIONS_H

#include <stdbool.h>

#include "log.h"

enum {
    OPT_LISTEN_PORT = 1 << 0,
    OPT_CONTROL_PORT = 1 << 1,
    OPT_PUBLIC_PORT = 1 << 2,
    OPT_PROXY_PORT = 1 << 3,
    OPT_BIND = 1 << 4,
    OPT_HEARTBEAT = 1 << 5,
    OPT_WAIT = 1 << 6,
    OPT_SPARES = 1 << 7,
    OPT_DRAIN = 1 << 8,
    OPT_SECRET_FILE = 1 << 9,
    OPT_COUNT = 1 << 10,
};

struct options {
    int listen_port; /* of all ports: 0 means any free one; set this one first, its default is the program's */
    int control_port;
    int public_port;
    int proxy_port;
    const char *bind; /* NULL: all addresses */
    int heartbeat_ms;
    int wait_ms;
    int spares;
    int drain_ms;
    int count; /* 0: no limit */
    enum log_level log_level;
    char secret[101];         /* "": none */
    const char *arguments[2]; /* what is not an option; NULL where left out */
};

enum { OPTIONS_OK = -1 };

/* Fills in *options: defaults, then the command line, then TUNNEL_SECRET. Opens the log under name, "server" or
 * "client". known: the OPT_ bits that this program has. arguments: what else is expected, "LOCAL [SERVER]". Returns
 * OPTIONS_OK, or the status to exit with, when everything is said (--help, --version: 0; a file that can't be read: 1;
 * wrong usage: 2). The strings belong to argv. */
int options_parse(struct options *options, const char *name, int argc, char **argv, unsigned known,
                  const char *arguments);

/* Says in one line that the command line is wrong. Returns the status to exit with. */
__attribute__((format(printf, 1, 2))) int options_wrong(const char *format, ...);

#endif
