/*
 * How it works: a relay is two ends and two pumps. Pump i moves bytes from end i, its source, to the other
 * end, its sink, and is always in one of three states:
 *
 *                   bytes have come                    end of the stream
 *    FILLING  --------------------------->  DRAINING        or broken
 *   waits for its  <---------------------  waits for its  ------------->  ENDED
 *   source         all have gone out       sink
 *
 * That alone decides what the loop watches: an end for reading if the pump that it feeds is filling, for
 * writing if the pump that feeds it is draining. So a sink that takes nothing stops its source, too.
 *
 * The bytes go through a kernel pipe with splice(2): pages change hands, nothing is copied into this process. A
 * pump borrows a pipe from the pool only while bytes are in flight, so an idle pair has just its two sockets. Three
 * cases are copied after all: a few bytes, which cost less to copy than to pass on (it takes the end of a large
 * transfer, or a small one, to notice that they are few); those at urgent data, where splice(2) stops; and all of
 * them where there is no descriptor for a pipe.
 *
 * A broken end (reset, timed out) ends the pump that feeds it. The pump that it feeds goes on: what it
 * sent before is still there to be read. Then the other end is reset as well, but not before its kernel has
 * acknowledged everything: a reset throws away what is still under way. Until then the relay is "leaving".
 */
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "log.h"
#include "sock.h"

enum {
    PIPE_BYTES = 1 << 20,  /* what a turn moves at most; and the most that an ordinary user gets: pipe(7) */
    POOLED_MAX = 16,       /* empty pipes that are kept */
    COPY_BYTES = 16 << 10, /* what a turn moves without a pipe */
    FEW_BYTES = 4096,      /* are copied: PIPE_BUF, what any empty pipe has room for */
    LOOK_AFTER_MS = 10,    /* between two looks at relays that are leaving; */
    LOOKS_PER_MS = 5,      /* longer, if there are more of them */
    STUCK_MS = 60000,      /* one that is leaving and makes no progress for so long is closed */
    CROWD = 256,           /* pairs at a time that are worth giving memory back for */
};

struct pipe {
    struct pipe *next; /* in the pool */
    int out, in;       /* the ends to read from and to write into */
    size_t bytes;      /* in it */
};

enum state { FILLING, DRAINING, ENDED };

struct pump {
    struct pipe *pipe; /* NULL while nothing is in flight */
    uint64_t moved;    /* bytes so far */
};

struct relay {
    struct link place;
    struct relays *relays;
    struct watch ends[2];
    struct pump pumps[2]; /* pump i's source is end i */
    uint64_t joined_ms;
    unsigned number;
    uint8_t state[2]; /* enum state of each pump */
    bool echo;        /* end 0 is also the sink of pump 0; there is no end 1 */
    bool broken[2];   /* ends */
    bool reset[2];    /* ends that were seen to be reset, though reading may not tell */
    bool last[2];     /* ends whose peer has ended its stream; some of it may still be unread */
    bool leaving;
    bool many[2];         /* whether the last turn of a pump moved FEW_BYTES or more; at first not */
    uint32_t progress;    /* bytes that had arrived at the last look, since it is leaving */
    uint32_t progress_ms; /* when the last of them had */
};

/* The pump's sink. Also: the pump that feeds this end. */
static int other(const struct relay *relay, int i)
{
    return relay->echo ? i : 1 - i;
}

/* --- Pipes --- */

static struct pipe *open_pipe(struct relays *relays)
{
    struct pipe *pipe = relays->open_pipes < relays->most_pipes ? calloc(1, sizeof *pipe) : NULL;
    int fds[2];

    if (pipe == NULL || pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0) {
        free(pipe);
        return NULL;
    }
    (void)fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES); /* if it is refused, turns are smaller */
    pipe->out = fds[0];
    pipe->in = fds[1];
    relays->open_pipes++;
    return pipe;
}

static void close_pipe(struct relays *relays, struct pipe *pipe)
{
    close(pipe->out);
    close(pipe->in);
    free(pipe);
    relays->open_pipes--;
}

static struct pipe *borrow_pipe(struct relays *relays)
{
    struct pipe *pipe = relays->pipes;

    if (pipe == NULL)
        return open_pipe(relays);
    relays->pipes = pipe->next;
    relays->pooled_pipes--;
    return pipe;
}

/* Takes the pump's pipe back. One with bytes left in it is of no use to anybody else. */
static void return_pipe(struct relays *relays, struct pump *pump)
{
    struct pipe *pipe = pump->pipe;

    pump->pipe = NULL;
    if (pipe == NULL)
        return;
    if (pipe->bytes > 0 || relays->pooled_pipes >= POOLED_MAX) {
        close_pipe(relays, pipe);
        return;
    }
    pipe->next = relays->pipes;
    relays->pipes = pipe;
    relays->pooled_pipes++;
}

/* --- Pumps --- */

static void end_pump(struct relay *relay, int i)
{
    return_pipe(relay->relays, &relay->pumps[i]);
    relay->state[i] = ENDED;
}

static bool both_ended(const struct relay *relay)
{
    return relay->state[0] == ENDED && relay->state[1] == ENDED;
}

static void look_after_leaving(void *owner);

/* 32 bits of the time, which do for differences. */
static uint32_t now_ms(const struct relays *relays)
{
    return (uint32_t)loop_now_ms(relays->loop);
}

/* This end is lost: nothing can be sent there any more. What it sent before may still be read. */
static void on_broken(struct relay *relay, int end)
{
    struct relays *relays = relay->relays;

    end_pump(relay, other(relay, end));
    relay->broken[end] = true;
    if (relay->leaving)
        return;
    relay->leaving = true;
    relay->progress_ms = now_ms(relays);
    list_remove(&relay->place);
    list_append(&relays->leaving, &relay->place);
    if (!timer_is_running(&relays->timer))
        timer_start(relays->loop, &relays->timer, LOOK_AFTER_MS, look_after_leaving, relays);
}

static void pass_end_on(struct relay *relay, int sink)
{
    if (shutdown(relay->ends[sink].fd, SHUT_WR) != 0)
        on_broken(relay, sink);
}

/* The source has nothing to read now (count < 0), never more (0), or is broken. */
static void on_nothing_read(struct relay *relay, int i, ssize_t count)
{
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    end_pump(relay, i);
    if (count < 0 || relay->reset[i])
        on_broken(relay, i);
    else if (!relay->leaving && !both_ended(relay)) /* closing both will say the same */
        pass_end_on(relay, other(relay, i));
}

/* Copied bytes that the sink had no room for: they wait in the pipe; or, without one, they are still at the
 * source, where those that were sent are taken now. Returns 0, or -1 if bytes would be lost or sent twice. */
static int keep_rest(struct relay *relay, int i, char *bytes, size_t sent, size_t count)
{
    struct pump *pump = &relay->pumps[i];

    relay->state[i] = sent < count ? DRAINING : FILLING;
    if (pump->pipe == NULL)
        return sent == 0 || recv(relay->ends[i].fd, bytes, sent, 0) == (ssize_t)sent ? 0 : -1;
    pump->pipe->bytes = count - sent;
    if (sent == count)
        return_pipe(relay->relays, pump);
    else if (write(pump->pipe->in, bytes + sent, count - sent) != (ssize_t)(count - sent))
        return -1;
    return 0;
}

/* Whether what the pump's last turn moved were the last bytes of its stream: then only the end follows (or, behind
 * urgent data, a few more). Sent with MSG_MORE, they wait for it, and go out with the FIN in one segment. */
static bool is_at_last_bytes(const struct relay *relay, int i)
{
    return relay->last[i] && !relay->many[i] && !relay->leaving;
}

/* Moves a few bytes, or those that there is no pipe for, by way of this process's memory. */
static void copy(struct relay *relay, int i)
{
    struct pump *pump = &relay->pumps[i];
    bool peek = pump->pipe == NULL;
    char bytes[COPY_BYTES];
    ssize_t count =
        recv(relay->ends[i].fd, bytes, peek ? sizeof bytes : (size_t)FEW_BYTES, peek ? MSG_PEEK : 0);

    if (count <= 0) {
        return_pipe(relay->relays, pump);
        relay->state[i] = FILLING;
        on_nothing_read(relay, i, count);
        return;
    }
    relay->many[i] = count >= FEW_BYTES;
    int flags = MSG_NOSIGNAL | (is_at_last_bytes(relay, i) ? MSG_MORE : 0);
    ssize_t sent = send(relay->ends[other(relay, i)].fd, bytes, (size_t)count, flags);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        on_broken(relay, other(relay, i));
        return;
    }
    pump->moved += sent > 0 ? (uint64_t)sent : 0;
    if (keep_rest(relay, i, bytes, sent > 0 ? (size_t)sent : 0, (size_t)count) != 0) {
        end_pump(relay, i);
        on_broken(relay, i);
    }
}

static void drain(struct relay *relay, int i)
{
    struct pump *pump = &relay->pumps[i];
    ssize_t count = splice(pump->pipe->out, NULL, relay->ends[other(relay, i)].fd, NULL, pump->pipe->bytes,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        on_broken(relay, other(relay, i));
        return;
    }
    pump->moved += (uint64_t)count;
    pump->pipe->bytes -= (size_t)count;
    if (pump->pipe->bytes == 0) {
        return_pipe(relay->relays, pump);
        relay->state[i] = FILLING;
    }
}

static void fill(struct relay *relay, int i)
{
    struct pump *pump = &relay->pumps[i];
    ssize_t count =
        splice(relay->ends[i].fd, NULL, pump->pipe->in, NULL, PIPE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

    if (count == 0 || (count < 0 && errno == EAGAIN)) {
        copy(relay, i); /* recv(2) knows better: splice(2) also stops at urgent data, for good */
        return;
    }
    if (count < 0) {
        return_pipe(relay->relays, pump);
        on_nothing_read(relay, i, count);
        return;
    }
    pump->pipe->bytes = (size_t)count;
    relay->many[i] = count >= FEW_BYTES;
    relay->state[i] = DRAINING;
    drain(relay, i);
}

/* One turn: what has come is filled in, and drained as far as it goes. If there is more, the loop says so
 * again. */
static void run_pump(struct relay *relay, int i)
{
    struct pump *pump = &relay->pumps[i];
    bool filling = relay->state[i] == FILLING;

    if (filling)
        pump->pipe = borrow_pipe(relay->relays);
    if (pump->pipe == NULL || (filling && !relay->many[i]))
        copy(relay, i);
    else if (filling)
        fill(relay, i);
    else
        drain(relay, i);
}

/* --- Relays --- */

static void close_end(struct relay *relay, int end)
{
    struct watch *watch = &relay->ends[end];

    if (watch->fd < 0)
        return;
    if (relay->leaving)
        sock_reset_on_close(watch->fd);
    watch_close(relay->relays->loop, watch);
}

/* After a crowd has left: malloc keeps what was freed for the next one; the system shall have it. */
static void give_memory_back(struct relays *relays)
{
    if (relays->count > 0 || relays->most < CROWD)
        return;
    relays->most = 0;
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

static void free_relay(struct relay *relay)
{
    struct relays *relays = relay->relays;

    list_remove(&relay->place);
    relays->count--;
    for (int i = 0; i < 2; i++) {
        end_pump(relay, i);
        close_end(relay, i);
    }
    free(relay);
    give_memory_back(relays);
}

static void finish(struct relay *relay)
{
    struct relays *relays = relay->relays;
    struct relay_report report = {.number = relay->number,
                                  .up = relay->pumps[0].moved,
                                  .down = relay->pumps[other(relay, 0)].moved,
                                  .time_ms = loop_now_ms(relays->loop) - relay->joined_ms};

    free_relay(relay);
    relays->on_done(relays->owner, &report);
}

/* Whether those ends that can still hear have got everything. */
static bool has_arrived(const struct relay *relay)
{
    for (int i = 0; i < 2; i++)
        if (relay->ends[i].fd >= 0 && !relay->broken[i] && sock_unacknowledged(relay->ends[i].fd) > 0)
            return false;
    return true;
}

static bool is_over(const struct relay *relay)
{
    return both_ended(relay) && (!relay->leaving || has_arrived(relay));
}

/* Bytes that have gone in so far, less those that are still under way. It wraps around, which does no harm. */
static uint32_t bytes_arrived(const struct relay *relay)
{
    uint64_t bytes = relay->pumps[0].moved + relay->pumps[1].moved;

    for (int i = 0; i < 2; i++)
        if (relay->ends[i].fd >= 0)
            bytes -= (uint64_t)sock_unacknowledged(relay->ends[i].fd);
    return (uint32_t)bytes;
}

static void look_at(struct relay *relay)
{
    uint32_t arrived = bytes_arrived(relay);

    if (arrived != relay->progress)
        relay->progress_ms = now_ms(relay->relays);
    relay->progress = arrived;
    if (now_ms(relay->relays) - relay->progress_ms > STUCK_MS || is_over(relay))
        finish(relay);
}

static void look_after_leaving(void *owner)
{
    struct relays *relays = owner;
    struct link *next;
    int looks = 0;

    for (struct link *link = relays->leaving.next; link != &relays->leaving; link = next, looks++) {
        next = link->next;
        look_at((struct relay *)link);
    }
    if (!list_is_empty(&relays->leaving))
        timer_start(relays->loop, &relays->timer, LOOK_AFTER_MS + looks / LOOKS_PER_MS, look_after_leaving,
                    relays);
}

/* Has the loop watch an end for what its two pumps wait for. Returns 0 or -1. */
static int watch_end(struct relay *relay, int end)
{
    struct watch *watch = &relay->ends[end];
    bool reading = relay->state[end] == FILLING;
    bool writing = relay->state[other(relay, end)] == DRAINING;

    if (!reading && !writing && !watch->active)
        return 0;
    return watch_change(relay->relays->loop, watch,
                        (reading ? WATCH_READ : 0u) | (writing ? WATCH_WRITE : 0u));
}

static void on_end(struct relay *relay, int end, unsigned ready)
{
    int feeds_it = other(relay, end); /* a pump; that which it feeds is number end */

    /* Over in both directions, although nobody here has ended the one: a reset. Its error may be gone
     * already: splice(2) takes it from the socket and does not tell if it has written a part before. */
    if ((ready & WATCH_GONE) && relay->state[feeds_it] != ENDED)
        relay->reset[end] = true;
    relay->last[end] = (ready & WATCH_LAST) && !(ready & WATCH_GONE);
    if ((ready & (WATCH_READ | WATCH_GONE)) && relay->state[end] == FILLING)
        run_pump(relay, end);
    if (relay->state[end] == FILLING && is_at_last_bytes(relay, end))
        run_pump(relay, end); /* the end, right away */
    if ((ready & (WATCH_WRITE | WATCH_GONE)) && relay->state[feeds_it] == DRAINING)
        run_pump(relay, feeds_it);
    if ((ready & WATCH_GONE) && relay->state[end] != FILLING && !is_over(relay)) {
        /* Nobody reads there now, and it would be told for ever: filling will start the watch again. */
        watch_stop(relay->relays->loop, &relay->ends[end]);
        if (!relay->broken[end] && (relay->reset[end] || sock_error(relay->ends[end].fd) != 0))
            on_broken(relay, end);
    }
    if (is_over(relay) || watch_end(relay, 0) != 0 || (!relay->echo && watch_end(relay, 1) != 0))
        finish(relay);
}

static void on_left_ready(void *owner, unsigned ready)
{
    on_end(owner, 0, ready);
}

static void on_right_ready(void *owner, unsigned ready)
{
    on_end(owner, 1, ready);
}

/* right is -1 for an echo. */
static int start(struct relays *relays, int left, int right, unsigned number)
{
    struct relay *relay = calloc(1, sizeof *relay);

    if (relay == NULL ||
        watch_start(relays->loop, &relay->ends[0], left, WATCH_READ, on_left_ready, relay) != 0 ||
        (right >= 0 &&
         watch_start(relays->loop, &relay->ends[1], right, WATCH_READ, on_right_ready, relay) != 0)) {
        complain("cannot join two connections: %s", errno_text());
        if (relay != NULL)
            watch_stop(relays->loop, &relay->ends[0]);
        free(relay);
        return -1;
    }
    relay->relays = relays;
    relay->number = number;
    relay->joined_ms = loop_now_ms(relays->loop);
    list_append(&relays->joined, &relay->place);
    if (++relays->count > relays->most)
        relays->most = relays->count;
    if (right < 0) {
        relay->echo = true;
        relay->ends[1].fd = -1;
        relay->state[1] = ENDED;
    }
    return 0;
}

int relay_join(struct relays *relays, int left, int right, unsigned number)
{
    if (start(relays, left, right, number) == 0)
        return 0;
    close(left);
    close(right);
    return -1;
}

int relay_echo(struct relays *relays, int fd, unsigned number)
{
    if (start(relays, fd, -1, number) == 0)
        return 0;
    close(fd);
    return -1;
}

/* --- All of them --- */

void relays_init(struct relays *relays, struct loop *loop,
                 void (*on_done)(void *owner, const struct relay_report *report), void *owner)
{
    *relays = (struct relays){.loop = loop, .on_done = on_done, .owner = owner};
    relays->most_pipes = loop_reserve(loop) / 2; /* two descriptors each */
    list_init(&relays->joined);
    list_init(&relays->leaving);
}

void relay_say_done(const char *name, const struct relay_report *report)
{
    say("%s %u done: %s up, %s down, %.1f s", name, report->number, size_text(report->up).text,
        size_text(report->down).text, (double)report->time_ms / 1000);
}

void relays_close(struct relays *relays)
{
    while (!list_is_empty(&relays->joined)) {
        struct relay *relay = (struct relay *)relays->joined.next;
        relay->leaving = true; /* cut off: no orderly end */
        free_relay(relay);
    }
    while (!list_is_empty(&relays->leaving))
        free_relay((struct relay *)relays->leaving.next);
    timer_stop(&relays->timer);
    while (relays->pipes != NULL) {
        struct pipe *pipe = relays->pipes;
        relays->pipes = pipe->next;
        close_pipe(relays, pipe);
    }
}
