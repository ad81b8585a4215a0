/* Stage 0, server: an echo server. It pipes every connection back into itself. */
#include "../common/listener.h"
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/options.h"
#include "../common/relay.h"
#include "../common/sock.h"

struct server {
    struct loop *loop;
    struct options options;
    struct listener listener;
    struct relays relays; /* the connections, each joined with itself */
    unsigned connections; /* so far */
};

static void on_connection(void *owner, int fd)
{
    struct server *server = owner;

    say("connection %u opened from %s", ++server->connections, sock_peer(fd).text);
    relay_echo(&server->relays, fd, server->connections);
}

static void on_done(void *owner, const struct relay_report *report)
{
    (void)owner;
    relay_say_done("connection", report);
}

static int open_server(struct server *server)
{
    struct options *options = &server->options;

    server->loop = loop_new();
    if (server->loop == NULL)
        return -1;
    relays_init(&server->relays, server->loop, on_done, server);
    return listener_open(&server->listener, server->loop, &options->listen, "connections", on_connection,
                         server);
}

static void close_server(struct server *server)
{
    listener_close(&server->listener);
    relays_close(&server->relays);
    loop_free(server->loop);
}

static const char about[] = "Echoes: pipes every connection back into itself.";

int main(int argc, char **argv)
{
    struct server server = {.options.listen.port = 54287};
    struct usage usage = {"server", about, OPT_LISTEN_PORT | OPT_BIND, ""};
    int status = options_parse(&server.options, &usage, argc, argv);

    if (status != OPTIONS_OK)
        return status;
    status = open_server(&server) == 0 ? loop_run(server.loop) : 1;
    close_server(&server);
    return status;
}
