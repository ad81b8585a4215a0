/*
 * How it works: all sockets of a test are non-blocking; whoever has to wait does so in await(), with a
 * deadline. They are kept in a table, so that the end of a test closes them all.
 */
#include "inner.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { DESCRIPTORS = 65536 };

static bool is_open[DESCRIPTORS]; /* the test's sockets */

static int keep(int fd)
{
    if (fd >= 0 && fd < DESCRIPTORS) {
        is_open[fd] = true;
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        return fd;
    }
    unmet(NULL, "another socket for the test", "%s", strerror(errno));
}

static char folder[] = "/tmp/ngrok-test-XXXXXX",
            socket_path[64]; /* where the Unix socket is, if there is one */

void close_sockets(void)
{
    if (socket_path[0] != '\0') {
        unlink(socket_path);
        rmdir(folder);
        socket_path[0] = '\0';
    }
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (is_open[fd]) {
            reset_when_closed(fd);
            close(fd);
            is_open[fd] = false;
        }
}

static void close_socket(int *fd)
{
    if (*fd < 0)
        return;
    is_open[*fd] = false;
    close(*fd);
    *fd = -1;
}

/* Returns 0 or the error. room 0: as much as the system thinks fit. */
static int try_dial(const char *address, int port, int room, int *fd)
{
    struct sockaddr_storage storage;
    socklen_t length = make_address(address, port, &storage);
    int error = 0;
    socklen_t size = sizeof error;

    *fd = keep(socket(storage.ss_family, SOCK_STREAM, 0));
    setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (room > 0) { /* small segments keep the other side's room small, too */
        setsockopt(*fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        setsockopt(*fd, IPPROTO_TCP, TCP_MAXSEG, &(int){88}, sizeof(int));
    }
    if (connect(*fd, (struct sockaddr *)&storage, length) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return errno;
    if (!await(*fd, POLLOUT, deadline(patience())))
        return ETIMEDOUT;
    getsockopt(*fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

struct peer dial_address(const char *name, struct program *with, const char *address, int port)
{
    struct peer peer = {.name = name, .with = with};
    int error = try_dial(address, port, 0, &peer.fd);

    if (error != 0 && error != ECONNRESET) { /* which comes after it was reached */
        char expected[200];

        snprintf(expected, sizeof expected, "%s to reach port %d at %s", name, port, address);
        unmet_as(with, expected, strerror(error));
    }
    peer.was_reset = error == ECONNRESET;
    return peer;
}

struct peer dial(const char *name, struct program *with, int port)
{
    return dial_address(name, with, "127.0.0.1", port);
}

struct peer dial_narrowly(const char *name, struct program *with, int port)
{
    struct peer peer = {.name = name, .with = with};

    if (try_dial("127.0.0.1", port, 1, &peer.fd) != 0)
        unmet(with, "the port that was logged to be open", "port %d is not", port);
    return peer;
}

void widen(struct peer *peer)
{
    setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &(int){1 << 20}, sizeof(int));
}

struct peer dial_when_open(const char *name, struct program *with, int port)
{
    struct peer peer = {.name = name, .with = with};

    for (int64_t until = deadline(patience()); try_dial("127.0.0.1", port, 0, &peer.fd) != 0;
         await(-1, 0, now_ms() + 5)) {
        close_socket(&peer.fd);
        if (has_ended(with) || now_ms() > until)
            unmet(with, "the port that was given to be open", "port %d is not", port);
    }
    return peer;
}

void expect_refused(struct program *with, const char *address, int port, const char *what)
{
    int fd, error = try_dial(address, port, 0, &fd);

    close_socket(&fd);
    if (error == 0)
        unmet_as(with, what, "a connection was accepted");
}

void expect_refused_soon(struct program *with, int port, const char *what)
{
    for (int64_t until = deadline(patience());; await(-1, 0, now_ms() + 5)) {
        int fd, error = try_dial("127.0.0.1", port, 0, &fd);

        close_socket(&fd);
        if (error == ECONNREFUSED)
            return;
        if (now_ms() > until)
            unmet(with, what, "port %d is still open", port);
    }
}

int own_port(struct peer *peer)
{
    return port_of(peer->fd);
}

/* Who was waiting for what, for a failure's sentence. */
static _Noreturn void unmet_at(struct peer *peer, const char *expected, const char *came)
{
    char sentence[500];

    snprintf(sentence, sizeof sentence, "%s at %s", expected, peer->name);
    unmet_as(peer->with, sentence, came);
}

void say_bytes(struct peer *peer, const void *bytes, size_t size)
{
    int64_t until = deadline(patience());

    for (size_t sent = 0; sent < size;) {
        ssize_t more = send(peer->fd, (const char *)bytes + sent, size - sent, MSG_NOSIGNAL);

        if (more > 0)
            sent += (size_t)more;
        else if (errno != EAGAIN)
            unmet_at(peer, "to be heard", strerror(errno));
        else if (!await(peer->fd, POLLOUT, until))
            unmet_at(peer, "to be heard", "nobody read what was said");
    }
}

void say(struct peer *peer, const char *format, ...)
{
    char text[1000];
    va_list arguments;

    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    say_bytes(peer, text, (size_t)size);
}

/* Reads at most size bytes, at least one; 0 at the end; -1 after a reset; -2 when nothing comes in time. */
static ssize_t hear(struct peer *peer, void *bytes, size_t size, int64_t until)
{
    for (;;) {
        ssize_t got = recv(peer->fd, bytes, size, 0);

        if (got >= 0 || (errno != EAGAIN && errno != EINTR))
            return got < 0 ? -1 : got;
        if (!await(peer->fd, POLLIN, until))
            return -2;
    }
}

static const char *what_came(ssize_t got)
{
    return got == 0    ? "the connection was closed"
           : got == -1 ? "the connection was reset"
                       : "nothing came in time";
}

/* Bytes as they can be shown in a sentence. */
static const char *shown(const char *bytes, size_t size)
{
    static char text[300];
    size_t length = 0;

    for (size_t i = 0; i < size && length < sizeof text - 8; i++)
        length +=
            (size_t)(isprint((unsigned char)bytes[i]) ? snprintf(text + length, 8, "%c", bytes[i])
                     : bytes[i] == '\n'               ? snprintf(text + length, 8, "\\n")
                                        : snprintf(text + length, 8, "\\x%02x", (unsigned char)bytes[i]));
    text[length] = '\0';
    return text;
}

const char *next_line(struct peer *peer, const char *expected)
{
    static char line[200];
    int64_t until = deadline(patience());
    char came[400];

    for (size_t length = 0; length < sizeof line; length++) {
        ssize_t got = hear(peer, line + length, 1, until);

        if (got == 1 && line[length] == '\n') {
            line[length] = '\0';
            return line;
        }
        if (got != 1) {
            if (length == 0)
                unmet_at(peer, expected, what_came(got));
            snprintf(came, sizeof came, "after `%s` %s", shown(line, length), what_came(got));
            unmet_at(peer, expected, came);
        }
    }
    snprintf(came, sizeof came, "a line came that has no end: `%.100s`", shown(line, sizeof line));
    unmet_at(peer, expected, came);
}

void expect_line(struct peer *peer, const char *line)
{
    char expected[200], came[400];
    snprintf(expected, sizeof expected, "`%s`", line);
    const char *got = next_line(peer, expected);

    snprintf(came, sizeof came, "`%s` came", shown(got, strlen(got)));
    if (strcmp(got, line) != 0)
        unmet_at(peer, expected, came);
}

void expect_bytes(struct peer *peer, const char *bytes)
{
    char got[1000], expected[300], came[400];
    int64_t until = deadline(patience());
    size_t size = strlen(bytes);

    snprintf(expected, sizeof expected, "the bytes `%s`", shown(bytes, size));
    for (size_t length = 0; length < size && length < sizeof got;) {
        ssize_t more = hear(peer, got + length, size - length, until);

        if (more <= 0 && length == 0)
            unmet_at(peer, expected, what_came(more));
        if (more <= 0 || memcmp(got, bytes, length + (size_t)more) != 0) {
            snprintf(came, sizeof came, "`%s` came%s%s", shown(got, length + (size_t)(more > 0 ? more : 0)),
                     more <= 0 ? ", then " : "", more <= 0 ? what_came(more) : "");
            unmet_at(peer, expected, came);
        }
        length += (size_t)more;
    }
}

char next_byte(struct peer *peer)
{
    char byte = '\0';
    ssize_t got = hear(peer, &byte, 1, deadline(patience()));

    if (got != 1)
        unmet_at(peer, "another byte", what_came(got));
    return byte;
}

/* Expects that nothing more comes but `end`: 0 an end, -1 a reset, 1 any of them. */
static void expect_last(struct peer *peer, int end, const char *expected)
{
    char bytes[200], came[400];
    ssize_t got = hear(peer, bytes, sizeof bytes, deadline(patience()));

    if (got == end || (end == 1 && (got == 0 || got == -1)))
        return;
    if (got <= 0)
        unmet_at(peer, expected, what_came(got));
    snprintf(came, sizeof came, "`%s` came", shown(bytes, (size_t)got));
    unmet_at(peer, expected, came);
}

void expect_end(struct peer *peer)
{
    expect_last(peer, 0, "the end of what the other side says");
}

void expect_reset(struct peer *peer)
{
    if (!peer->was_reset)
        expect_last(peer, -1, "a reset");
    close_socket(&peer->fd);
}

void expect_closed(struct peer *peer, const char *why)
{
    expect_last(peer, 1, why);
    close_socket(&peer->fd);
}

void expect_closed_after_anything(struct peer *peer, const char *why)
{
    char bytes[1000];
    int64_t until = deadline(patience());
    ssize_t got;

    while ((got = hear(peer, bytes, sizeof bytes, until)) > 0)
        ;
    if (got == -2)
        unmet_at(peer, why, "it stayed open");
    close_socket(&peer->fd);
}

void expect_nothing_yet(struct peer *peer)
{
    char bytes[200], came[400];
    ssize_t got = hear(peer, bytes, sizeof bytes, now_ms());

    if (got == -2)
        return;
    if (got <= 0)
        unmet_at(peer, "nothing yet", what_came(got));
    snprintf(came, sizeof came, "`%s` came", shown(bytes, (size_t)got));
    unmet_at(peer, "nothing yet", came);
}

bool comes_within(struct peer *peer, double seconds)
{
    return await(peer->fd, POLLIN, deadline(seconds));
}

bool hears(struct peer *peer, const char *text, double seconds)
{
    char heard[1000] = "";
    int64_t until = deadline(seconds);

    for (size_t length = 0; length < sizeof heard - 1;) {
        ssize_t got = hear(peer, heard + length, sizeof heard - 1 - length, until);

        if (got <= 0)
            return false;
        length += (size_t)got;
        if (strstr(heard, text) != NULL)
            return true;
    }
    return false;
}

void finish(struct peer *peer)
{
    shutdown(peer->fd, SHUT_WR);
}

void reset(struct peer *peer)
{
    reset_when_closed(peer->fd);
    close_socket(&peer->fd);
}

void leave(struct peer *peer)
{
    close_socket(&peer->fd);
}

/* ---- many bytes ---- */

/* Bytes from one peer to another: the i-th of them is pattern(seed, i). */
struct flow {
    struct peer *from, *to;
    unsigned seed;
    size_t size, sent, got;
};

static unsigned char pattern(unsigned seed, size_t i)
{
    unsigned mixed = ((unsigned)i + seed * 7919) * 2654435761U;

    return (unsigned char)(mixed >> 24 ^ mixed >> 13);
}

/* Pieces of all sizes up to 64 KiB. */
static size_t piece(size_t position, size_t left)
{
    size_t size = 1 + (position * 7 + 12345) % 65536;

    return size < left ? size : left;
}

static void send_some(struct flow *flow)
{
    static unsigned char bytes[65536];
    size_t size = piece(flow->sent, flow->size - flow->sent);

    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern(flow->seed, flow->sent + i);
    ssize_t sent = send(flow->from->fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        unmet_at(flow->from, "that all bytes are taken", strerror(errno));
    flow->sent += sent > 0 ? (size_t)sent : 0;
}

static void receive_some(struct flow *flow)
{
    static unsigned char bytes[65536];
    ssize_t got = recv(flow->to->fd, bytes, piece(flow->got, flow->size - flow->got), 0);
    char came[100];

    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        snprintf(came, sizeof came, "after %zu of %zu bytes %s", flow->got, flow->size, what_came(got));
        unmet_at(flow->to, "all bytes that were sent", came);
    }
    for (ssize_t i = 0; i < got; i++)
        if (bytes[i] != pattern(flow->seed, flow->got + (size_t)i)) {
            snprintf(came, sizeof came, "byte %zu is another one", flow->got + (size_t)i);
            unmet_at(flow->to, "each byte as it was sent", came);
        }
    flow->got += (size_t)got;
}

static void run_flows(struct flow *flows, int count)
{
    int64_t until = deadline(3 * patience());

    for (;;) {
        struct pollfd polls[4] = {0};
        bool done = true;

        for (int i = 0; i < count; i++) {
            struct flow *flow = &flows[i];

            polls[2 * i] =
                (struct pollfd){.fd = flow->sent < flow->size ? flow->from->fd : -1, .events = POLLOUT};
            polls[2 * i + 1] =
                (struct pollfd){.fd = flow->got < flow->size ? flow->to->fd : -1, .events = POLLIN};
            done &= flow->got == flow->size;
        }
        if (done)
            return;
        if (!await_any(polls, 2 * count, NULL, until) || now_ms() > until) {
            char came[200];
            struct flow *late = flows[0].got < flows[0].size ? &flows[0] : &flows[count - 1];

            snprintf(came, sizeof came, "only %zu of %zu bytes came in time", late->got, late->size);
            unmet_at(late->to, "all bytes that were sent", came);
        }
        for (int i = 0; i < count; i++) {
            if (polls[2 * i].revents != 0)
                send_some(&flows[i]);
            if (polls[2 * i + 1].revents != 0)
                receive_some(&flows[i]);
        }
    }
}

void exchange(struct peer *left, struct peer *right, size_t from_left, size_t from_right)
{
    struct flow flows[2] = {{.from = left, .to = right, .seed = 1, .size = from_left},
                            {.from = right, .to = left, .seed = 2, .size = from_right}};

    run_flows(flows, 2);
}

void expect_echo(struct peer *peer, size_t size)
{
    run_flows(&(struct flow){.from = peer, .to = peer, .seed = 3, .size = size}, 1);
}

size_t stuff(struct peer *peer)
{
    struct flow flow = {.from = peer, .to = peer, .seed = 4, .size = SIZE_MAX};

    while (await(peer->fd, POLLOUT, deadline(0.2)))
        send_some(&flow);
    return flow.sent;
}

void expect_stuffed(struct peer *peer, size_t size)
{
    run_flows(&(struct flow){.from = peer, .to = peer, .seed = 4, .size = size, .sent = size}, 1);
}

/* ---- doors ---- */

/* Binds a socket, or ends the test. Port 0 is any free one. */
static int bind_socket(const char *address, int port)
{
    int fd = bound_to(address, port);

    if (fd < 0)
        unmet(NULL, "a free port for the test", "%s", strerror(errno));
    return keep(fd);
}

struct door hold_port(const char *name)
{
    struct door door = {.fd = bind_socket(has_ipv6() ? "::" : "0.0.0.0", 0), .name = name};

    door.port = port_of(door.fd);
    return door;
}

struct door open_door_ipv6(const char *name)
{
    struct door door = hold_port(name); /* on all addresses, so that this number is nobody else's */

    door.fd = bind_socket("::1", door.port);
    open_it(&door);
    return door;
}

struct door open_door_unix(const char *name)
{
    struct door door = {.fd = keep(socket(AF_UNIX, SOCK_STREAM, 0)), .name = name};
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(folder, sizeof folder, "/tmp/ngrok-test-XXXXXX");
    if (mkdtemp(folder) == NULL)
        unmet(NULL, "a folder for a Unix socket", "%s", strerror(errno));
    snprintf(socket_path, sizeof socket_path, "%s/app.sock", folder);
    snprintf(door.path, sizeof door.path, "%s", socket_path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    if (bind(door.fd, (struct sockaddr *)&address, sizeof address) != 0)
        unmet(NULL, "a Unix socket for the test", "%s", strerror(errno));
    open_it(&door);
    return door;
}

struct door open_door(const char *name)
{
    struct door door = {.fd = bind_socket("127.0.0.1", 0), .name = name};

    door.port = port_of(door.fd);
    open_it(&door);
    return door;
}

void open_it(struct door *door)
{
    if (listen(door->fd, 4096) != 0)
        unmet(NULL, "to listen", "%s", strerror(errno));
}

void fill_queue(struct door *door)
{
    listen(door->fd, 0); /* has room for one */
    dial("the caller that fills the queue", door->with, door->port);
}

struct peer expect_caller(struct door *door, const char *name)
{
    struct peer peer = {.name = name, .with = door->with};
    char expected[200];

    snprintf(expected, sizeof expected, "a connection to %s", door->name);
    struct pollfd wanted = {.fd = door->fd, .events = POLLIN};
    bool came = await_any(&wanted, 1, door->with, deadline(patience_for_sight(door->with)));
    note_sight(door->with, came);
    if (!came)
        unmet_as(door->with, expected, "none came");
    peer.fd = keep(accept(door->fd, NULL, NULL));
    setsockopt(peer.fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return peer;
}

void expect_no_caller_yet(struct door *door)
{
    char expected[200];

    snprintf(expected, sizeof expected, "no connection to %s yet", door->name);
    if (await(door->fd, POLLIN, now_ms()))
        unmet_as(door->with, expected, "one came");
}

bool has_caller_within(struct door *door, double seconds)
{
    return await(door->fd, POLLIN, deadline(seconds));
}
