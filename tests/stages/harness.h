/*
 * harness: what the tests of the stages are made of.
 *
 * A test starts the programs under test, from the folder that holds a `server` and a `client` in whatever
 * language, and plays everybody else over real sockets: user, local app, stranger, and the client towards a
 * server or the server towards a client.
 *
 * Every wait has a deadline, and collects meanwhile what the programs log, so that none of them can block
 * on its log. What does not happen as expected ends the test with one sentence: what was expected, what
 * came, and what the program logged last. A test that got that far ends by stopping the programs that still
 * run with SIGTERM: they are expected to exit with status 0. Whatever a program does, nothing of it is left
 * running when its test is over.
 */
#ifndef TESTS_HARNESS_H
#define TESTS_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../basics.h"

/* ---- tests ---- */

struct spec {
    const char *name;
    void (*test)(void);
    bool is_slow;
    int process;  /* if it runs ahead; else 0 */
    void *output; /* what it prints there, a FILE */
};

/* An entry in the list of tests. */
#define SPEC(function)                                                                                       \
    {                                                                                                        \
#function, spec_run, spec_begin, spec_end, &(struct spec)                                            \
        {                                                                                                    \
            .name = #function, .test = function                                                              \
        }                                                                                                    \
    }
/* The same for a test that has to wait for seconds: it runs ahead, in a process of its own, and its
 * result is shown in its turn. */
#define SLOW_SPEC(function)                                                                                  \
    {                                                                                                        \
#function, spec_run, spec_begin, spec_end, &(struct spec)                                            \
        {                                                                                                    \
            .name = #function, .test = function, .is_slow = true                                             \
        }                                                                                                    \
    }

/* Runs them: argv is the folder under test and, if given, a pattern that chooses tests by name. Returns
 * main's status. */
int spec_run_all(int argc, char **argv, const struct CMUnitTest *tests, size_t count);
int spec_begin(void **state);
void spec_run(void **state);
int spec_end(void **state);

/* Ends the test: "expected ..., but ...", and what the program (NULL: none) logged last. */
struct program;
_Noreturn void unmet(struct program *program, const char *expected, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Leaves the test: it can't be done on this machine. */
void skip_test(const char *reason);

/* Milliseconds of a clock that only goes forward. */
int64_t now_ms(void);

/* How long something may take that needs no waiting: 5 s; TEST_PATIENCE=10 makes it tenfold, for a slow
 * machine or valgrind. */
double patience(void);

/* On macOS a program does not hear at once that a connection was reset of which it wants to know nothing just now. */
bool resets_are_told_late(void);

/* ---- programs ---- */

/* Starts a program of the folder under test, "server" or "client". The format makes its command line,
 * split at blanks. */
struct program *run(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same with limits on descriptors: a soft and a hard one. */
struct program *run_limited(int soft, int hard, const char *name, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same without standard input, output and error: all three are closed. */
struct program *run_without_streams(const char *name, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The same with a log that is full, since nobody reads it; until read_log. */
struct program *run_unread(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
void read_log(struct program *program);

/* Waits for the line `listening for WHOM on port N`; returns N. */
int port_for(struct program *program, const char *whom);

/* Waits until a line of the log has text (POSIX extended regular expression) in it. */
void expect_log(struct program *program, const char *regex, const char *expected);
bool has_logged(struct program *program, const char *regex);
/* Waits for anything in the log, but not for long. */
void await_any_log(struct program *program, double seconds);
/* What the program wrote until now. */
const char *log_of(struct program *program);
const char *output_of(struct program *program);

void expect_exit(struct program *program, int status);
void expect_running(struct program *program);
void send_signal(struct program *program, int signal);
/* Ends a program at once (SIGKILL), as a crash would. */
void kill_program(struct program *program);

/* For a while, it takes (nearly) no processor time: it waits, and does not look again and again. */
void expect_idle(struct program *program);
/* How many descriptors a program has open; -1: can't be known here. */
int open_descriptors(struct program *program);
/* Soon, it has no more than that many open. */
void expect_descriptors(struct program *program, int most);

/* ---- connections ---- */

/* One end of a connection, held by the test. */
struct peer {
    int fd;
    const char *name;     /* whom it plays: "the user" */
    struct program *with; /* the program at the other end: its log is shown when something goes wrong */
    bool was_reset; /* as soon as it was connected: the kernel tells an error once, and dial has heard it */
};

/* Connects to a port of this machine. */
struct peer dial(const char *name, struct program *with, int port);
struct peer dial_address(const char *name, struct program *with, const char *address, int port);
/* The same, for a program that does not say when its port is open. */
struct peer dial_when_open(const char *name, struct program *with, int port);
/* The same, with as little room for what comes as the system allows. */
struct peer dial_narrowly(const char *name, struct program *with, int port);
void widen(struct peer *peer); /* from now on with more room */
void expect_refused(struct program *with, const char *address, int port, const char *what);
/* The same, for what is about to happen. */
void expect_refused_soon(struct program *with, int port, const char *what);
/* How many segments have come from the other side, those without bytes too; -1: can't be known here. */
int segments_heard(struct peer *peer);
/* The peer's own port. */
int own_port(struct peer *peer);

void say(struct peer *peer, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_bytes(struct peer *peer, const void *bytes, size_t size);

/* The next line is this one (without its newline). */
void expect_line(struct peer *peer, const char *line);
/* The next line, without its newline; valid until the next call. */
const char *next_line(struct peer *peer, const char *expected);
/* The next bytes are these. */
void expect_bytes(struct peer *peer, const char *bytes);
char next_byte(struct peer *peer);
/* Nothing more comes: the other side has ended its direction. */
void expect_end(struct peer *peer);
void expect_reset(struct peer *peer);
/* Nothing more comes, be it by an end or by a reset; then the test's side is closed too. */
void expect_closed(struct peer *peer, const char *why);
/* The same, whatever came before. */
void expect_closed_after_anything(struct peer *peer, const char *why);
/* Nothing has come until now. Means something only after something else that came later. */
void expect_nothing_yet(struct peer *peer);
/* Waits for that many seconds at most: whether something came (bytes, an end, a reset) that can be read
 * now. */
bool comes_within(struct peer *peer, double seconds);
/* Reads for that many seconds at most: whether text is among what comes before the end. */
bool hears(struct peer *peer, const char *text, double seconds);

void finish(struct peer *peer); /* "I have said everything": ends its own direction */
void reset(struct peer *peer);
void leave(struct peer *peer);

/* Bytes both ways at once, each of them checked; size 0: none in that direction. */
void exchange(struct peer *left, struct peer *right, size_t from_left, size_t from_right);
/* Sends that many bytes to someone who returns them, and checks each. */
void expect_echo(struct peer *peer, size_t size);
/* Sends until the other side takes no more for a moment; returns how many bytes. */
size_t stuff(struct peer *peer);
/* Reads and checks what stuff() sent. */
void expect_stuffed(struct peer *peer, size_t size);

/* A port that the test listens on. */
struct door {
    int fd;
    int port;
    char path[64]; /* of a Unix socket, or empty */
    const char *name;
    struct program *with; /* who is expected to come */
};

struct door open_door(const char *name);      /* at 127.0.0.1 */
struct door open_door_unix(const char *name); /* a Unix socket's, in a folder of its own */
struct door open_door_ipv6(const char *name); /* at ::1 only, where has_ipv6() */
/* A port that nobody listens on, and that nobody else gets while the test lasts: open_it makes it a door. */
struct door hold_port(const char *name);
void open_it(struct door *door);
/* A caller of the test's own fills the door's queue: those who come after it wait until it is let in. */
void fill_queue(struct door *door);
struct peer expect_caller(struct door *door, const char *name);
/* Nobody has come until now. Means something only after something else that came later. */
void expect_no_caller_yet(struct door *door);
bool has_caller_within(struct door *door, double seconds);

/* ---- time ---- */

/* Since `since`, at least / at most that many seconds have passed. */
void expect_later_than(struct program *program, int64_t since, double seconds, const char *what);
void expect_sooner_than(struct program *program, int64_t since, double seconds, const char *what);

/* Remembers from which line of a test a call came, so that a failure can name it. */
void here(const char *file, int line);

#ifndef TESTS_INNER
#define port_for(...) (here(__FILE__, __LINE__), port_for(__VA_ARGS__))
#define expect_log(...) (here(__FILE__, __LINE__), expect_log(__VA_ARGS__))
#define expect_exit(...) (here(__FILE__, __LINE__), expect_exit(__VA_ARGS__))
#define expect_running(...) (here(__FILE__, __LINE__), expect_running(__VA_ARGS__))
#define expect_idle(...) (here(__FILE__, __LINE__), expect_idle(__VA_ARGS__))
#define expect_descriptors(...) (here(__FILE__, __LINE__), expect_descriptors(__VA_ARGS__))
#define dial(...) (here(__FILE__, __LINE__), dial(__VA_ARGS__))
#define dial_address(...) (here(__FILE__, __LINE__), dial_address(__VA_ARGS__))
#define expect_refused(...) (here(__FILE__, __LINE__), expect_refused(__VA_ARGS__))
#define say(...) (here(__FILE__, __LINE__), say(__VA_ARGS__))
#define expect_line(...) (here(__FILE__, __LINE__), expect_line(__VA_ARGS__))
#define next_line(...) (here(__FILE__, __LINE__), next_line(__VA_ARGS__))
#define expect_bytes(...) (here(__FILE__, __LINE__), expect_bytes(__VA_ARGS__))
#define expect_end(...) (here(__FILE__, __LINE__), expect_end(__VA_ARGS__))
#define expect_reset(...) (here(__FILE__, __LINE__), expect_reset(__VA_ARGS__))
#define expect_closed(...) (here(__FILE__, __LINE__), expect_closed(__VA_ARGS__))
#define expect_closed_after_anything(...)                                                                    \
    (here(__FILE__, __LINE__), expect_closed_after_anything(__VA_ARGS__))
#define expect_nothing_yet(...) (here(__FILE__, __LINE__), expect_nothing_yet(__VA_ARGS__))
#define exchange(...) (here(__FILE__, __LINE__), exchange(__VA_ARGS__))
#define expect_echo(...) (here(__FILE__, __LINE__), expect_echo(__VA_ARGS__))
#define expect_stuffed(...) (here(__FILE__, __LINE__), expect_stuffed(__VA_ARGS__))
#define expect_caller(...) (here(__FILE__, __LINE__), expect_caller(__VA_ARGS__))
#define expect_no_caller_yet(...) (here(__FILE__, __LINE__), expect_no_caller_yet(__VA_ARGS__))
#define expect_later_than(...) (here(__FILE__, __LINE__), expect_later_than(__VA_ARGS__))
#define expect_sooner_than(...) (here(__FILE__, __LINE__), expect_sooner_than(__VA_ARGS__))
#define unmet(...) (here(__FILE__, __LINE__), unmet(__VA_ARGS__))
#endif

#endif
