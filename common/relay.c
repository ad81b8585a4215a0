/*
 * How it works: a relay is two ends and two pumps. Pump i moves bytes from end i, its source, to the other end, its sink.
 * The state of the pumps alone decides what the loop watches: an end for reading if the pump that it feeds is filling,
 * for writing if the pump that feeds it is draining.
 *
 * The end of one stream ends its pump, and is passed on to the sink: shutdown(2). When both pumps have ended, the relay
 * is over.
 *
 * A sink that was full is also asked for room now and then, as long as it takes something: os_tells_of_room_late says why.
 *
 * An end can also break: a reset, or a peer that vanished. Nothing can be sent there any more, so the pump that feeds it
 * ends. What it sent before may still be read, so the pump that it feeds goes on until that is done. Then the other end is
 * reset as well, but not before its kernel has got all that came ahead: a reset throws away what is still under way. Until
 * then the relay is leaving.
 */
#include "relay.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "limits.h"
#include "log.h"
#include "os.h"
#include "pump.h"
#include "sock.h"

enum {
    LOOK_AFTER_MS = 50, /* between two looks at relays that are leaving */
    STUCK_LOOKS = 1200, /* so many without progress, a minute's, and it is closed */
    ASK_AFTER_MS = 10,  /* a sink that was full is asked for room, where the system would tell late */
    NO_END = -1,        /* in the place of the right one: an echo */
};

struct relay {
    struct link place; /* among the relays that are joined, asked or leaving */
    struct relays *relays;
    struct watch ends[2];
    struct pump pumps[2]; /* pump i's source is end i */
    uint64_t joined_ms;
    unsigned number;
    bool echo;      /* end 0 is also the sink of pump 0; there is no end 1 */
    bool broken[2]; /* ends */
};

/* The pump's sink. Also: the pump that feeds this end. */
static int other(const struct relay *relay, int i)
{
    return relay->echo ? i : 1 - i;
}

static bool is_over(const struct relay *relay)
{
    return relay->pumps[0].state == ENDED && relay->pumps[1].state == ENDED;
}

static bool is_draining(const struct relay *relay)
{
    return relay->pumps[0].state == DRAINING || relay->pumps[1].state == DRAINING;
}

static bool is_broken(const struct relay *relay)
{
    return relay->broken[0] || relay->broken[1];
}

static uint64_t bytes_moved(const struct relay *relay)
{
    return relay->pumps[0].moved + relay->pumps[1].moved;
}

/* Bytes that went out but have not arrived yet, at the ends that can still hear. */
static uint64_t bytes_under_way(const struct relay *relay)
{
    uint64_t bytes = 0;

    for (int i = 0; i < 2; i++)
        if (relay->ends[i].fd >= 0 && !relay->broken[i])
            bytes += (uint64_t)os_unacknowledged(relay->ends[i].fd);
    return bytes;
}

/* Whether it may be closed: an orderly end can be left to the kernel, a reset must wait. */
static bool is_done(const struct relay *relay)
{
    return is_over(relay) && (!is_broken(relay) || bytes_under_way(relay) == 0);
}

/* --- The end of a relay. reset: its ends are to learn that this was no orderly one --- */

static void free_relay(struct relay *relay, bool reset)
{
    for (int i = 0; i < 2; i++) {
        struct watch *end = &relay->ends[i];
        pump_end(&relay->pumps[i], &relay->relays->buckets);
        if (end->fd < 0)
            continue;
        if (reset)
            sock_reset_on_close(end->fd);
        watch_close(relay->relays->loop, end);
    }
    list_remove(&relay->place);
    relay->relays->count--;
    free(relay);
}

static void finish(struct relay *relay)
{
    struct relays *relays = relay->relays;
    struct relay_report report = {.number = relay->number,
                                  .up = relay->pumps[0].moved,
                                  .down = relay->pumps[other(relay, 0)].moved,
                                  .time_ms = loop_now_ms(relays->loop) - relay->joined_ms};

    free_relay(relay, is_broken(relay) || !is_over(relay));
    relays->on_done(relays->owner, &report);
}

/* --- Leaving --- */

static void on_broken(struct relay *relay, int end)
{
    pump_end(&relay->pumps[other(relay, end)], &relay->relays->buckets);
    round_add(&relay->relays->leaving, &relay->place);
    relay->broken[end] = true;
}

/* Where nobody reads or writes, nobody learns that an end is broken; and not every system tells of it then. */
static void look_for_error(struct relay *relay, int end)
{
    if (relay->ends[end].fd >= 0 && !relay->broken[end] && sock_is_broken(relay->ends[end].fd))
        on_broken(relay, end);
}

/* One end is broken. The pump that it feeds may still have something to deliver. */
static void look_after_leaving(struct link *place)
{
    struct relay *relay = (struct relay *)place;
    struct pump *pump = &relay->pumps[relay->broken[0] ? 0 : 1];

    look_for_error(relay, 0);
    look_for_error(relay, 1);
    if (is_done(relay) || pump_is_stuck(pump, bytes_under_way(relay), STUCK_LOOKS))
        finish(relay);
}

/* --- At work --- */

/* The pump has moved all that its source will ever send: the sink is to know. */
static void pass_end_on(struct relay *relay, int source)
{
    int sink = other(relay, source);

    if (is_over(relay) || relay->broken[source])
        return; /* closing both will say the same, or that it was no orderly end */
    if (shutdown(relay->ends[sink].fd, SHUT_WR) != 0)
        on_broken(relay, sink);
}

static void run_pump(struct relay *relay, int i, bool last)
{
    struct pump *pump = &relay->pumps[i];
    struct buckets *buckets = &relay->relays->buckets;
    int sink = other(relay, i);
    enum pumped result = pump_turn(pump, buckets, relay->ends[i].fd, relay->ends[sink].fd, last);

    if (result != GOES_ON)
        pump_end(pump, buckets);
    switch (result) {
    case GOES_ON: break;
    case SOURCE_ENDED: pass_end_on(relay, i); break;
    case SOURCE_BROKEN: on_broken(relay, i); break;
    case SINK_BROKEN: on_broken(relay, sink); break;
    case NO_MEMORY:
        complain("lost the pair of connections %u: out of memory", relay->number);
        on_broken(relay, i);
        break;
    }
}

/* Has the loop watch an end for what its two pumps wait for. Returns 0 or -1. */
static int watch_end(struct relay *relay, int end)
{
    struct watch *watch = &relay->ends[end];
    bool reading = relay->pumps[end].state == FILLING;
    bool writing = relay->pumps[other(relay, end)].state == DRAINING;

    if (watch->fd < 0 || (!reading && !writing && !watch->active))
        return 0;
    return watch_change(relay->relays->loop, watch,
                        (reading ? WATCH_READ : 0u) | (writing ? WATCH_WRITE : 0u));
}

/* After all that happens: the loop is to watch for what the pumps wait for now. */
static void go_on(struct relay *relay)
{
    if (is_done(relay) || watch_end(relay, 0) != 0 || watch_end(relay, 1) != 0)
        finish(relay);
}

/* A sink was full a moment ago. Has it room again? If it takes nothing now, the loop will tell when it does. */
static void ask_for_room(struct link *place)
{
    struct relay *relay = (struct relay *)place;
    uint64_t before = bytes_moved(relay);

    for (int i = 0; i < 2; i++)
        if (relay->pumps[i].state == DRAINING && os_tells_of_room_late(relay->ends[other(relay, i)].fd))
            run_pump(relay, i, false);
    if (bytes_moved(relay) == before && !is_broken(relay)) {
        list_remove(place);
        list_append(&relay->relays->joined, place);
    }
    go_on(relay);
}

/* What the loop tells of an end is only where to look; what is so, reading and writing tell. Writing first: where a reset
 * has cut it short, reading would take that for an orderly end. */
static void on_end(struct relay *relay, int end, unsigned ready)
{
    int feeds_it = other(relay, end); /* a pump; that which it feeds is number end */
    bool last = (ready & WATCH_LAST) && !(ready & WATCH_GONE) && !is_broken(relay);

    if (relay->pumps[feeds_it].state == DRAINING && (ready & (WATCH_WRITE | WATCH_GONE)))
        run_pump(relay, feeds_it, false);
    if (relay->pumps[end].state == FILLING && (ready & (WATCH_READ | WATCH_GONE)))
        run_pump(relay, end, last);
    if (relay->pumps[end].state == FILLING && last)
        run_pump(relay, end, last); /* the end, right away */
    if ((ready & WATCH_GONE) && relay->ends[end].interest == 0) {
        watch_stop(relay->relays->loop, &relay->ends[end]); /* until read again: else it is told for ever */
        look_for_error(relay, end);
    }
    if (is_draining(relay) && !is_broken(relay))
        round_add(&relay->relays->asked, &relay->place);
    go_on(relay);
}

static void on_left_ready(void *owner, unsigned ready)
{
    on_end(owner, 0, ready);
}

static void on_right_ready(void *owner, unsigned ready)
{
    on_end(owner, 1, ready);
}

/* --- Joining --- */

int relay_join(struct relays *relays, int left, int right, unsigned number)
{
    struct relay *relay = calloc(1, sizeof *relay);

    if (relay == NULL ||
        watch_start(relays->loop, &relay->ends[0], left, WATCH_READ, on_left_ready, relay) != 0 ||
        (right != NO_END &&
         watch_start(relays->loop, &relay->ends[1], right, WATCH_READ, on_right_ready, relay) != 0)) {
        complain("cannot join two connections: %s", errno_text());
        if (relay != NULL)
            watch_stop(relays->loop, &relay->ends[0]);
        free(relay);
        close(left);
        if (right != NO_END)
            close(right);
        return -1;
    }
    relay->relays = relays;
    relay->number = number;
    relay->joined_ms = loop_now_ms(relays->loop);
    list_append(&relays->joined, &relay->place);
    relays->count++;
    if (right == NO_END) {
        relay->echo = true;
        relay->ends[1].fd = NO_END;
        relay->pumps[1].state = ENDED;
    }
    return 0;
}

int relay_echo(struct relays *relays, int fd, unsigned number)
{
    return relay_join(relays, fd, NO_END, number);
}

/* --- All of them --- */

void relays_init(struct relays *relays, struct loop *loop,
                 void (*on_done)(void *owner, const struct relay_report *report), void *owner)
{
    *relays = (struct relays){.loop = loop, .on_done = on_done, .owner = owner};
    buckets_init(&relays->buckets, limits_pipes());
    list_init(&relays->joined);
    round_init(&relays->asked, loop, ASK_AFTER_MS, ask_for_room);
    round_init(&relays->leaving, loop, LOOK_AFTER_MS, look_after_leaving);
}

void relay_say_done(const char *name, const struct relay_report *report)
{
    say("%s %u done: %s up, %s down, %.1f s", name, report->number, size_text(report->up).text,
        size_text(report->down).text, (double)report->time_ms / 1000);
}

static void reset_all(struct link *list)
{
    while (!list_is_empty(list))
        free_relay((struct relay *)list->next, true);
}

void relays_close(struct relays *relays)
{
    reset_all(&relays->joined);
    reset_all(&relays->asked.members);
    reset_all(&relays->leaving.members);
    round_stop(&relays->asked);
    round_stop(&relays->leaving);
    buckets_clear(&relays->buckets);
}
