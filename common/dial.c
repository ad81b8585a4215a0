/*
 * How it works: connect(2) on a non-blocking socket returns at once with EINPROGRESS; the socket becomes
 * writable when the handshake is over, and its SO_ERROR then says how it went. A timer guards against hosts
 * that never answer. Each failure moves on to the next address, in a loop, until there is none; then, if the name
 * is just being looked up, to those of the answer.
 */
#include "dial.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "congestion.h"
#include "limits.h"
#include "os.h"
#include "sock.h"

enum {
    KNOCK_AGAIN_MS = 100, /* at a Unix socket whose queue is full */
    LACK_MS = 500,        /* when this side lacks something: until the next dial */
};

static void try_addresses(struct dial *dial);

static void close_attempt(struct dial *dial)
{
    timer_stop(&dial->timer);
    if (dial->watch.fd >= 0)
        watch_close(dial->loop, &dial->watch);
}

/* ---- one address ---- */

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
static int knock(struct dial *dial)
{
    const struct sockaddr *address = (const struct sockaddr *)&dial->address.storage;
    int fd = dial->watch.fd = os_socket(address->sa_family);

    if (fd < 0)
        return errno;
    tune(fd, address, dial->target->congestion);
    int result = connect(fd, address, dial->address.size);
    /* Between programs on one machine it is over by now: to ask once more saves a turn of the loop. */
    if (result != 0 && errno == EINPROGRESS)
        result = connect(fd, address, dial->address.size);
    if (result != 0 && errno != EISCONN)
        return errno == EALREADY ? EINPROGRESS : errno;
    return is_connected_to_itself(fd) ? ECONNREFUSED : 0;
}

static void hand_over(struct dial *dial)
{
    int fd = dial->watch.fd;

    watch_stop(dial->loop, &dial->watch);
    timer_stop(&dial->timer);
    dial->watch.fd = -1;
    target_mark(dial->target, &dial->address, ADDRESS_TRIED);
    dial->on_dialed(dial->owner, fd);
}

/* What this side lacks is no fault of the address. EADDRNOTAVAIL may mean that no port is free, or that there is no
 * IPv6 here; if the address has been good before, it is the port. */
static bool is_lacking_here(int error, enum standing standing)
{
    return limits_are_reached(error) || (error == EADDRNOTAVAIL && standing == ADDRESS_GOOD);
}

static bool is_no_way_there(int error)
{
    return error == ENETUNREACH || error == EAFNOSUPPORT || error == EADDRNOTAVAIL;
}

static void note_failure(struct dial *dial, int error)
{
    close_attempt(dial);
    if (is_lacking_here(error, dial->address.standing)) {
        dial->failed_here = true;
        dial->error = dial->target->lack = error;
        dial->target->lack_until_ms = loop_now_ms(dial->loop) + LACK_MS;
        return;
    }
    if (dial->error == 0 || (!dial->good_failed && !is_no_way_there(error)))
        dial->error = error;
    dial->good_failed |= dial->address.standing == ADDRESS_GOOD;
    target_mark(dial->target, &dial->address, ADDRESS_TRIED);
}

static void on_connected(void *owner, unsigned ready)
{
    struct dial *dial = owner;
    int error = sock_error(dial->watch.fd);

    (void)ready;
    if (error == 0 && !is_connected_to_itself(dial->watch.fd)) {
        hand_over(dial);
        return;
    }
    note_failure(dial, error != 0 ? error : ECONNREFUSED);
    try_addresses(dial);
}

static void on_timeout(void *owner)
{
    note_failure(owner, ETIMEDOUT);
    try_addresses(owner);
}

static void on_knock_again(void *owner);

/* Returns false if it has failed already. */
static bool try_address(struct dial *dial)
{
    int error = knock(dial);

    switch (error) {
    case 0: hand_over(dial); return true;
    case EINPROGRESS:
        timer_start(dial->loop, &dial->timer, dial->ms, on_timeout, dial);
        if (watch_start(dial->loop, &dial->watch, dial->watch.fd, WATCH_WRITE, on_connected, dial) == 0)
            return true;
        error = errno;
        break;
    case EAGAIN:
        if (loop_now_ms(dial->loop) < dial->end_ms) {
            close_attempt(dial);
            timer_start(dial->loop, &dial->timer, KNOCK_AGAIN_MS, on_knock_again, dial);
            return true;
        }
        error = ETIMEDOUT;
    }
    note_failure(dial, error);
    return false;
}

/* TCP sends its SYN again by itself. Here nobody tells when there is room in the queue. */
static void on_knock_again(void *owner)
{
    if (!try_address(owner))
        try_addresses(owner);
}

/* ---- all addresses ---- */

/* The look-up is over, or takes too long. What has been tried in this dial is not tried again. */
static void on_waited(void *owner)
{
    struct dial *dial = owner;

    timer_stop(&dial->timer);
    list_remove(&dial->waiter.place);
    if (dial->error == 0)
        target_start_over(dial->target);
    dial->tries_left = dial->target->count;
    try_addresses(dial);
}

static bool wait_for_addresses(struct dial *dial)
{
    if (dial->has_waited || !target_wait(dial->target, &dial->waiter, on_waited, dial))
        return false;
    dial->has_waited = true;
    if (dial->target->count > 0)
        timer_start(dial->loop, &dial->timer, dial->ms, on_waited, dial);
    return true;
}

static void try_addresses(struct dial *dial)
{
    while (!dial->failed_here && dial->tries_left > 0 && target_pick(dial->target, &dial->address)) {
        dial->tries_left--;
        dial->end_ms = loop_now_ms(dial->loop) + (uint64_t)dial->ms;
        if (try_address(dial))
            return;
    }
    if (!dial->failed_here && wait_for_addresses(dial))
        return;
    errno = dial->error != 0 ? dial->error : EHOSTUNREACH;
    dial->on_dialed(dial->owner, -1);
}

/* Where this side lacks something, nobody tries for a moment: to look for a port where none is free takes the kernel ten
 * milliseconds, in which everything stands still. */
static void begin(void *owner)
{
    struct dial *dial = owner;
    struct target *target = dial->target;
    uint64_t now_ms = loop_now_ms(dial->loop);

    if (now_ms < target->lack_until_ms && now_ms < dial->end_ms) {
        timer_start(dial->loop, &dial->timer, (int)(target->lack_until_ms - now_ms), begin, dial);
        return;
    }
    dial->failed_here = now_ms < target->lack_until_ms;
    if (dial->failed_here)
        dial->error = target->lack;
    else
        target_refresh(target, dial->loop);
    dial->tries_left = target->count;
    try_addresses(dial);
}

void dial_start(struct dial *dial, struct loop *loop, struct target *target, int ms,
                void (*on_dialed)(void *owner, int fd), void *owner)
{
    *dial = (struct dial){
        .loop = loop, .target = target, .ms = ms, .on_dialed = on_dialed, .owner = owner, .watch.fd = -1};
    dial->end_ms = loop_now_ms(loop) + (uint64_t)ms;
    timer_start(loop, &dial->timer, 0, begin, dial);
}

void dial_stop(struct dial *dial)
{
    if (dial->loop == NULL)
        return;
    list_remove(&dial->waiter.place);
    close_attempt(dial);
}

/* ---- what came of it ---- */

void dial_good(struct dial *dial)
{
    target_mark(dial->target, &dial->address, ADDRESS_GOOD);
}

struct dial_text dial_error(const struct dial *dial)
{
    const struct target *target = dial->target;
    struct dial_text why;

    if (dial->error == 0)
        snprintf(why.text, sizeof why.text, "cannot find the host %s: %s", target->host, target->trouble);
    else if (dial->failed_here && dial->error == EADDRNOTAVAIL)
        snprintf(why.text, sizeof why.text, "all ports of this machine are in use, or were a minute ago; %s",
                 "on Linux, `sysctl net.ipv4.tcp_tw_reuse=1` helps");
    else
        snprintf(why.text, sizeof why.text, "%s", strerror(dial->error));
    return why;
}
