/*
 * How it works: the Makefile compiles the loop and the buckets once more for these tests, with some functions that they
 * call renamed. So the loop's call of poller_wait comes here before each turn, which is where a test gets in between; and
 * memory is there, or not, as the test wants. The linker takes a function of the C library from here if it is
 * defined here: what comes from clock_gettime is as much ahead of the real time as the test wants it to be.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../common/limits.h"
#include "../../common/os.h"
#include "../../common/poller.h"
#include "../../common/sock.h"

enum {
    TURN_MS = 1,         /* the longest that a turn waits */
    REST_MS = 3,         /* after so long without anything to do the loop is at rest */
    DEADLINE_MS = 10000, /* for what should be so at once; far off, since the machine may be busy */
    WATCHDOG_S = 120,    /* for a test that never comes back from the module */
    LOG_WATCHDOG_S = 10, /* for one that waits for whoever is to read the log */
    REST_TURNS = 20000,  /* so many without a rest mean a loop that turns for nothing */
    DESCRIPTORS = 1024,  /* where they are scarce; more than a test opens */
};

struct loop *loop;
struct refused refused;

static struct {
    int turns_left; /* before the loop returns to the test; -1: it runs freely */
    int turn_ms;    /* the longest that a turn waits */
    bool was_idle;  /* the last turn had nothing to do */
    bool clock_was_moved;
    int wait_ms;       /* that the loop last asked for */
    int64_t ahead_ms;  /* of the real clock */
    int64_t asleep_ms; /* so long */
    const char *expected;
    const char *file;
    int line;
    int64_t deadline_ms;
    int descriptors; /* open before the test */
    struct rlimit limit;
    int held[DESCRIPTORS]; /* descriptors, so that there are no others */
    int held_count;
    char log[16384];
    size_t log_size;
    int log_writes;
    int own_stderr; /* kept here while the log goes elsewhere; else -1 */
    bool has_watchdog;
    timer_t watchdog;
} unit = {.turns_left = -1, .turn_ms = TURN_MS, .own_stderr = -1};

/* --- The stand-ins --- */

int unit_poller_wait(struct poller *poller, struct event *events, int most, int ms);
int unit_poller_set(struct poller *poller, struct watch *watch, unsigned interest);
void *unit_malloc(size_t size);
void *unit_calloc(size_t count, size_t size);
int unit_fcntl(int fd, int command, ...);

int unit_poller_wait(struct poller *poller, struct event *events, int most, int ms)
{
    int wait = ms;

    unit.wait_ms = ms;
    if (refused.waiting != 0) {
        errno = refused.waiting;
        return -1;
    }
    if (unit.turns_left == 0) { /* the turn is over: back to the test */
        loop_stop(loop, 0);
        return 0;
    }
    if (unit.turns_left > 0) {
        unit.turns_left--;
        wait = ms < 0 || ms > unit.turn_ms ? unit.turn_ms : ms;
    }
    if (unit.clock_was_moved) /* then ms was computed from the time before */
        wait = 0;
    unit.clock_was_moved = false;
    int count = poller_wait(poller, events, most, wait);
    unit.was_idle = count == 0 && wait != ms;
    return count;
}

/* epoll(7) refuses some descriptors, poll(2) none. Here each poller refuses directories: see unwatchable. */
int unit_poller_set(struct poller *poller, struct watch *watch, unsigned interest)
{
    struct stat status;

    if (fstat(watch->fd, &status) != 0 || !S_ISDIR(status.st_mode))
        return poller_set(poller, watch, interest);
    errno = EPERM;
    return -1;
}

static bool is_out_of_memory(void)
{
    if (refused.memory)
        errno = ENOMEM;
    return refused.memory;
}

void *unit_malloc(size_t size)
{
    return is_out_of_memory() ? NULL : malloc(size);
}

void *unit_calloc(size_t count, size_t size)
{
    return is_out_of_memory() ? NULL : calloc(count, size);
}

/* With F_SETPIPE_SZ, the only use that the modules have for it. */
int unit_fcntl(int fd, int command, ...)
{
    va_list arguments;

    va_start(arguments, command);
    int argument = va_arg(arguments, int);
    va_end(arguments);
    if (!refused.pipe_size)
        return fcntl(fd, command, argument);
    errno = EPERM;
    return -1;
}

int clock_gettime(clockid_t id, struct timespec *time)
{
    long result = syscall(SYS_clock_gettime, id, time);
    int64_t ahead_ms = id == CLOCK_REALTIME ? 0 : unit.ahead_ms;

#ifdef CLOCK_BOOTTIME
    ahead_ms += id == CLOCK_BOOTTIME ? unit.asleep_ms : 0; /* the only one that goes on meanwhile */
#endif
    ahead_ms += time->tv_nsec / 1000000;
    time->tv_sec += ahead_ms / 1000;
    time->tv_nsec = ahead_ms % 1000 * 1000000 + time->tv_nsec % 1000000;
    return (int)result;
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    if (fd != STDERR_FILENO || unit.own_stderr >= 0)
        return syscall(SYS_write, fd, bytes, size);
    unit.log_writes++;
    if (size < sizeof unit.log - unit.log_size) {
        memcpy(unit.log + unit.log_size, bytes, size);
        unit.log_size += size;
    }
    return (ssize_t)size;
}

/* --- A test --- */

/* Ends the program after so many seconds. Not alarm(2): its timer is the log's. */
static void start_watchdog(int seconds)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGABRT};

    if (!unit.has_watchdog)
        assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &unit.watchdog), 0);
    unit.has_watchdog = true;
    struct itimerspec time = {.it_value.tv_sec = (time_t)(slowness() * seconds)};
    assert_int_equal(timer_settime(unit.watchdog, 0, &time, NULL), 0);
}

int unit_begin(void **state)
{
    (void)state;
    start_watchdog(WATCHDOG_S);
    unit.turns_left = -1;
    unit.turn_ms = TURN_MS;
    unit.ahead_ms += 2000; /* a complaint of the test before must not hold back this one's */
    log_forget();
    refused = (struct refused){0};
    getrlimit(RLIMIT_NOFILE, &unit.limit);
    unit.descriptors = open_descriptors();
    loop = loop_new();
    return loop != NULL ? 0 : -1;
}

int unit_end(void **state)
{
    (void)state;
    allow_descriptors();
    loop_free(loop);
    loop = NULL;
    setrlimit(RLIMIT_NOFILE, &unit.limit);
    start_watchdog(0);
    int more = open_descriptors() - unit.descriptors;
    if (more != 0)
        print_error("%d descriptors more than before\n", more);
    return more == 0 ? 0 : -1;
}

/* --- The loop --- */

static int64_t real_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000 - unit.ahead_ms;
}

void unit_expect(const char *condition, const char *file, int line)
{
    unit.expected = condition;
    unit.file = file;
    unit.line = line;
    unit.deadline_ms = real_ms() + (int64_t)(slowness() * DEADLINE_MS);
}

static void fail_at(const char *file, int line, const char *what)
{
    print_error("%s; logged: %s\n", what, logged());
    _fail(file, line);
}

bool unit_turn(void)
{
    if (real_ms() > unit.deadline_ms)
        fail_at(unit.file, unit.line, unit.expected);
    unit.turns_left = 1;
    loop_run(loop);
    unit.turns_left = -1;
    return !unit.was_idle;
}

void unit_rest(const char *file, int line)
{
    int turns = 0;

    unit_expect("rest", file, line);
    unit.turn_ms = REST_MS;
    while (unit_turn())
        if (++turns == REST_TURNS)
            fail_at(file, line, "the loop keeps turning");
    unit.turn_ms = TURN_MS;
}

void take_time(int ms)
{
    unit.ahead_ms += ms;
}

int last_wait_ms(void)
{
    return unit.wait_ms;
}

static void turn_later(void)
{
    unit_expect("later", __FILE__, __LINE__);
    unit.clock_was_moved = true;
    unit_turn();
}

void later(int ms)
{
    take_time(ms);
    turn_later();
}

void sleep_through(int ms)
{
    unit.asleep_ms += ms;
    turn_later();
}

/* --- Connections --- */

int listening_on(const char *address, int port, int backlog)
{
    int fd = bound_to(address, port);

    if (fd < 0 || listen(fd, backlog) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

int option_of(int fd, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof value;

    assert_int_equal(getsockopt(fd, level, name, &value, &size), 0);
    return value;
}

bool is_congestion_control(int fd, const char *name)
{
    char own[16] = "";
    socklen_t size = sizeof own - 1;

    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, own, &size), 0);
    return strcmp(own, name) == 0;
}

int window_at_most(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;

    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    return UINT16_MAX << info.tcpi_rcv_wscale;
}

struct held_port hold_port(void)
{
    struct held_port held = {.fd = bound_to("0.0.0.0", 0)};

    assert_true(held.fd >= 0);
    held.port = port_of(held.fd);
    return held;
}

int connecting_to(const char *address, int port)
{
    struct sockaddr_storage storage;
    socklen_t size = make_address(address, port, &storage);
    int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&storage, size) != 0)
        assert_int_equal(errno, EINPROGRESS);
    return fd;
}

struct pair pair_open(void)
{
    int listening = listening_on("127.0.0.1", 0, 1);
    struct pair pair = {.ours = -1};

    assert_true(listening >= 0);
    pair.peer = connecting_to("127.0.0.1", port_of(listening));
    eventually((pair.ours = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
    sock_tune(pair.ours);
    sock_tune(pair.peer);
    close(listening);
    return pair;
}

void tell_bytes(int fd, const void *bytes, size_t size)
{
    assert_int_equal(send(fd, bytes, size, MSG_NOSIGNAL), size);
}

void tell(int fd, const char *text)
{
    tell_bytes(fd, text, strlen(text));
}

/* FIONREAD: bytes that have come and that nobody has taken. */
static size_t bytes_to_read(int fd)
{
    int bytes = 0;

    assert_int_equal(ioctl(fd, FIONREAD, &bytes), 0);
    return (size_t)bytes;
}

/* Until all is either acknowledged or not, none is on its way; then there may be room again. */
size_t fill_room(int fd, int peer)
{
    static const char bytes[65536];
    size_t sum = 0, before;
    int room = 100000; /* asked for, it grows no more: tcp(7) */

    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    setsockopt(peer, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    do {
        before = sum;
        for (ssize_t count; (count = send(fd, bytes, sizeof bytes, 0)) > 0; sum += (size_t)count)
            ;
        eventually(bytes_to_read(peer) + (size_t)os_unacknowledged(fd) == sum);
    } while (sum > before);
    return sum;
}

void finish(int fd)
{
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
}

void reset(int fd)
{
    reset_when_closed(fd);
    close(fd);
}

/* recv, which turns the loop until something comes. */
static ssize_t receive(int fd, char *bytes, size_t size)
{
    ssize_t count = recv(fd, bytes, size, 0);

    while (count < 0 && errno == EAGAIN) {
        unit_turn();
        count = recv(fd, bytes, size, 0);
    }
    return count;
}

void unit_expect_text(int fd, const char *text, const char *file, int line)
{
    char came[4096] = "";
    size_t size = 0, wanted = strlen(text);

    assert_true(wanted < sizeof came);
    unit_expect(text, file, line);
    while (size < wanted) {
        ssize_t count = receive(fd, came + size, wanted - size);
        if (count <= 0)
            fail_at(file, line, count == 0 ? "came: an end" : "came: a reset");
        size += (size_t)count;
    }
    came[size] = '\0';
    _assert_string_equal(came, text, file, line);
}

void unit_expect_last(int fd, int error, const char *file, int line)
{
    char byte;

    unit_expect(error != 0 ? "a reset comes" : "an end comes", file, line);
    ssize_t count = receive(fd, &byte, 1);
    if (count > 0)
        fail_at(file, line, "more bytes came");
    _assert_int_equal((unsigned long)(count == 0 ? 0 : errno), (unsigned long)error, file, line);
}

void unit_expect_nothing(int fd, const char *file, int line)
{
    char byte;

    if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN)
        fail_at(file, line, "something came");
}

/* --- Descriptors --- */

bool is_under_valgrind(void)
{
    const char *preloaded = getenv("LD_PRELOAD");

    return preloaded != NULL && strstr(preloaded, "valgrind") != NULL;
}

bool is_closed(int fd)
{
    return fcntl(fd, F_GETFD) < 0;
}

int unwatchable(void)
{
    int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

int open_descriptors(void)
{
    return descriptors_of(getpid());
}

/* Not by a lower limit: poll(2) wants one that is higher than the highest descriptor. */
void forbid_descriptors(void)
{
    struct rlimit limit = unit.limit;
    int fd;

    limit.rlim_cur = limit.rlim_max < DESCRIPTORS ? limit.rlim_max : DESCRIPTORS;
    setrlimit(RLIMIT_NOFILE, &limit);
    while (unit.held_count < DESCRIPTORS && (fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0)
        unit.held[unit.held_count++] = fd;
    assert_in_range(unit.held_count, 1, DESCRIPTORS - 1);
}

void allow_descriptors(void)
{
    while (unit.held_count > 0)
        close(unit.held[--unit.held_count]);
    setrlimit(RLIMIT_NOFILE, &unit.limit);
    limits_raise();
}

int with_descriptors(int limit, int (*work)(void))
{
    struct rlimit both = {(rlim_t)limit, (rlim_t)limit};
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0)
        _exit(setrlimit(RLIMIT_NOFILE, &both) == 0 ? work() : 101);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 101)
        skip(); /* as valgrind does not grant it */
    return WEXITSTATUS(status);
}

/* --- The log --- */

const char *logged(void)
{
    unit.log[unit.log_size] = '\0';
    return unit.log;
}

int times_logged(const char *text)
{
    int times = 0;

    for (const char *at = strstr(logged(), text); at != NULL; at = strstr(at + 1, text))
        times++;
    return times;
}

int writes_to_log(void)
{
    return unit.log_writes;
}

void log_goes_to(int fd)
{
    start_watchdog(LOG_WATCHDOG_S);
    unit.own_stderr = dup(STDERR_FILENO);
    assert_true(unit.own_stderr > STDERR_FILENO && dup2(fd, STDERR_FILENO) == STDERR_FILENO);
}

void log_comes_back(void)
{
    assert_int_equal(dup2(unit.own_stderr, STDERR_FILENO), STDERR_FILENO);
    close(unit.own_stderr);
    unit.own_stderr = -1;
    start_watchdog(WATCHDOG_S);
}

void log_forget(void)
{
    unit.log_size = 0;
    unit.log_writes = 0;
}
