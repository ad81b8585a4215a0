/*
 * line: a connection that speaks lines, for as long as it lasts.
 *
 * TCP delivers a stream of bytes, not messages: a line may arrive in pieces, or several at once. This module
 * hands them to you one at a time, whole, without their '\n'.
 */
#ifndef COMMON_LINE_H
#define COMMON_LINE_H

#include <stddef.h>

#include "loop.h"

enum {
    LINE_BYTES = 127,        /* the longest line, with its '\n' */
    LINE_AHEAD_BYTES = 1024, /* are read or sent at once, if there are so many lines */
};

struct line_conn {
    struct loop *loop;
    struct watch watch;
    struct timer silence;
    struct timer turn_over;
    int silence_ms;
    void (*on_line)(void *owner, const char *line);
    void (*on_gone)(void *owner, const char *why);
    void *owner;
    size_t received; /* bytes of lines that were not handed on yet */
    size_t unsent;   /* bytes of lines that were not sent yet */
    char in[LINE_AHEAD_BYTES];
    char out[LINE_AHEAD_BYTES];
};

/* Takes fd over. Calls on_line for each line; on_gone, with the reason in words, when the peer is gone,
 * breaks the rules (a line too long, or not text), or completes no line for silence_ms (0: may be silent
 * for ever). Both may close conn, whose memory must outlive the call; after on_gone you must. Returns 0, or -1 with errno
 * if the system refuses; fd is then still yours. */
int line_open(struct line_conn *conn, struct loop *loop, int fd, int silence_ms,
              void (*on_line)(void *owner, const char *line), void (*on_gone)(void *owner, const char *why),
              void *owner);

/* Sends one line; the format has no '\n'. It goes out when this turn of the loop is over, together with the others of the
 * turn; line_close before that, and it is lost. Never waits and never calls back. Returns 0, or -1 if it is too long, or if the
 * peer reads so slowly that there is no room for it now: it is then not sent at all. */
__attribute__((format(printf, 2, 3))) int line_send(struct line_conn *conn, const char *format, ...);

/* Closes the connection. Does nothing with one that is closed; all zeros is one that was never open. */
void line_close(struct line_conn *conn);

#endif
