/*
 * How it works: poll(2), which every Unix has, is handed all that is to be watched in each turn: an array, here with one
 * place for each number that a descriptor can have. So a turn costs the more the more descriptors there are, ready or
 * not.
 *
 * Systems differ in what POLLHUP means, so it is passed on as what it always is, a reason to look: WATCH_GONE. On macOS
 * poll(2) is made of kqueue(2)'s filters: where POLLIN is asked for it tells POLLHUP as soon as the peer has ended one
 * direction, and not POLLOUT beside it; where nothing is asked for it tells nothing, not even a reset.
 */
#include "poller.h"

#include <poll.h>
#include <stdlib.h>

struct poller {
    struct pollfd *fds;     /* descriptor 7 stands in fds[7]; one that is not watched is -1 there */
    struct watch **watches; /* and its watch in watches[7] */
    int size;               /* places */
    int used;               /* up to the highest descriptor that was ever watched */
    int next; /* the place to look at first, so that nobody is told of twice before all others are */
};

struct poller *poller_open(void)
{
    return calloc(1, sizeof(struct poller));
}

void poller_close(struct poller *poller)
{
    free(poller->fds);
    free(poller->watches);
    free(poller);
}

static int make_room(struct poller *poller, int size)
{
    struct pollfd *fds = realloc(poller->fds, (size_t)size * sizeof *fds);

    if (fds == NULL)
        return -1;
    poller->fds = fds;
    struct watch **watches = realloc(poller->watches, (size_t)size * sizeof(struct watch *));
    if (watches == NULL)
        return -1;
    poller->watches = watches;
    for (int fd = poller->size; fd < size; fd++)
        fds[fd].fd = -1;
    poller->size = size;
    return 0;
}

int poller_set(struct poller *poller, struct watch *watch, unsigned interest)
{
    int fd = watch->fd;
    int events = ((interest & WATCH_READ) ? POLLIN : 0) | ((interest & WATCH_WRITE) ? POLLOUT : 0);

    if (fd >= poller->size && make_room(poller, 2 * fd + 1) != 0)
        return -1;
    poller->fds[fd] = (struct pollfd){.fd = fd, .events = (short)events};
    poller->watches[fd] = watch;
    if (fd >= poller->used)
        poller->used = fd + 1;
    return 0;
}

void poller_remove(struct poller *poller, struct watch *watch)
{
    poller_closed(poller, watch->fd);
}

void poller_closed(struct poller *poller, int fd)
{
    if (fd < poller->size)
        poller->fds[fd].fd = -1;
}

static unsigned watch_bits(short events)
{
    return ((events & POLLIN) ? WATCH_READ : 0u) | ((events & POLLOUT) ? WATCH_WRITE : 0u) |
           ((events & (POLLERR | POLLHUP | POLLNVAL)) ? WATCH_GONE : 0u);
}

int poller_wait(struct poller *poller, struct event *events, int most, int ms)
{
    int ready = poll(poller->fds, (nfds_t)poller->used, ms), told = 0;

    for (int looked = 0; looked < poller->used && told < ready && told < most; looked++) {
        int fd = poller->next++ % poller->used;
        const struct pollfd *place = &poller->fds[fd];

        poller->next %= poller->used;
        if (place->fd >= 0 && place->revents != 0)
            events[told++] =
                (struct event){.watch = poller->watches[fd], .ready = watch_bits(place->revents)};
    }
    return ready < 0 ? -1 : told;
}
