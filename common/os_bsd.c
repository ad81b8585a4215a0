/*
 * macOS, FreeBSD, NetBSD, OpenBSD. The table has what each of them calls a thing; what one of them lacks is NONE there, and
 * is left out where it is used.
 */
#include "os.h"

#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h> /* getentropy, which others have in unistd.h, as POSIX.1-2024 says */
#include <sys/syslimits.h>
#endif

/* --- The table --- */

enum { NONE = 0, ANY_NUMBER = 1 << 20 };

#if defined(__APPLE__) /* tcp(4), and bsd/netinet/tcp.h of xnu */
enum { KEEP_IDLE = TCP_KEEPALIVE, KEEP_INTERVAL = TCP_KEEPINTVL, KEEP_COUNT = TCP_KEEPCNT };
enum { GIVE_UP = TCP_RXT_CONNDROPTIME }; /* seconds */
/* poll(2) refuses more, whatever the limit: bsd/kern/sys_generic.c */
enum { DESCRIPTORS_MAX = OPEN_MAX, DUAL_SOCKETS = true };
#elif defined(__FreeBSD__) /* tcp(4) */
enum { KEEP_IDLE = TCP_KEEPIDLE, KEEP_INTERVAL = TCP_KEEPINTVL, KEEP_COUNT = TCP_KEEPCNT };
enum { GIVE_UP = NONE }; /* TCP_MAXUNACKTIME also ends who reads nothing */
enum { DESCRIPTORS_MAX = ANY_NUMBER, DUAL_SOCKETS = true };
#elif defined(__NetBSD__)  /* tcp(4) */
enum { KEEP_IDLE = TCP_KEEPIDLE, KEEP_INTERVAL = TCP_KEEPINTVL, KEEP_COUNT = TCP_KEEPCNT };
enum { GIVE_UP = NONE };
enum { DESCRIPTORS_MAX = ANY_NUMBER, DUAL_SOCKETS = true };
#else                      /* OpenBSD: for all sockets alike, sysctl(2) net.inet.tcp */
enum { KEEP_IDLE = NONE, KEEP_INTERVAL = NONE, KEEP_COUNT = NONE };
enum { GIVE_UP = NONE };
enum { DESCRIPTORS_MAX = ANY_NUMBER, DUAL_SOCKETS = false }; /* ip6(4) */
#endif

/* Bytes that wait in a socket, to be sent or acknowledged: returns 0, or -1 with errno. */
static int unsent(int fd, int *bytes)
{
#if defined(SO_NWRITE) /* macOS: getsockopt(2) */
    socklen_t size = sizeof *bytes;
    return getsockopt(fd, SOL_SOCKET, SO_NWRITE, bytes, &size);
#elif defined(FIONWRITE) /* FreeBSD, NetBSD: sys/filio.h */
    return ioctl(fd, FIONWRITE, bytes);
#else                    /* OpenBSD: tcp(4); it has no ioctl(2) for that: sys/kern/sys_socket.c */
    struct tcp_info info;
    socklen_t size = sizeof info;
    int result = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
    *bytes = result == 0 ? (int)info.tcpi_so_snd_sb_cc : 0;
    return result;
#endif
}

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
    bool is_first_set_up = set_up(fds[0]) >= 0;
    if (is_first_set_up && set_up(fds[1]) >= 0)
        return 0;
    close(fds[is_first_set_up ? 0 : 1]); /* set_up has closed the other */
    return -1;
}

bool os_has_dual_sockets(void)
{
    return DUAL_SOCKETS;
}

uint64_t os_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int os_random(void *bytes, size_t size)
{
    return getentropy(bytes, size);
}

int os_descriptors_max(void)
{
    return DESCRIPTORS_MAX;
}

/* --- Options --- */

static void set_option(int fd, int level, int name, int value)
{
    if (name != NONE)
        (void)setsockopt(fd, level, name, &value, sizeof value);
}

void os_use_all_ports(int fd)
{
    (void)fd;
}

void os_keepalive(int fd)
{
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, KEEP_COUNT, 3);
}

void os_keepalive_period(int fd, int seconds)
{
    set_option(fd, IPPROTO_TCP, KEEP_IDLE, seconds);
    set_option(fd, IPPROTO_TCP, KEEP_INTERVAL, seconds);
}

void os_give_up_the_dead(int fd)
{
    set_option(fd, IPPROTO_TCP, GIVE_UP, 60);
}

int os_congestion(int fd, const char *name)
{
#ifdef TCP_CONGESTION /* FreeBSD: tcp(4) */
    return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
#else
    (void)fd, (void)name;
    errno = ENOPROTOOPT;
    return -1;
#endif
}

void os_tune_local(int fd)
{
    os_keepalive(fd); /* a program may have ended its stream and left altogether */
    os_keepalive_period(fd, 30);
}

int os_unacknowledged(int fd)
{
    int bytes = 0;

    return unsent(fd, &bytes) == 0 ? bytes : 0;
}

/* They tell of it when there are 2 kB: sbwait(9), sowriteable in sys/socketvar.h. */
bool os_tells_of_room_late(int fd)
{
    (void)fd;
    return false;
}

/* These systems don't tell. The keepalive breaks a dead connection, and then everybody knows. */
bool os_heard_within(int fd, unsigned ms)
{
    (void)fd, (void)ms;
    return true;
}
