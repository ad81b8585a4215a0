/*
 * How it works: connect(2) on a non-blocking socket returns at once with EINPROGRESS; the socket becomes writable when the
 * handshake is over, and its SO_ERROR then says how it went. A timer guards against hosts that never answer.
 *
 * With a Unix socket there is no handshake: connect(2) succeeds at once, or fails with EAGAIN while the queue of the program
 * that listens there is full. TCP sends its SYN again by itself; here nobody tells when there is room. So it is tried again
 * until the time is over.
 */
#include "attempt.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "congestion.h"
#include "os.h"
#include "sock.h"

enum { TRY_AGAIN_MS = 100 }; /* a Unix socket whose queue is full */

/* Where nobody listens on a port of this machine, the kernel may pick that very port for the dialing end,
 * and the two SYNs meet (RFC 9293, 3.5: simultaneous open). It would be a connection with oneself. */
static bool is_connected_to_itself(int fd)
{
    struct sockaddr_storage here = {0}, there = {0};
    socklen_t here_size = sizeof here, there_size = sizeof there;

    return getsockname(fd, (struct sockaddr *)&here, &here_size) == 0 &&
           getpeername(fd, (struct sockaddr *)&there, &there_size) == 0 && here_size == there_size &&
           memcmp(&here, &there, here_size) == 0;
}

static void tune(int fd, const struct sockaddr *address, const char *congestion)
{
    if (address->sa_family == AF_UNIX)
        return;
    os_use_all_ports(fd);
    if (sock_is_loopback(address)) {
        sock_tune_local(fd);
        return;
    }
    sock_tune(fd);
    congestion_choose(fd, congestion);
}

/* 0: connected; EINPROGRESS: under way; else why not. */
static int open_socket(struct attempt *attempt)
{
    const struct sockaddr *address = (const struct sockaddr *)&attempt->address->storage;
    int fd = attempt->watch.fd = os_socket(address->sa_family);

    if (fd < 0)
        return errno;
    tune(fd, address, attempt->congestion);
    int result = connect(fd, address, attempt->address->size);
    /* Between programs on one machine it is over by now: to ask once more saves a turn of the loop. */
    if (result != 0 && errno == EINPROGRESS)
        result = connect(fd, address, attempt->address->size);
    if (result != 0 && errno != EISCONN)
        return errno == EALREADY ? EINPROGRESS : errno;
    return is_connected_to_itself(fd) ? ECONNREFUSED : 0;
}

static void close_socket(struct attempt *attempt)
{
    timer_stop(&attempt->timer);
    if (attempt->watch.fd >= 0)
        watch_close(attempt->loop, &attempt->watch);
}

/* It is over. Returns the descriptor, or -1 with this errno. */
static int conclude(struct attempt *attempt, int error)
{
    int fd = attempt->watch.fd;

    if (error != 0) {
        close_socket(attempt);
        errno = error;
        return -1;
    }
    timer_stop(&attempt->timer);
    watch_stop(attempt->loop, &attempt->watch);
    attempt->watch.fd = -1;
    return fd;
}

static void on_connected(void *owner, unsigned ready)
{
    struct attempt *attempt = owner;
    int error = sock_error(attempt->watch.fd);

    (void)ready;
    if (error == 0 && is_connected_to_itself(attempt->watch.fd))
        error = ECONNREFUSED;
    attempt->on_attempted(attempt->owner, conclude(attempt, error));
}

static void on_timeout(void *owner)
{
    struct attempt *attempt = owner;

    attempt->on_attempted(attempt->owner, conclude(attempt, ETIMEDOUT));
}

static void on_try_again(void *owner);

/* Returns what attempt_start does. */
static int try(struct attempt *attempt)
{
    struct loop *loop = attempt->loop;
    uint64_t now_ms = loop_now_ms(loop);
    int error = open_socket(attempt);

    if (error == EAGAIN && now_ms < attempt->end_ms) {
        close_socket(attempt);
        timer_start(loop, &attempt->timer, TRY_AGAIN_MS, on_try_again, attempt);
        error = EINPROGRESS;
    } else if (error == EINPROGRESS) {
        timer_start(loop, &attempt->timer, (int)(attempt->end_ms - now_ms), on_timeout, attempt);
        if (watch_start(loop, &attempt->watch, attempt->watch.fd, WATCH_WRITE, on_connected, attempt) != 0)
            error = errno;
    }
    if (error != EINPROGRESS)
        return conclude(attempt, error == EAGAIN ? ETIMEDOUT : error);
    errno = EINPROGRESS;
    return -1;
}

static void on_try_again(void *owner)
{
    struct attempt *attempt = owner;
    int fd = try(attempt);

    if (fd >= 0 || errno != EINPROGRESS)
        attempt->on_attempted(attempt->owner, fd);
}

int attempt_start(struct attempt *attempt, struct loop *loop, const struct address *address,
                  const char *congestion, int ms, void (*on_attempted)(void *owner, int fd), void *owner)
{
    *attempt = (struct attempt){.loop = loop,
                                .address = address,
                                .congestion = congestion,
                                .end_ms = loop_now_ms(loop) + (uint64_t)ms,
                                .on_attempted = on_attempted,
                                .owner = owner};
    return try(attempt);
}

void attempt_stop(struct attempt *attempt)
{
    if (attempt->loop != NULL)
        close_socket(attempt);
}
