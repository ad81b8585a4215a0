/* Stage 1, client: opens the control connection, pings, and comes back after any loss. */
#include <string.h>
#include <unistd.h>

#include "../common/backoff.h"
#include "../common/dial.h"
#include "../common/line.h"
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/options.h"
#include "../common/sock.h"

enum { BUSY_MS = 1000 }; /* between two tries, while another client is there */

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
};

static void dial_server(void *owner);

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
    timer_start(client->loop, &client->retry, pause_ms, dial_server, client);
}

/* ping */
static void on_heartbeat(void *owner)
{
    struct client *client = owner;

    line_send(&client->control, "ping");
    timer_start(client->loop, &client->heartbeat, client->options.heartbeat_ms, on_heartbeat, client);
}

static void on_welcome(struct client *client)
{
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
    if (client->pongs == client->options.count)
        loop_stop(client->loop, 0);
}

/* welcome | busy, then pong */
static void on_server_line(void *owner, const char *line)
{
    struct client *client = owner;

    if (!client->welcomed && strcmp(line, "welcome") == 0)
        on_welcome(client);
    else if (!client->welcomed && strcmp(line, "busy") == 0)
        on_busy(client);
    else if (client->welcomed && strcmp(line, "pong") == 0)
        on_pong(client);
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
    dial_server(client);
    return 0;
}

static void close_client(struct client *client)
{
    dial_stop(&client->dial);
    line_close(&client->control);
    target_clear(&client->server);
    loop_free(client->loop);
}

static const char about[] = "Opens the control connection to SERVER, pings, and comes back after any loss.";

int main(int argc, char **argv)
{
    struct client client = {0};
    struct usage usage = {"client", about, OPT_CONTROL_PORT | OPT_HEARTBEAT, "[SERVER]"};
    usage.known |= OPT_COUNT;
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
