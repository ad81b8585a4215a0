/* Stage 0, client: for each connection that it accepts it dials the target, and joins the two. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "../common/dial.h"
#include "../common/list.h"
#include "../common/listener.h"
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/options.h"
#include "../common/relay.h"
#include "../common/sock.h"

struct client {
    struct loop *loop;
    struct options options;
    struct target target;
    struct listener listener;
    struct link calls;    /* connections whose target has not answered yet */
    struct relays relays; /* those that are joined with it */
    unsigned connections; /* so far */
};

/* A connection that waits for the target to answer. */
struct call {
    struct link place;
    struct client *client;
    int fd; /* -1 once it is joined */
    unsigned number;
    struct dial dial;
};

static void forget_call(struct call *call)
{
    dial_stop(&call->dial);
    list_remove(&call->place);
    if (call->fd >= 0)
        close(call->fd);
    free(call);
}

static void on_target_dialed(void *owner, int target_fd)
{
    struct call *call = owner;
    struct client *client = call->client;

    if (target_fd < 0) {
        complain("cannot reach %s: %s", client->target.text, dial_error(&call->dial).text);
        sock_reset_on_close(call->fd);
    } else {
        dial_good(&call->dial);
        say("connection %u joined to %s", call->number, sock_peer(target_fd).text);
        relay_join(&client->relays, call->fd, target_fd, call->number);
        call->fd = -1;
    }
    forget_call(call);
}

static void on_connection(void *owner, int fd)
{
    struct client *client = owner;
    struct call *call = calloc(1, sizeof *call);

    if (call == NULL) {
        complain("lost a connection: %s", errno_text());
        close(fd);
        return;
    }
    *call = (struct call){.client = client, .fd = fd, .number = ++client->connections};
    list_append(&client->calls, &call->place);
    say("connection %u opened from %s", call->number, sock_peer(fd).text);
    dial_start(&call->dial, client->loop, &client->target, DIAL_MS, on_target_dialed, call);
}

static void on_done(void *owner, const struct relay_report *report)
{
    (void)owner;
    relay_say_done("connection", report);
}

static int open_client(struct client *client)
{
    struct options *options = &client->options;

    client->loop = loop_new();
    if (client->loop == NULL || target_lookup(&client->target, client->loop) != 0)
        return -1;
    list_init(&client->calls);
    relays_init(&client->relays, client->loop, on_done, client);
    return listener_open(&client->listener, client->loop, &options->listen, "connections", on_connection,
                         client);
}

static void close_client(struct client *client)
{
    listener_close(&client->listener);
    while (!list_is_empty(&client->calls))
        forget_call((struct call *)client->calls.next);
    relays_close(&client->relays);
    target_clear(&client->target);
    loop_free(client->loop);
}

static const char about[] = "Joins every connection that it accepts with one of its own to TARGET.";

int main(int argc, char **argv)
{
    struct client client = {.options.listen.port = 54286};
    struct usage usage = {"client", about, OPT_LISTEN_PORT | OPT_BIND, "[TARGET]"};
    int status = options_parse(&client.options, &usage, argc, argv);
    const char *target =
        client.options.arguments[0] != NULL ? client.options.arguments[0] : "localhost:54287";

    if (status != OPTIONS_OK)
        return status;
    if (target_parse(&client.target, target, 0) != 0)
        return options_wrong("TARGET can't be \"%s\": it is a port, host:port, or the path of a Unix socket",
                             target);
    status = open_client(&client) == 0 ? loop_run(client.loop) : 1;
    close_client(&client);
    return status;
}
