/*
 * How it works: a queue of waiters, each with a watch of its own, so that one that breaks can leave from
 * the middle. One timer is enough: all have the same patience, so the first in the list is the first to lose it.
 */
#include "waitlist.h"

#include <stdlib.h>
#include <unistd.h>

#include "sock.h"

struct waiter {
    struct link place;
    struct waitlist *list;
    struct watch watch;
    unsigned number;
    uint64_t until_ms;
};

static void on_patience_lost(void *owner);

static struct waiter *first(const struct waitlist *list)
{
    return (struct waiter *)list->waiting.next;
}

/* Has the timer run for the one that is first now. */
static void time_first(struct waitlist *list)
{
    uint64_t now_ms = loop_now_ms(list->loop);

    timer_stop(&list->timer);
    if (list->count == 0 || list->patience_ms == 0)
        return;
    uint64_t until_ms = first(list)->until_ms;
    timer_start(list->loop, &list->timer, until_ms > now_ms ? (int)(until_ms - now_ms) : 0, on_patience_lost,
                list);
}

/* Returns the waiter's descriptor. */
static int take(struct waitlist *list, struct waiter *waiter)
{
    int fd = waiter->watch.fd;
    bool was_first = waiter == first(list);

    list_remove(&waiter->place);
    list->count--;
    watch_stop(list->loop, &waiter->watch);
    free(waiter);
    if (was_first)
        time_first(list);
    return fd;
}

static void leave(struct waiter *waiter, const char *why)
{
    struct waitlist *list = waiter->list;
    unsigned number = waiter->number;

    close(take(list, waiter));
    list->on_left(list->owner, number, why);
}

static void on_patience_lost(void *owner)
{
    struct waitlist *list = owner;

    sock_reset_on_close(first(list)->watch.fd); /* an end would look like an answer */
    leave(first(list), "waited in vain");
}

static void on_ready(void *owner, unsigned ready)
{
    struct waiter *waiter = owner;

    (void)ready; /* on macOS WATCH_GONE tells of an orderly end, too */
    leave(waiter, sock_error(waiter->watch.fd) != 0 ? "reset while it waited" : "closed while it waited");
}

void waitlist_init(struct waitlist *list, struct loop *loop, int patience_ms, bool silent,
                   void (*on_left)(void *owner, unsigned number, const char *why), void *owner)
{
    *list = (struct waitlist){
        .loop = loop, .patience_ms = patience_ms, .silent = silent, .on_left = on_left, .owner = owner};
    list_init(&list->waiting);
}

int waitlist_push(struct waitlist *list, int fd, unsigned number)
{
    struct waiter *waiter = calloc(1, sizeof *waiter);

    if (waiter == NULL)
        return -1;
    if (watch_start(list->loop, &waiter->watch, fd, list->silent ? WATCH_READ : 0, on_ready, waiter) != 0) {
        free(waiter);
        return -1;
    }
    waiter->list = list;
    waiter->number = number;
    waiter->until_ms = loop_now_ms(list->loop) + (uint64_t)list->patience_ms;
    list_append(&list->waiting, &waiter->place);
    if (list->count++ == 0)
        time_first(list);
    return 0;
}

int waitlist_first(const struct waitlist *list)
{
    return first(list)->watch.fd;
}

int waitlist_pop(struct waitlist *list, unsigned *number)
{
    if (number != NULL)
        *number = first(list)->number;
    return take(list, first(list));
}

void waitlist_clear(struct waitlist *list)
{
    while (list->count > 0)
        close(take(list, first(list)));
}
