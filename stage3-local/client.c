/* Stage 3, client: stage 2's, but on `start` it dials the local app and joins it, and a stop lets users
 * finish. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/backoff.h"
#include "../common/dial.h"
#include "../common/first_line.h"
#include "../common/limits.h"
#include "../common/line.h"
#include "../common/list.h"
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/options.h"
#include "../common/relay.h"
#include "../common/secret.h"
#include "../common/sock.h"

enum {
    BUSY_MS = 1000, /* between two tries, while another client is there */
    PAUSE_MS = 500, /* after a proxy connection could not be opened */
};

struct client {
    struct loop *loop;
    struct options options;
    struct target server; /* its control port */
    struct dial dial;     /* to reach it */
    struct timer retry;   /* until the next dial */
    int backoff_ms;
    struct line_conn control; /* the control connection */
    bool welcomed;            /* by the server, there */
    uint64_t welcomed_ms;     /* the time of that */
    struct timer heartbeat;
    int pongs; /* so far */

    char token[TOKEN_SIZE];   /* names the session with the server */
    struct target proxy_port; /* of the same server */
    int owed;            /* proxy connections that the server has asked for and that are still to be opened */
    int owed_long;       /* those of them that were owed at the last pong already */
    struct timer pause;  /* until then, after one could not be opened */
    struct link proxies; /* those that are not joined yet */
    struct link started; /* nor those, but their user is there and waits for the local app */
    int proxies_count;
    int connections_most; /* that there are descriptors for */
    struct relays relays; /* those that are joined */
    unsigned joined;      /* so far */

    struct target local; /* the local app */
    char public_port[8]; /* where its users come to, at the server */
    bool stopping;
    struct timer drain;
};

/* A proxy connection that is not joined yet. */
struct proxy {
    struct link place;
    struct client *client;
    struct dial dial;
    struct first_line start;     /* is awaited, once it is open */
    int fd;                      /* from then on; else -1 */
    char user[64], user_port[8]; /* the user's address */
};

static void dial_server(void *owner);

static void stop_if_idle(struct client *client)
{
    if (client->stopping && client->proxies_count + client->relays.count == 0)
        loop_stop(client->loop, 0);
}

static void forget_proxy(struct proxy *proxy)
{
    dial_stop(&proxy->dial);
    list_remove(&proxy->place);
    proxy->client->proxies_count--;
    first_line_close(&proxy->start);
    if (proxy->fd >= 0)
        close(proxy->fd);
    stop_if_idle(proxy->client);
    free(proxy);
}

static void forget_proxies(struct link *proxies)
{
    while (!list_is_empty(proxies))
        forget_proxy((struct proxy *)proxies->next);
}

static void open_proxies(void *owner);

static void on_proxy_gone(void *owner, const char *why)
{
    struct proxy *proxy = owner;
    struct client *client = proxy->client;

    say_more("a proxy connection is gone: %s", why);
    forget_proxy(proxy);
    open_proxies(client);
}

/* PROXY TCP4 192.0.2.7 0.0.0.0 41234 60624: from where the user came, and to where (haproxy.org, proxy-protocol.txt, 2.1);
 * to which address of the server is not known here. Should this fail, so will what the relay sends. */
static void introduce(const struct proxy *proxy, int app)
{
    const char *user = proxy->user, *port = proxy->user_port, *public = proxy->client->public_port;

    if (strcmp(user, "unknown") == 0)
        sock_send_line(app, "PROXY UNKNOWN\r");
    else if (strchr(user, ':') == NULL)
        sock_send_line(app, "PROXY TCP4 %s 0.0.0.0 %s %s\r", user, port, public);
    else
        sock_send_line(app, "PROXY TCP6 %s :: %s %s\r", user, port, public);
}

static void on_local_dialed(void *owner, int fd)
{
    struct proxy *proxy = owner;
    struct client *client = proxy->client;

    if (fd < 0) {
        complain("cannot reach the local app, %s: %s", client->local.text, dial_error(&proxy->dial).text);
        sock_reset_on_close(proxy->fd);
    } else {
        dial_good(&proxy->dial);
        if (client->options.proxy_protocol)
            introduce(proxy, fd);
        say("step 6: joined connection %u to the local app", ++client->joined);
        relay_join(&client->relays, proxy->fd, fd, client->joined);
        proxy->fd = -1;
    }
    forget_proxy(proxy);
    open_proxies(client);
}

/* start ADDRESS PORT; all that follows is the user's */
static void on_start(void *owner, int fd, const char *line)
{
    struct proxy *proxy = owner;
    struct client *client = proxy->client;

    proxy->fd = fd;
    if (sscanf(line, "start %63[0-9a-z.:] %7[0-9]", proxy->user, proxy->user_port) != 2) {
        complain("the server said something else than `start`: is it of another stage?");
        on_proxy_gone(proxy, "not in the protocol of this stage");
        return;
    }
    say("step 5: a user is there, from %s: dialing the local app", proxy->user);
    list_remove(&proxy->place);
    list_append(&client->started, &proxy->place);
    dial_start(&proxy->dial, client->loop, &client->local, DIAL_LONG_MS, on_local_dialed, proxy);
}

/* proxy TOKEN */
static void on_proxy_dialed(void *owner, int fd)
{
    struct proxy *proxy = owner;
    struct client *client = proxy->client;

    if (fd < 0 || sock_send_line(fd, "proxy %s", client->token) != 0) {
        complain("cannot open a proxy connection to %s: %s", client->proxy_port.text,
                 fd < 0 ? dial_error(&proxy->dial).text : errno_text());
        if (fd >= 0)
            close(fd);
        forget_proxy(proxy);
        client->owed++;
        if (!timer_is_running(&client->pause))
            timer_start(client->loop, &client->pause, PAUSE_MS, open_proxies, client);
        return;
    }
    dial_good(&proxy->dial);
    say_more("step 5: opened a proxy connection");
    if (first_line_await(&proxy->start, client->loop, fd, 0, on_start, on_proxy_gone, proxy) != 0) {
        complain("lost a proxy connection: %s", errno_text());
        close(fd);
        forget_proxy(proxy);
    }
}

static bool has_room_for_proxy(const struct client *client)
{
    return client->proxies_count + client->relays.count < limits_users(client->connections_most, 0);
}

/* Step 5: opens the proxy connections that are owed, as far as there are descriptors. */
static void open_proxies(void *owner)
{
    struct client *client = owner;

    while (client->welcomed && client->owed > 0 && !timer_is_running(&client->pause) &&
           has_room_for_proxy(client)) {
        struct proxy *proxy = calloc(1, sizeof *proxy);

        if (proxy == NULL) {
            complain("cannot open a proxy connection: %s", errno_text());
            timer_start(client->loop, &client->pause, PAUSE_MS, open_proxies, client);
            return;
        }
        client->owed--;
        proxy->client = client;
        proxy->fd = -1;
        list_append(&client->proxies, &proxy->place);
        client->proxies_count++;
        dial_start(&proxy->dial, client->loop, &client->proxy_port, DIAL_MS, on_proxy_dialed, proxy);
    }
}

/* create_proxy */
static void on_create_proxy(struct client *client)
{
    say_more("step 4: the server asks for a proxy connection");
    client->owed++;
    open_proxies(client);
}

static void on_user_done(void *owner, const struct relay_report *user)
{
    struct client *client = owner;

    relay_say_done("connection", user);
    open_proxies(client);
    stop_if_idle(client);
}

/* A server that gives us up although we ping when we should waits for pings that come sooner. */
static const char *advice(const struct client *client)
{
    uint64_t heartbeat_ms = (uint64_t)client->options.heartbeat_ms;
    bool early = client->welcomed && loop_now_ms(client->loop) < client->welcomed_ms + heartbeat_ms;

    return early ? " (again and again? then --heartbeat should be the same on both sides)" : "";
}

/* Starts all over again, after a while. */
static void on_server_gone(void *owner, const char *why)
{
    struct client *client = owner;
    int pause_ms = backoff_ms(&client->backoff_ms);

    complain("%s the server: %s%s; next try in %.1f s", client->welcomed ? "lost" : "cannot reach", why,
             advice(client), pause_ms / 1e3);
    client->welcomed = false;
    line_close(&client->control);
    timer_stop(&client->heartbeat);
    timer_stop(&client->pause);
    client->owed = client->owed_long = 0;
    forget_proxies(&client->proxies);
    timer_start(client->loop, &client->retry, pause_ms, dial_server, client);
}

/* ping */
static void on_heartbeat(void *owner)
{
    struct client *client = owner;

    line_send(&client->control, "ping");
    timer_start(client->loop, &client->heartbeat, client->options.heartbeat_ms, on_heartbeat, client);
}

/* welcome TOKEN PORT */
static void on_welcome(struct client *client, const char *token)
{
    memcpy(client->token, token, sizeof client->token);
    if (target_of_peer(&client->proxy_port, client->control.watch.fd, client->options.proxy.port) != 0) {
        on_server_gone(client, errno_text());
        return;
    }
    client->welcomed = true;
    dial_good(&client->dial);
    client->welcomed_ms = loop_now_ms(client->loop);
    client->backoff_ms = 0;
    say("step 2: opened the control connection to %s", sock_peer(client->control.watch.fd).text);
    client->proxy_port.congestion = client->options.congestion;
    say("users who come to port %s of %s reach %s", client->public_port,
        sock_peer(client->control.watch.fd).address, client->local.text);
    on_heartbeat(client);
}

/* The other client may be gone in a moment: no longer and longer pauses. */
static void on_busy(struct client *client)
{
    client->backoff_ms = BUSY_MS / 2;
    on_server_gone(client, "it is busy with another client");
}

static void on_pong(struct client *client)
{
    client->pongs++;
    say_more("pong %d", client->pongs);
    /* Right behind its pong, the server asks again for what it missed at the last one already. */
    client->owed -= client->owed < client->owed_long ? client->owed : client->owed_long;
    client->owed_long = client->owed;
}

/* To come back with the same secret would be of no use. */
static void on_denied(struct client *client)
{
    complain("denied: the server has %s", client->options.secret[0] != '\0'
                                              ? "another secret, or none"
                                              : "a secret, and this client has none (--secret-file)");
    loop_stop(client->loop, 1);
}

/* welcome TOKEN PORT | busy | denied, then pong and create_proxy */
static void on_server_line(void *owner, const char *line)
{
    struct client *client = owner;
    char token[TOKEN_SIZE];

    if (!client->welcomed && sscanf(line, "welcome %32s %7[0-9]", token, client->public_port) == 2 &&
        token_is_valid(token))
        on_welcome(client, token);
    else if (!client->welcomed && strcmp(line, "busy") == 0)
        on_busy(client);
    else if (!client->welcomed && strcmp(line, "denied") == 0)
        on_denied(client);
    else if (client->welcomed && strcmp(line, "pong") == 0)
        on_pong(client);
    else if (client->welcomed && strcmp(line, "create_proxy") == 0)
        on_create_proxy(client);
    else
        on_server_gone(client, "it said something that is not in the protocol of this stage");
}

/* hello [SECRET] */
static void on_server_dialed(void *owner, int fd)
{
    struct client *client = owner;
    int silence_ms = 3 * client->options.heartbeat_ms;
    const char *secret = client->options.secret;

    if (fd < 0) {
        on_server_gone(client, dial_error(&client->dial).text);
    } else if (line_open(&client->control, client->loop, fd, silence_ms, on_server_line, on_server_gone,
                         client) != 0) {
        close(fd);
        on_server_gone(client, errno_text());
    } else {
        line_send(&client->control, "hello%s%s", secret[0] != '\0' ? " " : "", secret);
    }
}

static void dial_server(void *owner)
{
    struct client *client = owner;

    dial_start(&client->dial, client->loop, &client->server, DIAL_MS, on_server_dialed, client);
}

static void on_drained(void *owner)
{
    struct client *client = owner;

    say("stopping without waiting for %d users any longer", client->relays.count);
    loop_stop(client->loop, 0);
}

/* SIGINT or SIGTERM. Without a control connection no user will be sent here; the server then closes the
 * spares. */
static void on_stop(void *owner)
{
    struct client *client = owner;

    client->stopping = true;
    client->welcomed = false;
    client->owed = 0;
    dial_stop(&client->dial);
    line_close(&client->control);
    timer_stop(&client->retry);
    timer_stop(&client->heartbeat);
    say("stopping: no new users; still connected: %d", client->relays.count);
    timer_start(client->loop, &client->drain, client->options.drain_ms, on_drained, client);
    stop_if_idle(client);
}

static int open_client(struct client *client)
{
    client->loop = loop_new();
    if (client->loop == NULL || target_lookup(&client->server, client->loop) != 0)
        return -1;
    if (target_lookup(&client->local, client->loop) != 0)
        return -1;
    client->connections_most = limits_connections();
    list_init(&client->proxies);
    list_init(&client->started);
    client->server.congestion = client->local.congestion = client->options.congestion;
    relays_init(&client->relays, client->loop, on_user_done, client);
    loop_on_stop(client->loop, on_stop, client);
    dial_server(client);
    return 0;
}

static void close_client(struct client *client)
{
    dial_stop(&client->dial);
    line_close(&client->control);
    forget_proxies(&client->proxies);
    forget_proxies(&client->started);
    relays_close(&client->relays);
    target_clear(&client->server);
    target_clear(&client->proxy_port);
    target_clear(&client->local);
    loop_free(client->loop);
}

static const char about[] = "Makes LOCAL reachable for the users of SERVER, through firewalls and NATs.";

int main(int argc, char **argv)
{
    struct client client = {0};
    struct usage usage = {"client", about, OPT_CONTROL_PORT | OPT_HEARTBEAT, "LOCAL [SERVER]"};
    usage.known |= OPT_PROXY_PORT;
    usage.known |= OPT_DRAIN | OPT_SECRET_FILE | OPT_PROXY_PROTOCOL | OPT_CONGESTION;
    int status = options_parse(&client.options, &usage, argc, argv);
    const char *server = client.options.arguments[1] != NULL ? client.options.arguments[1] : "localhost";
    const char *local = client.options.arguments[0];

    if (status != OPTIONS_OK)
        return status;
    if (target_parse(&client.server, server, client.options.control.port) != 0)
        return options_wrong("SERVER can't be \"%s\": it is a host, or host:port", server);
    if (target_parse(&client.local, local, 0) != 0) {
        target_clear(&client.server);
        return options_wrong("LOCAL can't be \"%s\": it is a port, host:port, or the path of a Unix socket",
                             local);
    }
    status = open_client(&client) == 0 ? loop_run(client.loop) : 1;
    close_client(&client);
    if (status == 0)
        say("stopped: connections served: %u", client.joined);
    return status;
}
