/*
 * How it works: a list, oldest first, of connections whose first line is awaited. With its line a connection is handed on, and
 * is no newcomer any more; without it, it is closed.
 */
#include "newcomers.h"

#include <stdlib.h>
#include <unistd.h>

#include "first_line.h"
#include "limits.h"
#include "log.h"
#include "sock.h"

struct newcomer {
    struct link place;
    struct newcomers *newcomers;
    struct first_line first;
    const char *port_name;
    void (*on_line)(void *owner, int fd, const char *line);
    void *owner;
};

static void forget(struct newcomer *newcomer)
{
    list_remove(&newcomer->place);
    newcomer->newcomers->count--;
    free(newcomer);
}

static void discard(struct newcomer *newcomer)
{
    first_line_close(&newcomer->first);
    forget(newcomer);
}

static void on_newcomer_gone(void *owner, const char *why)
{
    struct newcomer *newcomer = owner;
    struct peer peer = sock_peer(newcomer->first.watch.fd);

    complain("a stranger on %s, %s: %s", newcomer->port_name, peer.text, why);
    discard(newcomer);
}

static void on_first_line(void *owner, int fd, const char *line)
{
    struct newcomer *newcomer = owner;

    newcomer->on_line(newcomer->owner, fd, line);
    forget(newcomer);
}

void newcomers_init(struct newcomers *newcomers, struct loop *loop)
{
    int share = limits_connections() / 4;

    *newcomers = (struct newcomers){.loop = loop, .most = share < NEWCOMERS_MAX ? share : NEWCOMERS_MAX};
    if (newcomers->most < 1)
        newcomers->most = 1;
    list_init(&newcomers->list);
}

/* The oldest has to go, unless its line has come meanwhile and only waits for its turn in the loop. */
static void make_room(struct newcomers *newcomers)
{
    struct newcomer *oldest = (struct newcomer *)newcomers->list.next;

    first_line_poll(&oldest->first);
    if (newcomers->count >= newcomers->most)
        on_newcomer_gone(oldest, "made room for another");
}

void newcomers_add(struct newcomers *newcomers, int fd, const char *port_name,
                   void (*on_line)(void *owner, int fd, const char *line), void *owner)
{
    struct newcomer *newcomer = calloc(1, sizeof *newcomer);

    if (newcomer == NULL || first_line_await(&newcomer->first, newcomers->loop, fd, FIRST_LINE_MS,
                                             on_first_line, on_newcomer_gone, newcomer) != 0) {
        complain("cannot hold a connection to %s: %s", port_name, errno_text());
        free(newcomer);
        close(fd);
        return;
    }
    newcomer->newcomers = newcomers;
    newcomer->port_name = port_name;
    newcomer->on_line = on_line;
    newcomer->owner = owner;
    if (newcomers->count >= newcomers->most)
        make_room(newcomers);
    list_append(&newcomers->list, &newcomer->place);
    newcomers->count++;
}

void newcomers_clear(struct newcomers *newcomers)
{
    while (!list_is_empty(&newcomers->list))
        discard((struct newcomer *)newcomers->list.next);
}
