/*
 * first_line: waits for the first line of a connection, then hands the connection on.
 *
 * What follows that line belongs to somebody else: not a byte of it is taken from the kernel.
 */
#ifndef COMMON_FIRST_LINE_H
#define COMMON_FIRST_LINE_H

#include <stddef.h>

#include "line.h"
#include "loop.h"

struct first_line {
    struct loop *loop;
    struct watch watch;
    struct timer patience;
    void (*on_line)(void *owner, int fd, const char *line);
    void (*on_gone)(void *owner, const char *why);
    void *owner;
    size_t received; /* bytes of the line that have come */
    char text[LINE_BYTES + 1];
};

/* Takes fd over. Calls back once: on_line with the line, without its '\n', and the descriptor, which is then the callee's;
 * or on_gone with the reason in words, when the peer is gone, breaks the rules (a line too long, or not text), or has not
 * completed its line in patience_ms (0: may take for ever). Then you must close it. Returns 0, or -1 with errno
 * if the system refuses; fd is then still yours. */
int first_line_await(struct first_line *first, struct loop *loop, int fd, int patience_ms,
                     void (*on_line)(void *owner, int fd, const char *line),
                     void (*on_gone)(void *owner, const char *why), void *owner);

/* Looks whether something has come before the loop says so. Calls back as the loop would. */
void first_line_poll(struct first_line *first);

/* Closes the connection. Does nothing with one that is closed or handed on; all zeros is one that was never open. */
void first_line_close(struct first_line *first);

#endif
