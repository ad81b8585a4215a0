/*
 * newcomers: connections that have not said yet who they are.
 *
 * Ports on the internet are knocked at by strangers all day long. A connection is held here until it has said its
 * first line, and for FIRST_LINE_MS at most. There are never more than NEWCOMERS_MAX of them: if one more
 * comes, the one that has been here the longest goes. So strangers cost little, and disturb nobody else.
 */
#ifndef COMMON_NEWCOMERS_H
#define COMMON_NEWCOMERS_H

#include "loop.h"

enum { FIRST_LINE_MS = 5000, NEWCOMERS_MAX = 256 };

struct newcomers {
    struct loop *loop;
    struct link list; /* the one that has been here the longest is the first */
    int count;
    int most; /* NEWCOMERS_MAX, or less where descriptors are scarce */
};

void newcomers_init(struct newcomers *newcomers, struct loop *loop);

/* Takes fd over. Calls on_line(owner, fd, line) when its first line has come: the descriptor is then the
 * callee's, with nothing lost of what follows the line. One that goes away, keeps silent or breaks the
 * rules is closed, and logged as a stranger at port_name ("the control port"; not copied). */
void newcomers_add(struct newcomers *newcomers, int fd, const char *port_name,
                   void (*on_line)(void *owner, int fd, const char *line), void *owner);
/* Closes them all. */
void newcomers_clear(struct newcomers *newcomers);

#endif
