/*
 * The line readers, fed with any bytes cut into any pieces.
 *
 * The input: a byte that says whether only the first line is read, and the descriptor then handed on (low 4 bits; 0: no),
 * and how many bytes the kernel takes at a time (high 4 bits; 0: as many as there is room for). Then steps:
 *    'e'                 the peer closes its side
 *    't'                 a second passes; the reader is patient for ten
 *    's'                 lines are sent the other way, until there is no more room; not while the first one is awaited
 *    'h'                 the peer reads them
 *    any other byte b    a piece of b & 63 bytes: those that follow
 * What the reader must say of these bytes is worked out here a second time, from the whole stream at once.
 */
#include "../../common/first_line.h"
#include "../../common/line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../common/log.h"
#include "world.h"

enum { STREAM_MAX = 1 << 16, PATIENCE_MS = 10000, SEND_BUFFER = 4096 };

struct run {
    struct loop *loop;
    struct line_conn conn;
    struct first_line first;
    bool first_only; /* it is first that reads, not conn */
    int peer_fd;
    const uint8_t *script, *script_end;

    size_t sent;  /* by the peer: bytes of the stream */
    size_t told;  /* bytes of it that came as lines */
    int quiet_ms; /* since the last line */
    bool ended;   /* the peer closed its side */

    unsigned said, heard; /* lines the other way */
    size_t heard_of_line; /* bytes of a line that is not complete yet */

    char stream[STREAM_MAX]; /* the last one, so that it need not be cleared */
};

/* The descriptor is ours again: it must hold what follows the last line, and nothing else. */
static void check_rest(struct run *run, int fd)
{
    char rest[STREAM_MAX];
    ssize_t count = recv(fd, rest, sizeof rest, MSG_DONTWAIT);
    size_t expected = run->sent - run->told;

    if ((count > 0 ? (size_t)count : 0) != expected || memcmp(rest, run->stream + run->told, expected) != 0)
        finding("%zu bytes follow the last line, %zd are there", expected, count);
    close(fd);
}

static void on_line(void *owner, const char *line)
{
    struct run *run = owner;
    size_t length = strlen(line);

    if (run->told + length + 1 > run->sent || memcmp(line, run->stream + run->told, length) != 0 ||
        run->stream[run->told + length] != '\n')
        finding("\"%s\" is not what the peer said", line);
    run->told += length + 1;
    run->quiet_ms = 0;
}

static void on_first_line(void *owner, int fd, const char *line)
{
    struct run *run = owner;

    on_line(run, line);
    check_rest(run, fd);
    loop_stop(run->loop, 0);
}

static void close_readers(struct run *run)
{
    line_close(&run->conn);
    first_line_close(&run->first);
}

/* There must be a reason to end: something after the last line that is not allowed. */
static void on_gone(void *owner, const char *why)
{
    struct run *run = owner;
    const char *next = run->stream + run->told;
    size_t left = run->sent - run->told;
    const char *end = memchr(next, '\n', left);
    size_t length = end != NULL ? (size_t)(end - next) : left;
    bool too_long = length >= LINE_BYTES, no_text = end != NULL && memchr(next, '\0', length) != NULL;
    bool silent = run->quiet_ms >= PATIENCE_MS, closed = run->ended && end == NULL;

    if (strcmp(why, "said too long a line") == 0              ? !too_long
        : strcmp(why, "said something that is not text") == 0 ? !no_text
        : strncmp(why, "said nothing for too long", 25) == 0  ? !silent
        : strcmp(why, "closed the connection") == 0           ? !closed
                                                              : true)
        finding("given up for no reason: %s", why);
    close_readers(run);
    loop_stop(run->loop, 0);
}

/* Everything sent so far was looked at: was all of it told that is a line? */
static void check_told(const struct run *run)
{
    const char *next = run->stream + run->told;
    size_t left = run->sent - run->told;

    if (memchr(next, '\n', left) != NULL || left >= LINE_BYTES)
        finding("%zu bytes were not told of: %.*s", left, (int)left, next);
    if (run->quiet_ms >= PATIENCE_MS)
        finding("silent for %d ms", run->quiet_ms);
    if (run->ended)
        finding("nobody noticed the end");
}

static void say_lines(struct run *run)
{
    while (line_send(&run->conn, "line %u", run->said) == 0)
        run->said++;
}

/* What the peer hears: whole lines, in order, though maybe in pieces. */
static void hear_byte(struct run *run, char byte)
{
    char expected[32];

    snprintf(expected, sizeof expected, "line %u\n", run->heard);
    if (byte != expected[run->heard_of_line])
        finding("not what was said in line %u", run->heard);
    run->heard_of_line++;
    if (byte == '\n') {
        run->heard++;
        run->heard_of_line = 0;
    }
}

static void hear_lines(struct run *run)
{
    char heard[SEND_BUFFER];
    ssize_t count;

    while ((count = recv(run->peer_fd, heard, sizeof heard, MSG_DONTWAIT)) > 0)
        for (ssize_t i = 0; i < count; i++)
            hear_byte(run, heard[i]);
    if (run->conn.unsent == 0 && (run->heard != run->said || run->heard_of_line > 0))
        finding("%u lines were said, %u arrived", run->said, run->heard);
}

static void step(void *owner)
{
    struct run *run = owner;

    check_told(run);
    if (run->script == run->script_end) {
        close_readers(run);
        loop_stop(run->loop, 0);
        return;
    }
    size_t left = (size_t)(run->script_end - run->script) - 1;
    size_t size = *run->script & 63;
    switch (*run->script++) {
    case 'e':
        shutdown(run->peer_fd, SHUT_WR);
        run->ended = true;
        return;
    case 't':
        world_move_clock(1000);
        run->quiet_ms += 1000;
        return;
    case 's':
        if (!run->first_only)
            say_lines(run);
        return;
    case 'h': hear_lines(run); return;
    default: break;
    }
    size = size < left ? size : left;
    if (!run->ended && size > 0 && send(run->peer_fd, run->script, size, MSG_NOSIGNAL) != (ssize_t)size)
        finding("no room for %zu bytes: the reader does not read", size);
    if (!run->ended) {
        memcpy(run->stream + run->sent, run->script, size);
        run->sent += size;
    }
    run->script += size;
}

static void open_reader(struct run *run, int fd)
{
    int result = run->first_only
                     ? first_line_await(&run->first, run->loop, fd, PATIENCE_MS, on_first_line, on_gone, run)
                     : line_open(&run->conn, run->loop, fd, PATIENCE_MS, on_line, on_gone, run);

    if (result != 0)
        finding("no room for a connection");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct run run;
    int fds[2], small = SEND_BUFFER;

    if (size == 0 || size > STREAM_MAX)
        return 0;
    log_open("line", LOG_QUIET);
    descriptors_remember();
    memset(&run, 0, offsetof(struct run, stream));
    run.loop = loop_new();
    if (run.loop == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0 ||
        setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small) != 0)
        finding("no room for a connection");
    run.peer_fd = fds[1];
    run.first_only = (data[0] & 15) != 0;
    open_reader(&run, fds[0]);
    run.script = data + 1;
    run.script_end = data + size;
    world = (struct world){.on_idle = step, .owner = &run, .send_most = data[0] >> 4};
    loop_run(run.loop);
    close(run.peer_fd);
    loop_free(run.loop);
    descriptors_check();
    return 0;
}
