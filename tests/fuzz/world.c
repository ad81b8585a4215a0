#include "world.h"

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    TURNS_MAX = 5000, /* of the loop, between two steps: the longest step is a transfer of less than a MiB */
    DESCRIPTORS = 128,
};

struct world world;

static int64_t now_ms = 1;
static int turns;
static int report_fd = STDERR_FILENO;
static bool was_open[DESCRIPTORS];

int fuzz_clock_gettime(clockid_t clock, struct timespec *now);
int fuzz_epoll_wait(int epoll_fd, struct epoll_event *events, int most, int timeout_ms);
ssize_t fuzz_send(int fd, const void *bytes, size_t size, int flags);
FILE *fuzz_fopen(const char *path, const char *mode);
char *fuzz_getenv(const char *name);

int fuzz_clock_gettime(clockid_t clock, struct timespec *now)
{
    (void)clock;
    *now = (struct timespec){.tv_sec = now_ms / 1000, .tv_nsec = now_ms % 1000 * 1000000};
    return 0;
}

int fuzz_epoll_wait(int epoll_fd, struct epoll_event *events, int most, int timeout_ms)
{
    int count = epoll_wait(epoll_fd, events, most, 0);

    if (count == 0 && timeout_ms != 0) {
        turns = 0;
        world.on_idle(world.owner);
    } else if (++turns > TURNS_MAX) {
        finding("the loop spins: %d turns, and nothing has happened outside", turns);
    }
    return count;
}

ssize_t fuzz_send(int fd, const void *bytes, size_t size, int flags)
{
    return send(fd, bytes, world.send_most > 0 && size > world.send_most ? world.send_most : size, flags);
}

FILE *fuzz_fopen(const char *path, const char *mode)
{
    (void)path;
    return world.secret_file != NULL ? fmemopen((void *)world.secret_file, world.secret_file_size, mode)
                                     : NULL;
}

char *fuzz_getenv(const char *name)
{
    (void)name;
    return (char *)world.environment;
}

void world_move_clock(int ms)
{
    now_ms += ms;
}

void finding(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    dprintf(report_fd, "FINDING: ");
    vdprintf(report_fd, format, arguments);
    dprintf(report_fd, "\n");
    va_end(arguments);
    abort();
}

/* poll(2) says POLLNVAL of a descriptor that isn't open: one call for all. */
static void look_at_descriptors(bool open[DESCRIPTORS])
{
    struct pollfd polled[DESCRIPTORS];

    for (int fd = 0; fd < DESCRIPTORS; fd++)
        polled[fd] = (struct pollfd){.fd = fd};
    poll(polled, DESCRIPTORS, 0);
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        open[fd] = (polled[fd].revents & POLLNVAL) == 0;
}

void descriptors_remember(void)
{
    look_at_descriptors(was_open);
}

void descriptors_check(void)
{
    bool is_open[DESCRIPTORS];

    look_at_descriptors(is_open);
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (is_open[fd] != was_open[fd])
            finding("descriptor %d was left %s", fd, is_open[fd] ? "open" : "closed");
}

char *exact_string(const uint8_t *bytes, size_t size)
{
    char *string = malloc(size + 1);

    if (string == NULL)
        abort();
    if (size > 0)
        memcpy(string, bytes, size);
    string[size] = '\0';
    return string;
}

/* A network of our own, where that is allowed: thousands of connections a second leave as many ports in TIME_WAIT, which
 * other programs would miss. Elsewhere it works too. */
static void leave_network(void)
{
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        return;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &loopback) != 0)
        finding("a network without a loopback device");
    close(fd);
}

/* NOLINTNEXTLINE(readability-non-const-parameter): it is libFuzzer that says so */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    report_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, DESCRIPTORS); /* ./run closes stderr: the log is loud */
    leave_network();
    return 0;
}
