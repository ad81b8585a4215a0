/* Stage 3, server: stage 2's, with a secret, spare proxy connections, `start`, and a stop that lets users
 * finish. */
#include <string.h>
#include <unistd.h>

#include "../common/limits.h"
#include "../common/line.h"
#include "../common/listener.h"
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/newcomers.h"
#include "../common/options.h"
#include "../common/relay.h"
#include "../common/secret.h"
#include "../common/sock.h"
#include "../common/waitlist.h"

enum {
    SPARES_MAX = 100, /* so many at most while many users come, unless --spares wants more anyway */
    SURPLUS_MAX = 32, /* proxy connections kept beyond the spares: their users have left */
};

struct server {
    struct loop *loop;
    struct options options;
    struct listener control;
    struct listener public;
    struct listener proxy;
    struct newcomers newcomers; /* who have not said yet who they are */
    struct line_conn client;    /* the control connection; open while has_client */
    bool has_client;
    uint64_t client_left_ms; /* the time of that, while there is none */

    char token[TOKEN_SIZE];  /* names the session with this client */
    struct waitlist users;   /* waiting for a proxy connection */
    struct waitlist proxies; /* waiting for a user */
    struct relays relays;    /* users and proxy connections that are joined */
    int missed;              /* proxy connections that were missing at the last roll-call */
    uint64_t roll_call_ms;   /* the time of that */
    unsigned users_so_far;
    int connections_most; /* that there are descriptors for */
    uint64_t full_ms;     /* when there last was no room for a user */
    int spares;           /* to be kept ready now: --spares, or more */
    int waited;           /* users at one time, the most since the last roll-call */
    int left;             /* spares that died since then */

    unsigned served;   /* users who are done */
    uint64_t up, down; /* bytes of theirs */
    bool stopping;
    struct timer drain;
};

/* When stopping: proxy connections are accepted as long as users wait for them, and the last user's end is
 * ours. */
static void stop_if_idle(struct server *server)
{
    if (!server->stopping)
        return;
    if (server->users.count == 0)
        listener_close(&server->proxy);
    if (server->users.count + server->relays.count == 0)
        loop_stop(server->loop, 0);
}

/* start ADDRESS PORT: of the user. Returns false if the proxy connection is not what it seems: it may have died while it
 * was a spare. */
static bool start_proxy(struct server *server, int proxy, int user)
{
    struct peer peer = sock_peer(user);

    if (!sock_heard_lately(proxy, server->options.heartbeat_ms) ||
        sock_send_line(proxy, "start %s %s", peer.address, peer.port) != 0)
        return false;
    /* A spare's was quick, to find out whether it lives. Now a line that fails for a moment is to be forgiven. */
    sock_keepalive(proxy, KEEPALIVE_MS);
    return true;
}

/* Step 4: create_proxy. Should it get lost, or what comes of it: the roll-call notices. Returns how often it was said. */
static int ask_for_proxies(struct server *server, int count)
{
    int asked = 0;

    for (; asked < count && server->has_client && line_send(&server->client, "create_proxy") == 0; asked++)
        if (server->users.count > server->proxies.count)
            say("step 4: asked the client for a proxy connection");
        else
            say_more("step 4: asked the client for a spare proxy connection");
    return asked;
}

/* Spares follow the demand: as many as had to wait at one time may come again. When nobody had to, one fewer will do. */
static void follow_demand(struct server *server)
{
    int few = server->connections_most / 4; /* users need descriptors, too */
    int room = (few < SPARES_MAX ? few : SPARES_MAX) - server->spares;
    int more = server->waited < room ? server->waited : room;

    if (more > 0 && server->spares > 0) {
        server->spares += more;
        ask_for_proxies(server, more);
    } else if (server->waited == 0 && server->spares > server->options.spares) {
        server->spares--;
        if (server->proxies.count > server->spares)
            close(waitlist_pop(&server->proxies, NULL));
    }
    server->waited = 0;
}

/* Proxy connections that should be here, if all had come that were asked for. */
static int missing_proxies(const struct server *server)
{
    return server->users.count + server->spares - server->proxies.count;
}

/* Some are always on their way. But those that were missing at the last roll-call already are lost: asked for again. */
static void call_the_roll(struct server *server)
{
    uint64_t now_ms = loop_now_ms(server->loop);
    int missing = missing_proxies(server);
    int lost = missing < server->missed ? missing : server->missed;

    if (now_ms < server->roll_call_ms + (uint64_t)server->options.heartbeat_ms / 2)
        return; /* whoever floods us with pings is not flooded with requests */
    server->roll_call_ms = now_ms;
    server->missed = missing - ask_for_proxies(server, lost);
    server->left = 0;
    follow_demand(server);
}

/* Step 6: joins users and proxy connections, first come first served. */
static void match(struct server *server)
{
    while (server->users.count > 0 && server->proxies.count > 0) {
        unsigned number;
        int proxy = waitlist_pop(&server->proxies, NULL);
        if (!start_proxy(server, proxy, waitlist_first(&server->users))) {
            close(proxy);
            ask_for_proxies(server, 1);
            continue;
        }
        int user = waitlist_pop(&server->users, &number);

        say("step 6: user %u joined to a proxy connection", number);
        relay_join(&server->relays, user, proxy, number);
    }
}

/* No client for longer than a user would wait: then nobody needs to wait in vain. */
static bool client_is_missing(const struct server *server)
{
    uint64_t wait_ms = (uint64_t)server->options.wait_ms;

    return !server->has_client && loop_now_ms(server->loop) >= server->client_left_ms + wait_ms;
}

static void on_user(void *owner, int fd)
{
    struct server *server = owner;
    unsigned number = ++server->users_so_far;

    say("step 3: user %u connected from %s", number, sock_peer(fd).text);
    if (client_is_missing(server)) {
        complain("user %u is turned away: there is no client", number);
        sock_reset_on_close(fd);
        close(fd);
        return;
    }
    if (waitlist_push(&server->users, fd, number) != 0) {
        complain("lost user %u: %s", number, errno_text());
        close(fd);
        return;
    }
    if (server->waited < server->users.count - server->proxies.count)
        server->waited = server->users.count - server->proxies.count;
    ask_for_proxies(server, 1);
    match(server);
}

/* A user takes two descriptors, one of them for its proxy connection. Without room for both it waits
 * outside. */
static bool has_room_for_user(void *owner)
{
    struct server *server = owner;
    int others = server->proxies.count + server->newcomers.count + 1;
    int users = server->users.count + server->relays.count;
    bool is_full = users >= limits_users(server->connections_most, others);
    uint64_t now_ms = loop_now_ms(server->loop);

    if (is_full && users > 0 && now_ms > server->full_ms + 1000) { /* else it goes on, or comes and goes */
        struct crowd crowd = sock_crowd(server->public.port);
        complain("full: there are descriptors for no more than these %d users; %d of them are from %s", users,
                 crowd.count, crowd.peer.address);
    }
    if (is_full)
        server->full_ms = now_ms;
    return !is_full;
}

static void on_user_left(void *owner, unsigned number, const char *why)
{
    say("user %u left: %s", number, why);
    stop_if_idle(owner);
}

static void on_user_done(void *owner, const struct relay_report *user)
{
    struct server *server = owner;

    server->served++;
    server->up += user->up;
    server->down += user->down;
    relay_say_done("user", user);
    stop_if_idle(server);
}

static void on_proxy_left(void *owner, unsigned number, const char *why)
{
    struct server *server = owner;

    (void)number;
    say_more("a proxy connection left: %s", why);
    if (server->left++ < server->spares) /* else they die as soon as they come */
        ask_for_proxies(server, 1);
}

static void on_client_gone(void *owner, const char *why)
{
    struct server *server = owner;

    say("client gone: %s", why);
    line_close(&server->client);
    server->has_client = false;
    server->client_left_ms = loop_now_ms(server->loop);
    waitlist_clear(&server->proxies);
}

/* ping -> pong, and the roll-call */
static void on_client_line(void *owner, const char *line)
{
    struct server *server = owner;

    if (strcmp(line, "ping") != 0) {
        on_client_gone(server, "said something that is not in the protocol of this stage");
        return;
    }
    line_send(&server->client, "pong");
    call_the_roll(server);
}

/* welcome TOKEN PORT */
static void welcome(struct server *server, int fd)
{
    struct loop *loop = server->loop;
    int silence_ms = 3 * server->options.heartbeat_ms;

    if (token_make(server->token) != 0 ||
        line_open(&server->client, loop, fd, silence_ms, on_client_line, on_client_gone, server) != 0) {
        complain("cannot talk to the client: %s", errno_text());
        close(fd);
        return;
    }
    server->has_client = true;
    server->missed = 0;
    server->waited = 0;
    line_send(&server->client, "welcome %s %d", server->token, server->public.port);
    say("step 2: client opened the control connection from %s", sock_peer(fd).text);
    ask_for_proxies(server, missing_proxies(server));
}

static void turn_away(int fd, const char *why)
{
    complain("turned away %s: %s", sock_peer(fd).text, why);
    close(fd);
}

static void deny(int fd, const char *line, const char *secret)
{
    const char *what = strcmp(line, "hello") == 0 ? "without a secret"
                       : secret[0] == '\0'        ? "with a secret, while the server has none"
                                                  : "with the wrong secret";

    complain("a client %s, %s: denied", what, sock_peer(fd).text);
    sock_refuse(fd, "denied");
}

/* hello [SECRET] -> welcome TOKEN PORT | busy | denied */
static void on_hello(void *owner, int fd, const char *line)
{
    struct server *server = owner;

    if (strncmp(line, "hello", 5) != 0) {
        turn_away(fd, "said something else than `hello` on the control port");
    } else if (!secret_matches(line, "hello", server->options.secret)) {
        deny(fd, line, server->options.secret);
    } else if (server->has_client) {
        complain("another client, %s: told that we are busy", sock_peer(fd).text);
        sock_refuse(fd, "busy");
    } else {
        welcome(server, fd);
    }
}

/* proxy TOKEN */
static void on_proxy_line(void *owner, int fd, const char *line)
{
    struct server *server = owner;

    if (!server->has_client || !secret_matches(line, "proxy", server->token)) {
        turn_away(fd, "said something else than `proxy` and this session's token on the proxy port");
    } else if (waitlist_push(&server->proxies, fd, 0) != 0) {
        complain("lost a proxy connection: %s", errno_text());
        close(fd);
    } else {
        match(server);
        /* Users who left while they waited leave theirs behind: keep some of those, too. */
        while (server->proxies.count > server->spares + SURPLUS_MAX)
            close(waitlist_pop(&server->proxies, NULL));
    }
}

static void on_control(void *owner, int fd)
{
    struct server *server = owner;

    newcomers_add(&server->newcomers, fd, "the control port", on_hello, server);
}

static void on_proxy(void *owner, int fd)
{
    struct server *server = owner;

    newcomers_add(&server->newcomers, fd, "the proxy port", on_proxy_line, server);
}

static void on_drained(void *owner)
{
    struct server *server = owner;

    say("stopping without waiting for %d users any longer", server->users.count + server->relays.count);
    loop_stop(server->loop, 0);
}

/* SIGINT or SIGTERM */
static void on_stop(void *owner)
{
    struct server *server = owner;

    server->stopping = true;
    server->spares = 0;
    waitlist_clear(&server->proxies);
    listener_close(&server->control);
    listener_close(&server->public);
    say("stopping: no new users; still connected: %d", server->users.count + server->relays.count);
    timer_start(server->loop, &server->drain, server->options.drain_ms, on_drained, server);
    stop_if_idle(server);
}

static int open_server(struct server *server)
{
    struct options *options = &server->options;

    server->loop = loop_new();
    if (server->loop == NULL)
        return -1;
    server->client_left_ms = loop_now_ms(server->loop);
    server->connections_most = limits_connections();
    newcomers_init(&server->newcomers, server->loop);
    waitlist_init(&server->users, server->loop, options->wait_ms, false, on_user_left, server);
    waitlist_init(&server->proxies, server->loop, 0, true, on_proxy_left, server);
    relays_init(&server->relays, server->loop, on_user_done, server);
    if (listener_open(&server->control, server->loop, &options->control, "the client", on_control, server) !=
        0)
        return -1;
    if (listener_open(&server->public, server->loop, &options->public, "users", on_user, server) != 0)
        return -1;
    if (listener_open(&server->proxy, server->loop, &options->proxy, "proxy connections", on_proxy, server) !=
        0)
        return -1;
    server->public.may_accept = has_room_for_user;
    if (options->spares > server->connections_most / 4) { /* users need descriptors, too */
        options->spares = server->connections_most / 4;
        complain("there are descriptors for %d spare proxy connections only", options->spares);
    }
    server->spares = options->spares;
    /* What this port accepts inherits it: spares get old. */
    sock_keepalive(server->proxy.watch.fd, options->heartbeat_ms);
    loop_on_stop(server->loop, on_stop, server);
    say("step 1: waiting for the client");
    return 0;
}

static void close_server(struct server *server)
{
    listener_close(&server->control);
    listener_close(&server->public);
    listener_close(&server->proxy);
    newcomers_clear(&server->newcomers);
    line_close(&server->client);
    waitlist_clear(&server->users);
    waitlist_clear(&server->proxies);
    relays_close(&server->relays);
    loop_free(server->loop);
}

static const char about[] =
    "Takes users in, and passes them on to the client, which brings them to its local app.";

int main(int argc, char **argv)
{
    struct server server = {0};
    struct usage usage = {"server", about, OPT_CONTROL_PORT | OPT_BIND | OPT_HEARTBEAT, ""};
    usage.known |= OPT_PUBLIC_PORT | OPT_PROXY_PORT | OPT_WAIT;
    usage.known |= OPT_SPARES | OPT_DRAIN | OPT_SECRET_FILE | OPT_CONGESTION;
    int status = options_parse(&server.options, &usage, argc, argv);

    if (status != OPTIONS_OK)
        return status;
    status = open_server(&server) == 0 ? loop_run(server.loop) : 1;
    close_server(&server);
    if (status == 0)
        say("stopped: users served: %u, %s up, %s down", server.served, size_text(server.up).text,
            size_text(server.down).text);
    return status;
}
