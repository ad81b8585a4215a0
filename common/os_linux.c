/* Linux, with any C library. */
#include "os.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h> /* it has all of struct tcp_info, unlike netinet/tcp.h of glibc */
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51 /* linux/in.h, since Linux 6.3 */
#endif
#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44 /* linux/tcp.h, since Linux 6.15 */
#endif

/* Within a machine no line goes dead. But a program may have ended its stream and left altogether: the kernel answers a
 * question in its place for a minute, then with a reset. */
enum { LOCAL_KEEPALIVE_S = 30 };

enum { LOCAL_WINDOW_BYTES = 1 << 20 }; /* what a turn of a pump moves; the scale (RFC 7323) may double it */

int os_socket(int family)
{
    return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

int os_accept(int listener)
{
    return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

int os_pipe(int fds[2])
{
    return pipe2(fds, O_NONBLOCK | O_CLOEXEC);
}

bool os_has_dual_sockets(void)
{
    return true; /* ipv6(7), IPV6_V6ONLY */
}

uint64_t os_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME,
                  &now); /* CLOCK_MONOTONIC stands still while the machine sleeps: clock_gettime(2) */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int os_random(void *bytes, size_t size)
{
    return getentropy(bytes, size);
}

int os_descriptors_max(void)
{
    return 1 << 20; /* Linux's own usual limit: proc(5), fs.nr_open */
}

static void set_tcp(int fd, int name, int value)
{
    (void)setsockopt(fd, IPPROTO_TCP, name, &value, sizeof value);
}

/* connect(2) looks for a port among the even ones. Once these are in use, or were a minute ago (TIME_WAIT), it goes
 * through all of them each time before it takes an odd one: from 14,000 connections to one address on, 2 to 10 ms each, in
 * which everything stands still. Who has a range of its own (ip(7)), be it one that limits nothing, gets any port: 30 us
 * until all 28,000 are in use. */
void os_use_all_ports(int fd)
{
    uint32_t range = 65535u << 16 | 1;

    (void)setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof range);
}

static void keep_alive(int fd)
{
    int on = 1;

    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

void os_keepalive(int fd)
{
    keep_alive(fd);
    set_tcp(fd, TCP_KEEPCNT, 3);
}

void os_keepalive_period(int fd, int seconds)
{
    set_tcp(fd, TCP_KEEPIDLE, seconds);
    set_tcp(fd, TCP_KEEPINTVL, seconds);
}

/* Bytes are sent again with pauses that grow to two minutes, for a quarter of an hour (tcp(7), tcp_retries2). With pauses
 * of at most 4 s the same 15 tries take 50 s. TCP_USER_TIMEOUT would also end a peer that is there but reads nothing. */
void os_give_up_the_dead(int fd)
{
    set_tcp(fd, TCP_RTO_MAX_MS, 4000);
}

int os_congestion(int fd, const char *name)
{
    return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
}

/* Within a machine there is no line to share. BBR, which many systems have for the real ones, paces what is sent with a
 * timer: half the speed, measured, of the plainest, which any program may choose (tcp(7), TCP_CONGESTION). */
void os_tune_local(int fd)
{
    (void)os_congestion(fd, "reno");
    /* A sender on this machine is as quick as we are. With the window that the kernel would grow for it, tens of megabytes, it
     * wakes us for each piece that it has written. With this one it has to wait now and then, and a turn moves many pieces:
     * a download is up to twice as fast, for half the processor time, measured. */
    set_tcp(fd, TCP_WINDOW_CLAMP, LOCAL_WINDOW_BYTES);
    keep_alive(fd);
    set_tcp(fd, TCP_KEEPIDLE, LOCAL_KEEPALIVE_S);
}

int os_unacknowledged(int fd)
{
    int bytes = 0;

    return ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0; /* tcp(7) */
}

static bool get_info(int fd, struct tcp_info *info)
{
    socklen_t size = sizeof *info;

    *info = (struct tcp_info){0};
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0;
}

/* A sender keeps in its buffer what is under way, since it may have to send it again, and behind it what is still unsent.
 * When the buffer was full, Linux does not tell of room with each byte that has arrived, only once a third of the buffer is
 * free (sk_stream_is_writeable in the kernel's include/net/sock.h). That saves wake-ups. But where the other two thirds are
 * no more than what is under way, nothing unsent is left at that moment, and the line is about to run dry.
 *
 * BBR suffers from it. It finds out what a line carries by sending ever faster until that changes nothing any more, and has
 * 2.9 times as much under way by then as the line holds. A write that finds nothing unsent means to it: the program is slow,
 * not the line; what I measure now says nothing. So it goes on searching for as long as the transfer lasts, and a queue
 * stands before the line in which everybody else's bytes have to wait, too. Over 40 ms each way at 100 Mbit/s a small
 * request beside a download took 160 ms instead of 82, and 8 % of the packets were lost at the full queue instead of 1 %.
 *
 * Who asks every 10 ms doesn't let the buffer get that empty; the search is over after two seconds. It takes 0.3 % of a
 * processor while a download runs. (A program blocked in send(2) never has the trouble: its call goes on in the kernel with
 * any room there is.)
 *
 * Where a line holds so much that three times that does not fit into the buffer at all, asking would only fill the queue
 * before the line: then no. */
bool os_tells_of_room_late(int fd)
{
    struct tcp_info info;
    int buffer = 0;
    socklen_t size = sizeof buffer;

    if (!get_info(fd, &info) || getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, &size) != 0)
        return false;
    return 3 * info.tcpi_delivery_rate * info.tcpi_min_rtt / 1000000 < (uint64_t)buffer; /* bytes/s, us */
}

bool os_heard_within(int fd, unsigned ms)
{
    struct tcp_info info;

    if (!get_info(fd, &info))
        return errno != EBADF && errno != ENOTSOCK; /* a sandbox may lack TCP_INFO: then who can say? */
    return info.tcpi_last_ack_recv <= ms || info.tcpi_last_data_recv <= ms;
}
