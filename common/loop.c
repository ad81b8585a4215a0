/*
 * How it works: epoll(7) keeps the set of watched descriptors in the kernel, each with a pointer to its
 * watch, and epoll_wait(2) returns those that are ready. It is used level-triggered: what stays ready is
 * told again in the next turn, so a callback may do a part of the work and nothing gets lost.
 *
 * A watch is often stopped so that another may take over its descriptor at once. So the last one that was
 * stopped leaves the kernel's set only when the loop waits again: if it is watched by then, one call does for two.
 *
 * One call returns a batch of events. A callback can stop a watch that stands later in the same batch,
 * whose memory may be gone by the time its turn comes. So watch_stop also looks through the rest of
 * the batch and crosses that watch out. Where the batch has room, a callback can put its watch at the end, for
 * another go.
 *
 * Timers are a list ordered by time. A new one is put in from the end, where it nearly always belongs:
 * those that there are many of run for the same time, so the newest is also the last to be due.
 *
 * Signals arrive through signalfd(2) as something to read, between callbacks and never amid one.
 */
#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

enum {
    BATCH = 64,
    FAILURES_MAX = 100,   /* epoll_wait in a row, before the loop gives up */
    OWN_DESCRIPTORS = 16, /* standard streams, loop, listeners, and some that come and go */
    RESERVE_MAX = 1024,
    DESCRIPTORS_MAX = 1 << 20, /* more than this are never needed; Linux's own usual limit (fs.nr_open) */
};

struct loop {
    int epoll_fd;
    int left_fd; /* still in the kernel's set although its watch was stopped; or -1 */
    bool running;
    int status;      /* to be returned by loop_run */
    int descriptors; /* the most that may be open */
    uint64_t now_ms;
    struct epoll_event batch[BATCH];
    int batch_size; /* events in the batch; those before batch_at are done */
    int batch_at;
    struct link soon;   /* timers that are due when the batch is done */
    struct link timers; /* all others; the next to be due is the first */
    struct watch signals;
    void (*on_stop)(void *owner);
    void *on_stop_owner;
};

static uint64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint32_t epoll_events(unsigned interest)
{
    return ((interest & WATCH_READ) ? (uint32_t)(EPOLLIN | EPOLLRDHUP) : 0) |
           ((interest & WATCH_WRITE) ? (uint32_t)EPOLLOUT : 0);
}

static unsigned watch_bits(uint32_t events)
{
    return ((events & EPOLLIN) ? WATCH_READ : 0u) | ((events & EPOLLOUT) ? WATCH_WRITE : 0u) |
           ((events & (EPOLLERR | EPOLLHUP)) ? WATCH_GONE : 0u) | ((events & EPOLLRDHUP) ? WATCH_LAST : 0u);
}

int watch_start(struct loop *loop, struct watch *watch, int fd, unsigned interest,
                void (*on_ready)(void *owner, unsigned ready), void *owner)
{
    *watch = (struct watch){.fd = fd, .on_ready = on_ready, .owner = owner};
    return watch_change(loop, watch, interest);
}

int watch_change(struct loop *loop, struct watch *watch, unsigned interest)
{
    struct epoll_event event = {.events = epoll_events(interest), .data.ptr = watch};
    bool in_set = watch->active || watch->fd == loop->left_fd;

    if (watch->active && watch->interest == interest)
        return 0;
    if (watch->fd == loop->left_fd)
        loop->left_fd = -1;
    int result = epoll_ctl(loop->epoll_fd, in_set ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, watch->fd, &event);
    if (result != 0 &&
        errno == ENOENT) /* the one that was left has been closed, and this one got its number */
        result = epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, watch->fd, &event);
    if (result != 0)
        return -1;
    watch->interest = (uint8_t)interest;
    watch->active = true;
    return 0;
}

static void remove_left(struct loop *loop)
{
    if (loop->left_fd >= 0)
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, loop->left_fd, NULL);
    loop->left_fd = -1;
}

static void cross_out(struct loop *loop, struct watch *watch)
{
    watch->active = false;
    for (int i = loop->batch_at; i < loop->batch_size; i++)
        if (loop->batch[i].data.ptr == watch)
            loop->batch[i].data.ptr = NULL;
}

void watch_stop(struct loop *loop, struct watch *watch)
{
    if (!watch->active)
        return;
    remove_left(loop);
    loop->left_fd = watch->fd;
    cross_out(loop, watch);
}

void watch_close(struct loop *loop, struct watch *watch)
{
    close(watch->fd); /* which takes it out of the kernel's set: epoll(7) */
    cross_out(loop, watch);
    watch->fd = -1;
}

void watch_again(struct loop *loop, struct watch *watch)
{
    if (loop->batch_size < BATCH)
        loop->batch[loop->batch_size++] = (struct epoll_event){.events = EPOLLIN, .data.ptr = watch};
}

void timer_start(struct loop *loop, struct timer *timer, int ms, void (*on_due)(void *owner), void *owner)
{
    struct link *before;

    timer_stop(timer);
    *timer = (struct timer){.due_ms = loop->now_ms + (uint64_t)ms, .on_due = on_due, .owner = owner};
    if (ms == 0) {
        list_append(&loop->soon, &timer->place);
        return;
    }
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

static struct timer *next_timer(const struct loop *loop)
{
    if (!list_is_empty(&loop->soon))
        return (struct timer *)loop->soon.next;
    return list_is_empty(&loop->timers) ? NULL : (struct timer *)loop->timers.next;
}

static int until_next_timer_ms(const struct loop *loop)
{
    const struct timer *next = next_timer(loop);

    if (next == NULL)
        return -1; /* wait for as long as it takes */
    return next->due_ms > loop->now_ms ? (int)(next->due_ms - loop->now_ms) : 0;
}

static void run_timers(struct loop *loop)
{
    struct timer *timer;

    while (loop->running && (timer = next_timer(loop)) != NULL && timer->due_ms <= loop->now_ms) {
        timer_stop(timer);
        timer->on_due(timer->owner);
    }
}

static void run_batch(struct loop *loop)
{
    while (loop->running && loop->batch_at < loop->batch_size) {
        struct epoll_event *event = &loop->batch[loop->batch_at++];
        struct watch *watch = event->data.ptr;

        if (watch != NULL)
            watch->on_ready(watch->owner, watch_bits(event->events));
    }
    loop->batch_at = loop->batch_size = 0;
}

int loop_run(struct loop *loop)
{
    int failures = 0;

    loop->running = true;
    while (loop->running && failures < FAILURES_MAX) {
        remove_left(loop);
        int count = epoll_wait(loop->epoll_fd, loop->batch, BATCH, until_next_timer_ms(loop));

        failures = count >= 0 ? 0 : failures + 1;
        if (count < 0 && errno != EINTR)
            complain("cannot wait for events: %s", errno_text());
        loop->batch_size = count >= 0 ? count : 0;
        loop->now_ms = clock_ms();
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

static void on_signal(void *owner, unsigned ready)
{
    struct loop *loop = owner;
    struct signalfd_siginfo info;
    void (*on_stop)(void *) = loop->on_stop;

    (void)ready;
    if (read(loop->signals.fd, &info, sizeof info) != sizeof info)
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
    sigset_t stop;

    sigemptyset(&stop);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGTERM);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    signal(SIGPIPE, SIG_IGN);
    loop->signals.fd = signalfd(-1, &stop, SFD_NONBLOCK | SFD_CLOEXEC);
    return loop->signals.fd < 0
               ? -1
               : watch_start(loop, &loop->signals, loop->signals.fd, WATCH_READ, on_signal, loop);
}

static int raise_descriptor_limit(void)
{
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = 1024};

    getrlimit(RLIMIT_NOFILE, &limit);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        limit.rlim_cur = before;
    return limit.rlim_cur < DESCRIPTORS_MAX ? (int)limit.rlim_cur : DESCRIPTORS_MAX;
}

struct loop *loop_new(void)
{
    struct loop *loop = calloc(1, sizeof *loop);

    if (loop != NULL) {
        loop->descriptors = raise_descriptor_limit();
        loop->now_ms = clock_ms();
        list_init(&loop->soon);
        list_init(&loop->timers);
        loop->left_fd = -1;
        loop->signals.fd = -1;
        loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (loop->epoll_fd >= 0 && watch_signals(loop) == 0)
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
    if (loop->signals.fd >= 0)
        close(loop->signals.fd);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    free(loop);
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return loop->now_ms;
}

void loop_catch_up(struct loop *loop)
{
    loop->now_ms = clock_ms();
}

int loop_reserve(const struct loop *loop)
{
    return loop->descriptors / 4 < RESERVE_MAX ? loop->descriptors / 4 : RESERVE_MAX;
}

int loop_capacity(const struct loop *loop)
{
    return loop->descriptors - loop_reserve(loop) - OWN_DESCRIPTORS;
}
