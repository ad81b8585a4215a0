/*
 * How it works: what has come is read into a buffer, behind the piece of a line that may be there already. Each '\n' in it
 * ends a line, which is handed on; the last piece moves to the front and waits for the rest.
 *
 * What is to be sent is collected in another buffer until the turn of the loop is over: a hundred users who come at once need
 * a hundred lines, and in packets of their own all but the first ten would wait for a round trip (that many may be under
 * way at first, RFC 6928). What the kernel has no room for stays in the buffer, and goes out later.
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

    conn->on_gone(conn->owner, "said nothing for too long (is --heartbeat the same on both sides?)");
}

static void limit_silence(struct line_conn *conn)
{
    if (conn->silence_ms > 0)
        timer_start(conn->loop, &conn->silence, conn->silence_ms, on_silence, conn);
}

/* A line is complete: it ends where its '\n' was. */
static void deliver(struct line_conn *conn, const char *line, size_t length)
{
    if (length >= LINE_BYTES) {
        conn->on_gone(conn->owner, "said too long a line");
    } else if (strlen(line) != length) {
        conn->on_gone(conn->owner, "said something that is not text");
    } else {
        limit_silence(conn);
        conn->on_line(conn->owner, line);
    }
}

/* Hands on all whole lines. The connection may be closed on the way. */
static void deliver_lines(struct line_conn *conn)
{
    char *line = conn->in, *end;

    while (conn->watch.active && (end = memchr(line, '\n', conn->received)) != NULL) {
        *end = '\0';
        conn->received -= (size_t)(end + 1 - line);
        deliver(conn, line, (size_t)(end - line));
        line = end + 1;
    }
    memmove(conn->in, line, conn->received);
    if (conn->watch.active && conn->received >= LINE_BYTES)
        conn->on_gone(conn->owner, "said too long a line");
}

static void receive(struct line_conn *conn)
{
    ssize_t count = recv(conn->watch.fd, conn->in + conn->received, sizeof conn->in - conn->received, 0);

    if (count > 0) {
        conn->received += (size_t)count;
        deliver_lines(conn);
    } else if (count == 0) {
        conn->on_gone(conn->owner, "closed the connection");
    } else if (errno != EAGAIN && errno != EINTR) {
        conn->on_gone(conn->owner, errno_text());
    }
}

/* Sends what there is to send, as far as there is room. What goes wrong here shows when reading. */
static void send_lines(void *owner)
{
    struct line_conn *conn = owner;
    ssize_t count = send(conn->watch.fd, conn->out, conn->unsent, 0);

    if (count > 0) {
        conn->unsent -= (size_t)count;
        memmove(conn->out, conn->out + count, conn->unsent);
    }
    watch_change(conn->loop, &conn->watch, WATCH_READ | (conn->unsent > 0 ? WATCH_WRITE : 0u));
}

static void on_ready(void *owner, unsigned ready)
{
    struct line_conn *conn = owner;

    if (ready & WATCH_WRITE)
        send_lines(conn);
    if (ready & (WATCH_READ | WATCH_GONE))
        receive(conn);
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

    if (sizeof conn->out - conn->unsent <= LINE_BYTES)
        send_lines(conn);
    char *line = conn->out + conn->unsent;
    size_t room = sizeof conn->out - conn->unsent;
    va_start(arguments, format);
    int length = vsnprintf(line, room, format, arguments);
    va_end(arguments);
    if (length < 0 || length >= LINE_BYTES || (size_t)length >= room)
        return -1;
    line[length] = '\n';
    conn->unsent += (size_t)length + 1;
    if (!timer_is_running(&conn->turn_over))
        timer_start(conn->loop, &conn->turn_over, 0, send_lines, conn);
    return 0;
}

void line_close(struct line_conn *conn)
{
    if (!conn->watch.active)
        return;
    timer_stop(&conn->silence);
    timer_stop(&conn->turn_over);
    watch_close(conn->loop, &conn->watch);
}
