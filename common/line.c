/*
 * How it works: first peek, then take. recv(2) with MSG_PEEK copies what has arrived but leaves it in the
 * kernel. If there is a '\n' in it, exactly the bytes up to there are taken; if not, all of them are, since they are
 * the beginning of a line. Leaving half a line in the kernel instead would report the socket as
 * readable again and again, and keep a processor busy with waiting.
 *
 * A line that the kernel has room for only in part is completed later; until then there is no room for another.
 */
#include "line.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

static void on_silence(void *owner)
{
    struct line_conn *conn = owner;

    conn->on_gone(conn->owner, "said nothing for too long");
}

static void limit_silence(struct line_conn *conn)
{
    if (conn->silence_ms > 0)
        timer_start(conn->loop, &conn->silence, conn->silence_ms, on_silence, conn);
}

/* A line is complete, length bytes without its '\n'. */
static void deliver(struct line_conn *conn, size_t length)
{
    conn->in[length] = '\0';
    conn->received = 0;
    if (strlen(conn->in) != length) {
        conn->on_gone(conn->owner, "said something that is not text");
        return;
    }
    limit_silence(conn);
    conn->on_line(conn->owner, conn->in);
}

/* Reads up to the end of a line, or what there is of it. */
static void receive(struct line_conn *conn)
{
    char *here = conn->in + conn->received;
    ssize_t count = recv(conn->watch.fd, here, LINE_SIZE - conn->received, MSG_PEEK);

    if (count > 0) {
        char *end = memchr(here, '\n', (size_t)count);
        if (end != NULL && end + 1 < here + count)
            watch_again(conn->loop, &conn->watch);
        count = recv(conn->watch.fd, here, end != NULL ? (size_t)(end - here) + 1 : (size_t)count, 0);
    }
    if (count > 0)
        conn->received += (size_t)count;

    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0)
        conn->on_gone(conn->owner, count == 0 ? "closed the connection" : errno_text());
    else if (here[count - 1] == '\n')
        deliver(conn, conn->received - 1);
    else if (conn->received == LINE_SIZE)
        conn->on_gone(conn->owner, "said too long a line");
}

/* Sends what is left of the last line. What goes wrong here shows when reading. */
static void send_rest(struct line_conn *conn)
{
    ssize_t count = send(conn->watch.fd, conn->out, conn->unsent, MSG_NOSIGNAL);

    if (count > 0) {
        conn->unsent -= (size_t)count;
        memmove(conn->out, conn->out + count, conn->unsent);
    }
}

static void on_writable(struct line_conn *conn)
{
    send_rest(conn);
    if (conn->unsent > 0)
        return;
    watch_change(conn->loop, &conn->watch, WATCH_READ);
    if (conn->on_room != NULL)
        conn->on_room(conn->owner);
}

static void on_ready(void *owner, unsigned ready)
{
    /* One thing a turn, for it may be the end of conn; the loop tells of the other again. */
    if ((ready & WATCH_WRITE) && !(ready & WATCH_GONE))
        on_writable(owner);
    else
        receive(owner);
}

int line_open(struct line_conn *conn, struct loop *loop, int fd, int silence_ms,
              void (*on_line)(void *owner, const char *line), void (*on_gone)(void *owner, const char *why),
              void *owner)
{
    *conn = (struct line_conn){
        .loop = loop, .silence_ms = silence_ms, .on_line = on_line, .on_gone = on_gone, .owner = owner};
    if (watch_start(loop, &conn->watch, fd, WATCH_READ, on_ready, conn) != 0)
        return -1;
    limit_silence(conn);
    return 0;
}

int line_send(struct line_conn *conn, const char *format, ...)
{
    va_list arguments;

    if (conn->unsent > 0)
        return -1;
    va_start(arguments, format);
    int length = vsnprintf(conn->out, sizeof conn->out, format, arguments);
    va_end(arguments);
    if (length < 0 || length >= LINE_SIZE)
        return -1;
    conn->out[length] = '\n';
    conn->unsent = (size_t)length + 1;
    send_rest(conn);
    if (conn->unsent > 0)
        watch_change(conn->loop, &conn->watch, WATCH_READ | WATCH_WRITE);
    return 0;
}

void line_poll(struct line_conn *conn)
{
    receive(conn);
}

int line_detach(struct line_conn *conn)
{
    timer_stop(&conn->silence);
    watch_stop(conn->loop, &conn->watch);
    return conn->watch.fd;
}

void line_close(struct line_conn *conn)
{
    if (!conn->watch.active)
        return;
    timer_stop(&conn->silence);
    watch_close(conn->loop, &conn->watch);
}
