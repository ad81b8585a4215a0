/*
 * line: a connection that speaks lines.
 *
 * TCP delivers a stream of bytes, not messages: a line may arrive in pieces, or several at once. This module
 * hands them to you one at a time, whole, without their '\n', and never takes a byte from the kernel that
 * comes after the line: what follows may belong to somebody else, who gets the descriptor with line_detach.
 */
#ifndef COMMON_LINE_H
#define COMMON_LINE_H

#include <stddef.h>

#include "loop.h"

enum { LINE_SIZE = 127 }; /* the longest line, with its '\n' */

struct line_conn {
    struct loop *loop;
    struct watch watch;
    struct timer silence;
    int silence_ms;
    void (*on_line)(void *owner, const char *line);
    void (*on_gone)(void *owner, const char *why);
    void (*on_room)(void *owner); /* NULL, or told when a line can be sent again after line_send could not */
    void *owner;
    size_t received; /* bytes of a line that isn't complete yet */
    size_t unsent;   /* bytes of a line that the kernel had no room for yet */
    char in[LINE_SIZE + 1];
    char out[LINE_SIZE + 1];
};

/* Takes fd over. Calls on_line for each line; on_gone, with the reason in words, when the peer is gone,
 * breaks the rules (a line too long, or not text), or completes no line for silence_ms (0: may be silent
 * for ever). Both may close or detach conn; after on_gone you must. Returns 0, or -1 with errno if the
 * system refuses; fd is then still yours. */
int line_open(struct line_conn *conn, struct loop *loop, int fd, int silence_ms,
              void (*on_line)(void *owner, const char *line), void (*on_gone)(void *owner, const char *why),
              void *owner);

/* Sends one line; the format has no '\n'. Never waits and never calls back. Returns 0, or -1 if the peer
 * reads so slowly that there is no room for it now: it is then not sent at all. */
__attribute__((format(printf, 2, 3))) int line_send(struct line_conn *conn, const char *format, ...);

/* Looks whether something has come before the loop says so. Calls back as the loop would. */
void line_poll(struct line_conn *conn);

/* Ends the speaking of lines. Returns the descriptor, which is yours again, nothing lost of what follows
 * the last line. */
int line_detach(struct line_conn *conn);

/* Closes the connection. Does nothing with one that is closed or detached; all zeros is one that was never
 * open. */
void line_close(struct line_conn *conn);

#endif
