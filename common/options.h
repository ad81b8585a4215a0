/*
 * options: the command line, for all programs of all stages.
 *
 * A program names the options that mean something to it; all others are wrong usage there, and are not in
 * its --help.
 */
#ifndef COMMON_OPTIONS_H
#define COMMON_OPTIONS_H

#include <stdbool.h>

#include "listener.h"
#include "log.h"
#include "secret.h"

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
    OPT_PROXY_PROTOCOL = 1 << 11,
    OPT_CONGESTION = 1 << 12,
};

struct options {
    struct endpoint listen; /* set its port first: the default is the program's */
    struct endpoint control;
    struct endpoint public;
    struct endpoint proxy;
    const char *bind; /* of those that have no address of their own; NULL: all addresses */
    int heartbeat_ms;
    int wait_ms;
    int spares;
    int drain_ms;
    int count;              /* 0: no limit */
    bool proxy_protocol;    /* tell the local app who the user is */
    const char *congestion; /* name of the congestion control; NULL: the system's choice */
    enum log_level log_level;
    char secret[SECRET_SIZE]; /* "": none */
    const char *arguments[2]; /* what is not an option; NULL where left out */
};

enum { OPTIONS_OK = -1 };

/* What a program is: for its --help, and for what it understands. */
struct usage {
    const char *name;      /* "server" or "client": opens the log under it */
    const char *purpose;   /* a sentence */
    unsigned known;        /* the OPT_ bits that this program has */
    const char *arguments; /* what else is expected: "LOCAL [SERVER]" */
};

/* Fills in *options: defaults, then the command line, then TUNNEL_SECRET. Returns OPTIONS_OK, or the status to exit with,
 * when everything is said (--help, --version: 0; a file that can't be read: 1; wrong usage: 2). Strings belong to
 * argv. */
int options_parse(struct options *options, const struct usage *usage, int argc, char **argv);

/* Says in one line that the command line is wrong. Returns the status to exit with. */
__attribute__((format(printf, 1, 2))) int options_wrong(const char *format, ...);

#endif
