/*
 * The whole server of stage 3, and up to 16 peers that do as the input says.
 *
 * The input: a byte of settings (see open_run), then steps. Each is a letter, mostly with a peer's number (one
 * character; its low 4 bits count) and maybe a size (one character; its low 5 bits count). All else is skipped, blanks too.
 *    c1  u1  p1   connects: to the control port, as a user, to the proxy port. Once in a run for each number
 *    l1           says the rest of the line that is right: `hello SECRET`, `proxy TOKEN`; later a `ping`, or a few bytes
 *    s1n          says the next n bytes of what is right
 *    w1n......    says these n bytes instead, as a stranger would
 *    b1           says a lot of what is right
 *    g1           reads all that has come
 *    e1  x1  r1   closes its side only; closes; resets
 *    tn           2^n ms pass
 *    T            SIGTERM
 *
 * What a user or a local app says is the peer's number and a counter, so every byte tells whose it is and where it belongs.
 * A peer checks all that it reads; the server's own books are checked at each step.
 */
#define main server_main
#include "../../stage3-local/server.c" // NOLINT(bugprone-suspicious-include): what is tested is inside
#undef main

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>

#include "world.h"

enum { PEERS = 16, PERIOD = 13, BULK = 200000, FEWER = 1000, LATE_MS = 5000, SETTLE_MS = 10 };

enum kind { NOBODY, CONTROL, USER, PROXY };

struct player {
    enum kind kind;
    int fd; /* -1: closed */
    bool ended, reset, strange;
    bool heard_end; /* the end of the stream, or a reset */
    size_t said;    /* bytes of what is right */
    size_t line;    /* bytes of it that are the first line; the rest is payload */
    size_t heard;   /* bytes; of a proxy connection without the `start` */
    int port;       /* its own */
    bool started;   /* has heard the `start` */
    int partner;    /* whose bytes were heard; -1: nobody's yet */
    char first_line[160], said_to_us[160];
};

struct run {
    struct server server;
    struct player peers[PEERS];
    const uint8_t *script, *script_end;
    enum { PLAYING, SETTLING, LEAVING, OVER } phase;
    struct timespec late;
    unsigned rounds;
    int waited_ms;
};

static char secret[TOKEN_SIZE];

/* ---- what peers hear ------------------------------------------------------------------------------ */

/* What a peer says, from byte `at` on. The counter's period is no part of any buffer's size: what is shifted shows. */
static const char *payload(int peer, size_t at)
{
    static char all[PEERS][BULK + PERIOD];

    if (all[peer][BULK] == 0 && all[peer][BULK + 1] == 0)
        for (size_t i = 0; i < sizeof all[peer]; i++)
            all[peer][i] = (char)(peer << 4 | (int)(i % PERIOD));
    return all[peer] + at % PERIOD;
}

static void hear_payload(struct run *run, int number, const char *bytes, size_t count)
{
    struct player *peer = &run->peers[number];
    int from = (uint8_t)bytes[0] >> 4;
    struct player *partner = &run->peers[from];

    if (peer->partner < 0)
        peer->partner = from;
    if (peer->partner != from || partner->kind != (peer->kind == USER ? PROXY : USER) ||
        (partner->partner >= 0 && partner->partner != number))
        finding("peer %d, joined to %d, got a byte of peer %d", number, peer->partner, from);
    if (memcmp(bytes, payload(from, peer->heard), count) != 0)
        finding("peer %d got bytes of peer %d wrong, after %zu", number, from, peer->heard);
    peer->heard += count;
    if (partner->line + peer->heard > partner->said)
        finding("peer %d got more than peer %d said", number, from);
}

/* welcome TOKEN PORT: 0 from a server that stops, where users come no longer */
static bool is_welcome(const char *line)
{
    char token[TOKEN_SIZE], rest;
    int port;

    return sscanf(line, "welcome %32s %d%c", token, &port, &rest) == 2 && token_is_valid(token) &&
           port >= 0 && port < 65536;
}

/* start ADDRESS PORT: of a user that there is, or was */
static void hear_start(struct run *run, struct player *peer, char byte)
{
    char rest;
    int port = 0;
    bool known = false;

    if (peer->heard == sizeof peer->said_to_us - 1)
        finding("a proxy connection was told something else than `start`");
    peer->said_to_us[peer->heard++] = byte;
    if (byte != '\n')
        return;
    peer->said_to_us[peer->heard - 1] = '\0';
    peer->heard = 0;
    peer->started = true;
    if (strcmp(peer->said_to_us, "start unknown 0") == 0)
        return; /* it was gone by then */
    if (sscanf(peer->said_to_us, "start 127.0.0.1 %d%c", &port, &rest) != 1)
        finding("a proxy connection was told \"%s\"", peer->said_to_us);
    for (int i = 0; i < PEERS; i++)
        known = known || (run->peers[i].kind == USER && run->peers[i].port == port);
    if (!known)
        finding("a proxy connection was told of a user that there never was: \"%s\"", peer->said_to_us);
}

static void hear_line(struct player *peer, char byte)
{
    static const char *const known[] = {"pong", "create_proxy", "busy", "denied"};

    if (peer->heard == sizeof peer->said_to_us - 1)
        finding("the client was told too long a line");
    peer->said_to_us[peer->heard++] = byte;
    if (byte != '\n')
        return;
    peer->said_to_us[peer->heard - 1] = '\0';
    peer->heard = 0;
    if (is_welcome(peer->said_to_us)) {
        if (secret[0] != '\0' && (peer->strange || peer->said < peer->line))
            finding("a stranger is welcome");
        return;
    }
    for (int i = 0; i < 4; i++)
        if (strcmp(peer->said_to_us, known[i]) == 0)
            return;
    finding("the client was told \"%s\"", peer->said_to_us);
}

static void hear(struct run *run, int number, const char *bytes, size_t count)
{
    struct player *peer = &run->peers[number];
    size_t i = 0;

    if (peer->kind == PROXY && (peer->strange || peer->said < peer->line))
        finding("a stranger was told something on the proxy port");
    for (; peer->kind == CONTROL && i < count; i++)
        hear_line(peer, bytes[i]);
    for (; peer->kind == PROXY && !peer->started && i < count; i++)
        hear_start(run, peer, bytes[i]);
    if (i < count)
        hear_payload(run, number, bytes + i, count - i);
}

/* Returns whether there was anything. */
static bool read_all(struct run *run, int number)
{
    struct player *peer = &run->peers[number];
    static char bytes[1 << 16];
    ssize_t count;
    bool any = false;

    if (peer->fd < 0 || peer->heard_end)
        return false;
    while ((count = recv(peer->fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
        hear(run, number, bytes, (size_t)count);
        any = true;
    }
    peer->heard_end = count == 0 || (errno != EAGAIN && errno != EINTR);
    return any || peer->heard_end;
}

/* ---- what peers do -------------------------------------------------------------------------------- */

static void open_peer(struct run *run, int number, enum kind kind)
{
    const struct listener *listeners[] = {NULL, &run->server.control, &run->server.public,
                                          &run->server.proxy};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct player *peer = &run->peers[number];

    if (peer->kind != NOBODY || listeners[kind]->loop == NULL) /* it is closed */
        return;
    address.sin_port = htons((uint16_t)listeners[kind]->port);
    *peer =
        (struct player){.kind = kind, .partner = -1, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (peer->fd < 0 || connect(peer->fd, (struct sockaddr *)&address, sizeof address) != 0)
        finding("a port that does not let in: %s", errno_text());
    sock_tune(peer->fd); /* what is said arrives at once, before the next step */
    socklen_t size = sizeof address;
    (void)getsockname(peer->fd, (struct sockaddr *)&address, &size);
    peer->port = ntohs(address.sin_port);
    if (kind != USER)
        peer->line = (size_t)snprintf(
            peer->first_line, sizeof peer->first_line, "%s%s%s\n", kind == CONTROL ? "hello" : "proxy",
            kind == PROXY || secret[0] != '\0' ? " " : "", kind == PROXY ? run->server.token : secret);
}

static void close_peer(struct player *peer)
{
    if (peer->kind != NOBODY && peer->fd >= 0)
        close(peer->fd);
    peer->fd = -1;
}

static void reset_peer(struct player *peer)
{
    if (peer->kind == NOBODY || peer->fd < 0)
        return;
    sock_reset_on_close(peer->fd);
    peer->reset = true;
    close_peer(peer);
}

static bool can_speak(const struct player *peer)
{
    return peer->kind != NOBODY && peer->fd >= 0 && !peer->ended;
}

/* Its token is worth something only as long as the server means the same client by it. */
static void note_worth(const struct run *run, struct player *peer)
{
    if (peer->kind == PROXY && peer->said < peer->line &&
        (!run->server.has_client ||
         strncmp(peer->first_line + strlen("proxy "), run->server.token, TOKEN_SIZE - 1) != 0))
        peer->strange = true;
}

static void say_right(struct run *run, int number, size_t size)
{
    struct player *peer = &run->peers[number];
    static char bytes[BULK];

    if (!can_speak(peer))
        return;
    note_worth(run, peer);
    size_t i = 0;
    for (; i < size && (peer->kind == CONTROL || peer->said + i < peer->line); i++) {
        size_t at = peer->said + i;
        bytes[i] = (char)(at < peer->line ? peer->first_line[at] : "ping\n"[(at - peer->line) % 5]);
    }
    if (i < size)
        memcpy(bytes + i, payload(number, peer->said + i - peer->line), size - i);
    ssize_t sent = send(peer->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    peer->said += sent > 0 ? (size_t)sent : 0;
}

static void say_line(struct run *run, int number)
{
    struct player *peer = &run->peers[number];

    say_right(run, number, peer->said < peer->line ? peer->line - peer->said : 5);
}

/* Who is joined already is no stranger any more: what it says is the other's business. */
static void say_wrong(struct run *run, int number, const uint8_t *bytes, size_t size)
{
    struct player *peer = &run->peers[number];

    if (!can_speak(peer) || size == 0)
        return;
    if (peer->kind == USER || (peer->kind == PROXY && peer->said >= peer->line)) {
        say_right(run, number, size);
        return;
    }
    peer->strange |= peer->said < peer->line;
    (void)send(peer->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ---- the script ----------------------------------------------------------------------------------- */

/* The low bits of the next character, 0 at the end of the script. */
static unsigned take(struct run *run, unsigned bits)
{
    return run->script < run->script_end ? *run->script++ & ((1u << bits) - 1) : 0;
}

static void do_as_peer(struct run *run, char what, int number)
{
    struct player *peer = &run->peers[number];
    size_t size;

    switch (what) {
    case 'c': open_peer(run, number, CONTROL); break;
    case 'u': open_peer(run, number, USER); break;
    case 'p': open_peer(run, number, PROXY); break;
    case 'l': say_line(run, number); break;
    case 's': say_right(run, number, take(run, 5)); break;
    case 'b': say_right(run, number, peer->kind == CONTROL || world.send_most > 0 ? FEWER : BULK); break;
    case 'g': read_all(run, number); break;
    case 'x': close_peer(peer); break;
    case 'r': reset_peer(peer); break;
    case 'e':
        if (can_speak(peer))
            shutdown(peer->fd, SHUT_WR);
        peer->ended = true;
        break;
    default: /* 'w' */
        size = take(run, 5);
        if (size > (size_t)(run->script_end - run->script))
            size = (size_t)(run->script_end - run->script);
        say_wrong(run, number, run->script, size);
        run->script += size;
        break;
    }
}

static void play(struct run *run)
{
    char what = (char)*run->script++;

    if (what == 'T' && !run->server.stopping)
        on_stop(&run->server);
    else if (what == 't')
        world_move_clock(1 << (take(run, 5) & 15));
    else if (strchr("cuplsbgxrew", what) != NULL && what != '\0')
        do_as_peer(run, what, (int)take(run, 4));
}

/* ---- what must hold ------------------------------------------------------------------------------- */

static void check_books(const struct server *server)
{
    if (server->users.count > 0 && server->proxies.count > 0)
        finding("%d users and %d proxy connections wait for each other", server->users.count,
                server->proxies.count);
    if (server->has_client != server->client.watch.active)
        finding("the client is %s",
                server->has_client ? "there, but not listened to" : "gone, but not closed");
    if (!server->has_client && server->proxies.count > 0)
        finding("proxy connections of nobody");
    if (server->newcomers.count < 0 || server->relays.count < 0 ||
        server->newcomers.count > server->newcomers.most)
        finding("counted wrong: %d newcomers, %d pairs", server->newcomers.count, server->relays.count);
    if (server->stopping && server->users.count + server->relays.count == 0)
        finding("stopping, without users, but still there");
}

/* Has this peer got all that its partner said, and the end too? */
static bool has_all(const struct run *run, const struct player *peer)
{
    const struct player *partner = &run->peers[peer->partner < 0 ? 0 : peer->partner];

    if (peer->partner < 0 || peer->fd < 0)
        return true;
    if (partner->fd >= 0 && !partner->heard_end && !peer->heard_end)
        return peer->heard == partner->said - partner->line && !partner->ended;
    return partner->fd < 0 || partner->ended || peer->heard_end ? peer->heard_end : true;
}

static bool late(struct run *run)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (run->late.tv_sec == 0)
        run->late = (struct timespec){.tv_sec = now.tv_sec + LATE_MS / 1000, .tv_nsec = now.tv_nsec};
    return now.tv_sec > run->late.tv_sec;
}

/* To be called again and again while there is something to wait for. Mostly it is time, which passes quickly here; but it may
 * be the kernel, which waits up to 40 ms with an acknowledgement, in case there will be something to send with it. */
static void wait_a_little(struct run *run)
{
    int at_once = 1;

    if (++run->rounds % 16 != 0)
        return;
    for (int i = 0; i < PEERS; i++)
        if (run->peers[i].kind != NOBODY && run->peers[i].fd >= 0)
            (void)setsockopt(run->peers[i].fd, IPPROTO_TCP, TCP_QUICKACK, &at_once, sizeof at_once);
    usleep(50);
}

/* Everybody who is still there reads all there is, and then has everything. The kernel may deliver a moment later. */
static void settle(struct run *run)
{
    bool any = false, all = true;

    for (int i = 0; i < PEERS; i++)
        any |= read_all(run, i);
    for (int i = 0; i < PEERS; i++)
        if (run->peers[i].kind != NOBODY && !has_all(run, &run->peers[i])) {
            all = false;
            if (late(run))
                finding("peer %d waits for something that peer %d said or did", i, run->peers[i].partner);
        }
    if (any)
        return;
    world_move_clock(SETTLE_MS); /* pairs that are leaving are looked after now and then */
    if (!all)
        wait_a_little(run);
    else if ((run->waited_ms += SETTLE_MS) > 3 * SETTLE_MS)
        run->phase = LEAVING;
}

/* All are gone: the server must soon be as if it had just been started. */
static void leave(struct run *run)
{
    const struct server *server = &run->server;

    for (int i = 0; i < PEERS; i++)
        reset_peer(&run->peers[i]);
    world_move_clock(SETTLE_MS);
    if (server->newcomers.count + server->users.count + server->proxies.count + server->relays.count > 0 ||
        server->has_client) {
        if (late(run))
            finding("all peers are gone, and there are still %d newcomers, %d users, %d proxy connections, "
                    "%d pairs",
                    server->newcomers.count, server->users.count, server->proxies.count,
                    server->relays.count);
        wait_a_little(run);
        return;
    }
    if (server->relays.buckets.pipes > server->relays.buckets.kept)
        finding("%d pipes, in %d buckets", server->relays.buckets.pipes, server->relays.buckets.kept);
    run->phase = OVER;
    loop_stop(server->loop, 0);
}

static void on_idle(void *owner)
{
    struct run *run = owner;

    check_books(&run->server);
    if (run->script < run->script_end)
        play(run);
    else if (run->phase == PLAYING)
        run->phase = SETTLING;
    else if (run->phase == SETTLING)
        settle(run);
    else
        leave(run);
}

/* Settings, a bit each: 1 a secret, 2 spares, 4 pipes are scarce, 8 room for few newcomers, 16 the kernel takes little at
 * a time, 32 users are impatient, 64 so is the heartbeat. */
static void open_run(struct run *run, unsigned settings)
{
    struct options *options = &run->server.options;

    if (settings & 1)
        token_make(secret);
    else
        secret[0] = '\0';
    *options = (struct options){.control.address = "127.0.0.1",
                                .public.address = "127.0.0.1",
                                .proxy.address = "127.0.0.1",
                                .heartbeat_ms = (settings & 64) ? 100 : 5000,
                                .wait_ms = (settings & 32) ? 50 : 10000,
                                .spares = (settings & 2) ? 2 : 0,
                                .drain_ms = 1000};
    memcpy(options->secret, secret, sizeof secret);
    if (open_server(&run->server) != 0)
        finding("the server does not start");
    if (settings & 4)
        run->server.relays.buckets.most_pipes = 1;
    if (settings & 8)
        run->server.newcomers.most = 3;
    world = (struct world){.on_idle = on_idle, .owner = run, .send_most = (settings & 16) ? 64 : 0};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct run run;
    static bool has_log;

    if (size == 0)
        return 0;
    if (!has_log)
        log_open("server", LOG_VERBOSE);
    has_log = true;
    memset(&run, 0, sizeof run);
    descriptors_remember();
    open_run(&run, data[0]);
    run.script = data + 1;
    run.script_end = data + size;
    if (loop_run(run.server.loop) != 0)
        finding("the loop gave up");
    close_server(&run.server);
    if (run.server.relays.count + run.server.newcomers.count + run.server.users.count +
            run.server.proxies.count !=
        0)
        finding("closed, and not all are gone");
    if (run.server.relays.buckets.pipes != 0)
        finding("%d pipes are left", run.server.relays.buckets.pipes);
    for (int i = 0; i < PEERS; i++)
        reset_peer(&run.peers[i]);
    descriptors_check();
    return 0;
}
