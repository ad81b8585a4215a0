/*
 * How it works: first peek, then take. recv(2) with MSG_PEEK copies what has arrived but leaves it in the
 * kernel. If there is a '\n' in it, exactly the bytes up to there are taken; if not, all of them are, since they are
 * the beginning of the line. Leaving half a line in the kernel instead would report the socket as
 * readable again and again, and keep a processor busy with waiting.
 */
#include "first_line.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

static void on_patience_lost(void *owner)
{
    struct first_line *first = owner;

    first->on_gone(first->owner, "said nothing for too long");
}

/* The line is there, length bytes without its '\n'. */
static void hand_on(struct first_line *first, size_t length)
{
    first->text[length] = '\0';
    if (strlen(first->text) != length) {
        first->on_gone(first->owner, "said something that is not text");
        return;
    }
    timer_stop(&first->patience);
    watch_stop(first->loop, &first->watch);
    first->on_line(first->owner, first->watch.fd, first->text);
}

/* Takes the bytes up to the end of the line, or what there is of it. Returns what recv(2) does. */
static ssize_t take(struct first_line *first)
{
    char *here = first->text + first->received;
    ssize_t count = recv(first->watch.fd, here, LINE_BYTES - first->received, MSG_PEEK);

    if (count <= 0)
        return count;
    const char *end = memchr(here, '\n', (size_t)count);
    return recv(first->watch.fd, here, end != NULL ? (size_t)(end - here) + 1 : (size_t)count, 0);
}

void first_line_poll(struct first_line *first)
{
    ssize_t count = take(first);

    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        first->on_gone(first->owner, count == 0 ? "closed the connection" : errno_text());
        return;
    }
    first->received += (size_t)count;
    if (first->text[first->received - 1] == '\n')
        hand_on(first, first->received - 1);
    else if (first->received == LINE_BYTES)
        first->on_gone(first->owner, "said too long a line");
}

static void on_ready(void *owner, unsigned ready)
{
    (void)ready;
    first_line_poll(owner);
}

int first_line_await(struct first_line *first, struct loop *loop, int fd, int patience_ms,
                     void (*on_line)(void *owner, int fd, const char *line),
                     void (*on_gone)(void *owner, const char *why), void *owner)
{
    *first = (struct first_line){.loop = loop, .on_line = on_line, .on_gone = on_gone, .owner = owner};
    if (watch_start(loop, &first->watch, fd, WATCH_READ, on_ready, first) != 0)
        return -1;
    if (patience_ms > 0)
        timer_start(loop, &first->patience, patience_ms, on_patience_lost, first);
    return 0;
}

void first_line_close(struct first_line *first)
{
    if (!first->watch.active)
        return;
    timer_stop(&first->patience);
    watch_close(first->loop, &first->watch);
}
