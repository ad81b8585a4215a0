/* What harness.c and peers.c share, and the tests need not know. */
#ifndef TESTS_INNER_H
#define TESTS_INNER_H

#define TESTS_INNER
#include "harness.h"

#include <poll.h>

/* So many seconds from now, but not later than the test may last. */
int64_t deadline(double seconds);

/* Waits until one of the descriptors is ready (its revents say so), or else, with none, until any
 * program wrote something or ended. Returns false when that did not happen until then, or the needed
 * program (NULL: none) has ended; what is there is taken even if the deadline has passed. */
bool await_any(struct pollfd *wanted, int count, struct program *needed, int64_t until);
/* The same for one; fd -1: waits for the programs alone. */
bool await(int fd, short events, int64_t until);

/* A program shows itself: it says where it listens, or it calls. It has less time to when it never did. */
double patience_for_sight(const struct program *program);
void note_sight(const struct program *program, bool came);

_Noreturn void unmet_as(struct program *program, const char *expected, const char *came);
bool has_ended(struct program *program);

/* Resets all connections of the test, so that nobody has a reason to wait for what comes next, and
 * closes all doors. */
void close_sockets(void);

#endif
