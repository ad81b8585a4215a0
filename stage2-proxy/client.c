/* Stage 2, client: opens a proxy connection whenever the server asks for one, and echoes what comes there. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/backoff.h"
#include "../common/dial.h"
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
    int proxies_count;
    int connections_most; /* that there are descriptors for */
    struct relays relays; /* those that are joined */
    unsigned joined;      /* so far */
};

/* A proxy connection that is not joined yet. */
struct proxy {
    struct link place;
    struct client *client;
    struct dial dial;
};

static void dial_server(void *owner);

static void forget_proxy(struct proxy *proxy)
{
    dial_stop(&proxy->dial);
    list_remove(&proxy->place);
    proxy->client->proxies_count--;
    free(proxy);
}

static void forget_proxies(struct link *proxies)
{
    while (!list_is_empty(proxies))
        forget_proxy((struct proxy *)proxies->next);
}

static void open_proxies(void *owner);

/* proxy TOKEN; all that follows is the user's */
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
    say("step 5: opened a proxy connection");
    relay_echo(&client->relays, fd, ++client->joined);
    forget_proxy(proxy);
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
        list_append(&client->proxies, &proxy->place);
        client->proxies_count++;
        dial_start(&proxy->dial, client->loop, &client->proxy_port, DIAL_MS, on_proxy_dialed, proxy);
    }
}

/* create_proxy */
static void on_create_proxy(struct client *client)
{
    say("step 4: the server asks for a proxy connection");
    client->owed++;
    open_proxies(client);
}

static void on_user_done(void *owner, const struct relay_report *user)
{
    struct client *client = owner;

    relay_say_done("connection", user);
    open_proxies(client);
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

/* welcome TOKEN */
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

/* welcome TOKEN | busy, then pong and create_proxy */
static void on_server_line(void *owner, const char *line)
{
    struct client *client = owner;

    if (!client->welcomed && strncmp(line, "welcome ", 8) == 0 && token_is_valid(line + 8))
        on_welcome(client, line + 8);
    else if (!client->welcomed && strcmp(line, "busy") == 0)
        on_busy(client);
    else if (client->welcomed && strcmp(line, "pong") == 0)
        on_pong(client);
    else if (client->welcomed && strcmp(line, "create_proxy") == 0)
        on_create_proxy(client);
    else
        on_server_gone(client, "it said something that is not in the protocol of this stage");
}

/* hello */
static void on_server_dialed(void *owner, int fd)
{
    struct client *client = owner;
    int silence_ms = 3 * client->options.heartbeat_ms;

    if (fd < 0) {
        on_server_gone(client, dial_error(&client->dial).text);
    } else if (line_open(&client->control, client->loop, fd, silence_ms, on_server_line, on_server_gone,
                         client) != 0) {
        close(fd);
        on_server_gone(client, errno_text());
    } else {
        line_send(&client->control, "hello");
    }
}

static void dial_server(void *owner)
{
    struct client *client = owner;

    dial_start(&client->dial, client->loop, &client->server, DIAL_MS, on_server_dialed, client);
}

static int open_client(struct client *client)
{
    client->loop = loop_new();
    if (client->loop == NULL || target_lookup(&client->server, client->loop) != 0)
        return -1;
    client->connections_most = limits_connections();
    list_init(&client->proxies);
    relays_init(&client->relays, client->loop, on_user_done, client);
    dial_server(client);
    return 0;
}

static void close_client(struct client *client)
{
    dial_stop(&client->dial);
    line_close(&client->control);
    forget_proxies(&client->proxies);
    relays_close(&client->relays);
    target_clear(&client->server);
    target_clear(&client->proxy_port);
    loop_free(client->loop);
}

static const char about[] = "Opens proxy connections to SERVER, and echoes what its users say.";

int main(int argc, char **argv)
{
    struct client client = {0};
    struct usage usage = {"client", about, OPT_CONTROL_PORT | OPT_HEARTBEAT, "[SERVER]"};
    usage.known |= OPT_PROXY_PORT;
    int status = options_parse(&client.options, &usage, argc, argv);
    const char *server = client.options.arguments[0] != NULL ? client.options.arguments[0] : "localhost";

    if (status != OPTIONS_OK)
        return status;
    if (target_parse(&client.server, server, client.options.control.port) != 0)
        return options_wrong("SERVER can't be \"%s\": it is a host, or host:port", server);
    status = open_client(&client) == 0 ? loop_run(client.loop) : 1;
    close_client(&client);
    return status;
}
