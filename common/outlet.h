/*
 * outlet: stderr, without ever waiting for whoever reads it.
 */
#ifndef COMMON_OUTLET_H
#define COMMON_OUTLET_H

#include <stdbool.h>
#include <stddef.h>

/* What stderr is: a terminal, systemd's journal, or something else, as a file or a pipe. */
enum outlet { OUTLET_TERMINAL, OUTLET_JOURNAL, OUTLET_OTHER };

/* To be called before any descriptor is opened: a standard stream that is closed is opened on /dev/null, so that no
 * connection gets the number of stderr, and all that is meant for it. Takes the signals SIGALRM and SIGXFSZ, and the timer
 * ITIMER_REAL, for itself. */
enum outlet outlet_open(void);

/* Puts a line out, in one write(2): 512 bytes at most. Returns false if it is lost, all or the end of it, with errno
 * (EAGAIN: nobody has read what came before). The next one begins a new line in any case. */
bool outlet_put(const char *line, size_t length);

#endif
