/*
 * How it works: the target picks an address, and an attempt is made to connect to it. Each failure moves on to the next
 * address, in a loop, until there is none; then, if the name is just being looked up, to those of the answer.
 */
#include "dial.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "limits.h"

enum { LACK_MS = 500 }; /* when this side lacks something: until the next dial */

/* ---- one address ---- */

static void hand_over(struct dial *dial, int fd)
{
    addresses_mark(&dial->target->addresses, &dial->address, ADDRESS_TRIED);
    dial->on_dialed(dial->owner, fd);
}

/* EADDRNOTAVAIL may mean that no port is free, or that there is no IPv6 here; if the address has been good before, it is
 * the port. */
static enum blame whose_fault(int error, enum standing standing)
{
    if (limits_are_reached(error) || (error == EADDRNOTAVAIL && standing == ADDRESS_GOOD))
        return BLAME_HERE;
    if (standing == ADDRESS_GOOD)
        return BLAME_GOOD;
    if (error == EAFNOSUPPORT || error == EPROTONOSUPPORT || error == EADDRNOTAVAIL)
        return BLAME_FAMILY;
    return error == ENETUNREACH ? BLAME_WAY : BLAME_ADDRESS;
}

static void note_failure(struct dial *dial, int error)
{
    enum blame blame = whose_fault(error, dial->address.standing);

    if (blame >= dial->blame) {
        dial->blame = blame;
        dial->error = error;
    }
    if (blame == BLAME_HERE) {
        dial->target->lack = error;
        dial->target->lack_until_ms = loop_now_ms(dial->loop) + LACK_MS;
    } else {
        addresses_mark(&dial->target->addresses, &dial->address, ADDRESS_TRIED);
    }
}

/* ---- all addresses ---- */

static void try_addresses(struct dial *dial);

/* The look-up is over, or takes too long. What has been tried in this dial is not tried again. */
static void on_waited(void *owner)
{
    struct dial *dial = owner;

    timer_stop(&dial->timer);
    list_remove(&dial->waiter.place);
    if (dial->blame == BLAME_NOBODY)
        addresses_start_over(&dial->target->addresses);
    dial->tries_left = dial->target->addresses.count;
    try_addresses(dial);
}

static bool wait_for_addresses(struct dial *dial)
{
    if (dial->has_waited || !target_wait(dial->target, &dial->waiter, on_waited, dial))
        return false;
    dial->has_waited = true;
    if (dial->target->addresses.count > 0)
        timer_start(dial->loop, &dial->timer, dial->ms, on_waited, dial);
    return true;
}

/* Takes the next address, if there is one that may be tried. */
static bool pick(struct dial *dial)
{
    const struct address *next = addresses_pick(&dial->target->addresses);

    if (dial->blame == BLAME_HERE || dial->tries_left == 0 || next == NULL)
        return false;
    dial->address = *next;
    dial->tries_left--;
    return true;
}

static void on_attempted(void *owner, int fd)
{
    struct dial *dial = owner;

    if (fd >= 0) {
        hand_over(dial, fd);
        return;
    }
    note_failure(dial, errno);
    try_addresses(dial);
}

static void try_addresses(struct dial *dial)
{
    struct target *target = dial->target;

    while (pick(dial)) {
        int fd = attempt_start(&dial->attempt, dial->loop, &dial->address, target->congestion, dial->ms,
                               on_attempted, dial);
        if (fd >= 0) {
            hand_over(dial, fd);
            return;
        }
        if (errno == EINPROGRESS)
            return; /* on_attempted will be told */
        note_failure(dial, errno);
    }
    if (dial->blame != BLAME_HERE && wait_for_addresses(dial))
        return;
    errno = dial->error;
    dial->on_dialed(dial->owner, -1);
}

/* Where this side lacks something, nobody tries for a moment: to look for a port where none is free takes the kernel ten
 * milliseconds, in which everything stands still. */
static void begin(void *owner)
{
    struct dial *dial = owner;
    struct target *target = dial->target;
    uint64_t now_ms = loop_now_ms(dial->loop);

    if (now_ms < target->lack_until_ms && now_ms < dial->patience_ends_ms) {
        timer_start(dial->loop, &dial->timer, (int)(target->lack_until_ms - now_ms), begin, dial);
        return;
    }
    if (now_ms < target->lack_until_ms) {
        dial->blame = BLAME_HERE;
        dial->error = target->lack;
    } else {
        target_refresh(target, dial->loop);
    }
    dial->tries_left = target->addresses.count;
    try_addresses(dial);
}

void dial_start(struct dial *dial, struct loop *loop, struct target *target, int ms,
                void (*on_dialed)(void *owner, int fd), void *owner)
{
    *dial = (struct dial){.loop = loop,
                          .target = target,
                          .patience_ends_ms = loop_now_ms(loop) + (uint64_t)ms,
                          .ms = ms,
                          .error = EHOSTUNREACH,
                          .on_dialed = on_dialed,
                          .owner = owner};
    timer_start(loop, &dial->timer, 0, begin, dial);
}

void dial_stop(struct dial *dial)
{
    list_remove(&dial->waiter.place);
    timer_stop(&dial->timer);
    attempt_stop(&dial->attempt);
}

/* ---- what came of it ---- */

void dial_good(struct dial *dial)
{
    addresses_mark(&dial->target->addresses, &dial->address, ADDRESS_GOOD);
}

struct dial_text dial_error(const struct dial *dial)
{
    const struct target *target = dial->target;
    struct dial_text why;

    if (dial->blame == BLAME_NOBODY)
        snprintf(why.text, sizeof why.text, "cannot find the host %s: %s", target->host, target->trouble);
    else if (dial->blame == BLAME_HERE && dial->error == EADDRNOTAVAIL)
        snprintf(why.text, sizeof why.text, "all ports of this machine are in use, or were a minute ago; %s",
                 "on Linux, `sysctl net.ipv4.tcp_tw_reuse=1` helps");
    else
        snprintf(why.text, sizeof why.text, "%s", strerror(dial->error));
    return why;
}
