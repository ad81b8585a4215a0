/*
 * macOS, FreeBSD, NetBSD, OpenBSD. The table has what each of them calls a thing; what one of them lacks is NONE there, and
 * is left out where it is used.
 */
#include "os.h"

#include <sys/types.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* --- The table --- */

enum { NONE = 0 };

#if defined(__APPLE__) /* tcp(4), and bsd/netinet/tcp.h of xnu */
enum { KEEP_IDLE = TCP_KEEPALIVE, KEEP_INTERVAL = TCP_KEEPINTVL, KEEP_COUNT = TCP_KEEPCNT };
enum { GIVE_UP = TCP_RXT_CONNDROPTIME };                 /* seconds */
enum { UNSENT_OPTION = SO_NWRITE, UNSENT_IOCTL = NONE }; /* getsockopt(2) */
#elif defined(__FreeBSD__)                               /* tcp(4) */
enum { KEEP_IDLE = TCP_KEEPIDLE, KEEP_INTERVAL = TCP_KEEPINTVL, KEEP_COUNT = TCP_KEEPCNT };
enum { GIVE_UP = NONE };                                 /* TCP_MAXUNACKTIME also ends who reads nothing */
enum { UNSENT_OPTION = NONE, UNSENT_IOCTL = FIONWRITE }; /* sys/filio.h */
#elif defined(__NetBSD__)                                /* tcp(4) */
enum { KEEP_IDLE = TCP_KEEPIDLE, KEEP_INTERVAL = TCP_KEEPINTVL, KEEP_COUNT = TCP_KEEPCNT };
enum { GIVE_UP = NONE };
enum { UNSENT_OPTION = NONE, UNSENT_IOCTL = FIONWRITE };
#else /* OpenBSD: for all sockets alike, sysctl(2) net.inet.tcp */
enum { KEEP_IDLE = NONE, KEEP_INTERVAL = NONE, KEEP_COUNT = NONE };
enum { GIVE_UP = NONE };
enum { UNSENT_OPTION = NONE, UNSENT_IOCTL = TIOCOUTQ }; /* a socket's too: sys_socket.c */
#endif

/* --- Sockets and pipes: two steps where others have one (macOS knows no other way) --- */

static int set_up(int fd)
{
    if (fd < 0 || (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0))
        return fd;
    close(fd);
    return -1;
}

int os_socket(int family)
{
    return set_up(socket(family, SOCK_STREAM, 0));
}

int os_accept(int listener)
{
    return set_up(accept(listener, NULL, NULL));
}

int os_pipe(int fds[2])
{
    if (pipe(fds) != 0)
        return -1;
    return set_up(fds[0]) >= 0 && set_up(fds[1]) >= 0 ? 0 : -1;
}

uint64_t os_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* --- Options --- */

static void set_option(int fd, int level, int name, int value)
{
    if (name != NONE)
        (void)setsockopt(fd, level, name, &value, sizeof value);
}

void os_keepalive(int fd, int seconds)
{
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, KEEP_IDLE, seconds);
    set_option(fd, IPPROTO_TCP, KEEP_INTERVAL, seconds);
    set_option(fd, IPPROTO_TCP, KEEP_COUNT, 3);
}

void os_give_up_the_dead(int fd)
{
    set_option(fd, IPPROTO_TCP, GIVE_UP, 60);
}

void os_tune_local(int fd)
{
    (void)fd;
}

int os_unacknowledged(int fd)
{
    int bytes = 0;
    socklen_t size = sizeof bytes;

    if (UNSENT_OPTION != NONE)
        return getsockopt(fd, SOL_SOCKET, UNSENT_OPTION, &bytes, &size) == 0 ? bytes : 0;
    return ioctl(fd, UNSENT_IOCTL, &bytes) == 0 ? bytes : 0;
}

/* These systems don't tell. The keepalive breaks a dead connection, and then everybody knows. */
bool os_heard_within(int fd, unsigned ms)
{
    (void)fd, (void)ms;
    return true;
}
