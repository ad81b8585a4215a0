/*
 * How it works: the poller, of which every system has its own kind, tells which descriptors are ready. What stays ready is
 * told again in the next turn, so a callback may do a part of the work and nothing gets lost.
 *
 * It tells of several at a time, a batch. A callback can stop a watch that stands later in the same batch, whose memory
 * may be gone by the time its turn comes. So watch_stop also looks through the rest of the batch and crosses that watch
 * out.
 *
 * Timers are a list ordered by time. A new one is put in from the end, where it nearly always belongs:
 * those that there are many of run for the same time, so the newest is also the last to be due.
 *
 * A signal may come at any moment, amid a callback too. All that its handler does is to write a byte into a pipe of our own:
 * that is something to read, then, like everything else, when its turn comes.
 */
#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "limits.h"
#include "log.h"
#include "os.h"
#include "poller.h"

enum {
    BATCH_EVENTS = 64,
    FAILURES_MAX = 100, /* of waiting, in a row, before the loop gives up */
};

struct loop {
    struct poller *poller;
    bool running;
    int status; /* to be returned by loop_run */
    uint64_t now_ms;
    struct event batch[BATCH_EVENTS];
    int batch_size; /* events in the batch; those before batch_at are done */
    int batch_at;
    struct link timers; /* the next to be due is the first */
    struct watch signals;
    void (*on_stop)(void *owner);
    void *on_stop_owner;
};

/* --- Watches --- */

int watch_start(struct loop *loop, struct watch *watch, int fd, unsigned interest,
                void (*on_ready)(void *owner, unsigned ready), void *owner)
{
    *watch = (struct watch){.fd = fd, .on_ready = on_ready, .owner = owner};
    return watch_change(loop, watch, interest);
}

int watch_change(struct loop *loop, struct watch *watch, unsigned interest)
{
    if (watch->active && watch->interest == interest)
        return 0;
    if (poller_set(loop->poller, watch, interest) != 0)
        return -1;
    watch->interest = (uint8_t)interest;
    watch->active = true;
    return 0;
}

static void cross_out(struct loop *loop, struct watch *watch)
{
    watch->active = false;
    for (int i = loop->batch_at; i < loop->batch_size; i++)
        if (loop->batch[i].watch == watch)
            loop->batch[i].watch = NULL;
}

void watch_stop(struct loop *loop, struct watch *watch)
{
    if (!watch->active)
        return;
    poller_remove(loop->poller, watch);
    cross_out(loop, watch);
}

void watch_close(struct loop *loop, struct watch *watch)
{
    close(watch->fd);
    poller_closed(loop->poller, watch->fd);
    cross_out(loop, watch);
    watch->fd = -1;
}

/* --- Timers --- */

void timer_start(struct loop *loop, struct timer *timer, int ms, void (*on_due)(void *owner), void *owner)
{
    struct link *before;

    timer_stop(timer);
    *timer = (struct timer){.due_ms = loop->now_ms + (uint64_t)ms, .on_due = on_due, .owner = owner};
    for (before = loop->timers.previous; before != &loop->timers; before = before->previous)
        if (((struct timer *)before)->due_ms <= timer->due_ms)
            break;
    list_insert(before, &timer->place);
}

void timer_stop(struct timer *timer)
{
    list_remove(&timer->place);
}

bool timer_is_running(const struct timer *timer)
{
    return timer->place.next != NULL;
}

static int until_next_timer_ms(const struct loop *loop)
{
    const struct timer *next = (const struct timer *)loop->timers.next;

    if (list_is_empty(&loop->timers))
        return -1; /* wait for as long as it takes */
    return next->due_ms > loop->now_ms ? (int)(next->due_ms - loop->now_ms) : 0;
}

static void run_timers(struct loop *loop)
{
    while (loop->running && until_next_timer_ms(loop) == 0) {
        struct timer *timer = (struct timer *)loop->timers.next;

        timer_stop(timer);
        timer->on_due(timer->owner);
    }
    /* The turn took some time. Not sooner: one that starts itself again would be due again, and again. */
    loop->now_ms = os_now_ms();
}

/* --- Turns --- */

static void run_batch(struct loop *loop)
{
    while (loop->running && loop->batch_at < loop->batch_size) {
        struct event *event = &loop->batch[loop->batch_at++];

        if (event->watch != NULL)
            event->watch->on_ready(event->watch->owner, event->ready);
    }
    loop->batch_at = loop->batch_size = 0;
}

int loop_run(struct loop *loop)
{
    int failures = 0;

    loop->running = true;
    while (loop->running && failures < FAILURES_MAX) {
        int count = poller_wait(loop->poller, loop->batch, BATCH_EVENTS, until_next_timer_ms(loop));

        bool failed = count < 0 && errno != EINTR; /* who is stopped and goes on is told EINTR: signal(7) */
        failures = failed ? failures + 1 : 0;
        if (failed)
            complain("cannot wait for events: %s", errno_text());
        loop->batch_size = count >= 0 ? count : 0;
        loop->now_ms = os_now_ms();
        run_batch(loop);
        run_timers(loop);
    }
    return failures < FAILURES_MAX ? loop->status : 1;
}

void loop_stop(struct loop *loop, int status)
{
    loop->running = false;
    loop->status = status;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return loop->now_ms;
}

/* --- Signals --- */

/* Global, since a handler gets nothing but the signal's number. It is the newest loop's. */
static int signal_pipe[2];

static void tell_loop(int number)
{
    int error = errno;

    (void)number;
    if (write(signal_pipe[1], "", 1) < 0)
        errno = error; /* the pipe is full: the loop will know */
}

static void on_signal(void *owner, unsigned ready)
{
    struct loop *loop = owner;
    void (*on_stop)(void *) = loop->on_stop;
    char byte;

    (void)ready;
    if (read(loop->signals.fd, &byte, 1) != 1)
        return;
    loop->on_stop = NULL;
    if (on_stop != NULL)
        on_stop(loop->on_stop_owner);
    else
        loop_stop(loop, 0);
}

void loop_on_stop(struct loop *loop, void (*on_stop)(void *owner), void *owner)
{
    loop->on_stop = on_stop;
    loop->on_stop_owner = owner;
}

static int watch_signals(struct loop *loop)
{
    struct sigaction tell = {.sa_handler = tell_loop, .sa_flags = SA_RESTART};

    if (os_pipe(signal_pipe) != 0)
        return -1;
    loop->signals.fd = signal_pipe[0];
    sigaction(SIGINT, &tell, NULL);
    sigaction(SIGTERM, &tell, NULL);
    signal(SIGPIPE, SIG_IGN);
    return watch_start(loop, &loop->signals, signal_pipe[0], WATCH_READ, on_signal, loop);
}

/* --- A loop's life --- */

struct loop *loop_new(void)
{
    limits_raise();
    struct loop *loop = calloc(1, sizeof *loop);

    if (loop != NULL) {
        loop->now_ms = os_now_ms();
        list_init(&loop->timers);
        loop->signals.fd = -1;
        loop->poller = poller_open();
        if (loop->poller != NULL && watch_signals(loop) == 0)
            return loop;
    }
    complain("cannot start: %s", errno_text());
    loop_free(loop);
    return NULL;
}

void loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    if (loop->signals.fd >= 0) {
        close(signal_pipe[0]);
        close(signal_pipe[1]);
    }
    if (loop->poller != NULL)
        poller_close(loop->poller);
    free(loop);
}
