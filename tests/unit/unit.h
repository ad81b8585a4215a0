/*
 * unit: what the tests of common/ share.
 *
 * Each test gets a fresh loop, and must give back every descriptor that it or the module opened. It turns the loop by hand,
 * until what it expects is so; else a deadline fails it (TEST_PATIENCE=10 makes it tenfold, for a slow machine or
 * valgrind). It also holds the clock: later(5000) makes it five seconds later for the module, at once. What the module
 * logs is kept, not shown.
 *
 * For this, unit.c stands in for poller_wait, and for two functions of the C library: clock_gettime and write. Each
 * does the real one's work; so all tests run with each poller.
 */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../common/loop.h"
#include "../basics.h"

extern struct loop *loop;

/* What the system refuses from now on, until the end of the test. */
struct refused {
    int waiting;    /* the loop's, with this errno */
    bool memory;    /* for buckets */
    bool pipe_size; /* larger pipes than they are from the start */
};
extern struct refused refused;

/* Entries in the list of tests. One with setup and teardown of its own has these call unit_begin and unit_end. */
#define UNIT(test)                                                                                           \
    {                                                                                                        \
#test, test, unit_begin, unit_end, NULL                                                              \
    }

int unit_begin(void **state);
int unit_end(void **state);

/* Turns the loop until the condition is true. */
#define eventually(condition)                                                                                \
    do {                                                                                                     \
        unit_expect(#condition, __FILE__, __LINE__);                                                         \
        while (!(condition))                                                                                 \
            unit_turn();                                                                                     \
    } while (0)
void unit_expect(const char *condition, const char *file, int line);

/* One turn of the loop, waiting a few milliseconds at most. Returns whether there was something to do. Fails the test when the
 * deadline of unit_expect is over. */
bool unit_turn(void);

/* What there is to do is done: the loop finds something to wait for. A loop that keeps turning for nothing fails. */
#define expect_rest() unit_rest(__FILE__, __LINE__)
void unit_rest(const char *file, int line);

/* Makes it ms milliseconds later, then lets the loop do what is due. */
void later(int ms);
/* The same, while the machine sleeps: only some clocks go on. */
void sleep_through(int ms);
/* Makes it later in the midst of a turn, as something does that blocks. */
void take_time(int ms);
/* How long the loop wanted to wait when it last did; -1: for as long as it takes. */
int last_wait_ms(void);

/* A connection over loopback: ours, set up as the module's would be, and the peer's end. Neither blocks. */
struct pair {
    int ours;
    int peer;
};
struct pair pair_open(void);

/* A socket that listens on address and port (0: any), IPv4 or IPv6; -1 with errno if the system refuses. */
int listening_on(const char *address, int port, int backlog);
/* The value of a socket option: getsockopt(2). */
int option_of(int fd, int level, int name);
/* Whether this is the name of the socket's congestion control. */
bool is_congestion_control(int fd, const char *name);
/* How far the socket's receive window can grow, in bytes: the scale agreed on limits it (RFC 7323). */
int window_at_most(int fd);
/* A port of this machine's IPv4 addresses that nobody else gets until fd is closed. listening_on can be had on it meanwhile;
 * where it was not, connections are refused. */
struct held_port {
    int fd;
    int port;
};
struct held_port hold_port(void);
/* A socket that connects to a port of address, and may still be at it. */
int connecting_to(const char *address, int port);

/* Bytes to the other side. They must find room. */
void tell(int fd, const char *text);
void tell_bytes(int fd, const void *bytes, size_t size);
/* Fills the kernel's room for what is sent from fd to peer, which does not read. Returns with how many bytes. */
size_t fill_room(int fd, int peer);
/* Ends the own direction. */
void finish(int fd);
/* Closes with a reset, as a program does that crashes. */
void reset(int fd);

/* The next bytes are these. */
#define expect_text(fd, text) unit_expect_text(fd, text, __FILE__, __LINE__)
void unit_expect_text(int fd, const char *text, const char *file, int line);
/* The next that comes is the end, or a reset. */
#define expect_end(fd) unit_expect_last(fd, 0, __FILE__, __LINE__)
#define expect_reset(fd) unit_expect_last(fd, ECONNRESET, __FILE__, __LINE__)
void unit_expect_last(int fd, int error, const char *file, int line);
/* Nothing has come until now. Means something only once something else has come later. */
#define expect_nothing_yet(fd) unit_expect_nothing(fd, __FILE__, __LINE__)
void unit_expect_nothing(int fd, const char *file, int line);
/* The module has closed this descriptor (one of its own: no other may have got its number meanwhile). */
bool is_closed(int fd);

/* A descriptor that no loop can watch. */
int unwatchable(void);
int open_descriptors(void);
/* From now on the system refuses every new descriptor; until it is allowed again, or the test ends. */
void forbid_descriptors(void);
void allow_descriptors(void);
/* valgrind has its own limit on descriptors: what is accepted beyond it is not refused but lost. */
bool is_under_valgrind(void);
/* Runs work in a process of its own, with a limit on descriptors that can't be raised; returns its result, 0 to 100. */
int with_descriptors(int limit, int (*work)(void));

/* What was logged since the test began, or since log_forget. */
const char *logged(void);
int times_logged(const char *text);
int writes_to_log(void);
void log_forget(void);
/* From here to log_comes_back stderr is fd, and what is logged really goes there. */
void log_goes_to(int fd);
void log_comes_back(void);
#define expect_logged(text) assert_true(times_logged(text) > 0)

#endif
