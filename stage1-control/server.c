/* Stage 1, server: lets one client open the control connection, and answers its pings. */
#include <string.h>
#include <unistd.h>

#include "../common/line.h"
#include "../common/listener.h"
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/newcomers.h"
#include "../common/options.h"
#include "../common/sock.h"

struct server {
    struct loop *loop;
    struct options options;
    struct listener control;
    struct newcomers newcomers; /* who have not said yet who they are */
    struct line_conn client;    /* the control connection; open while has_client */
    bool has_client;
};

static void on_client_gone(void *owner, const char *why)
{
    struct server *server = owner;

    say("client gone: %s", why);
    line_close(&server->client);
    server->has_client = false;
}

/* ping -> pong */
static void on_client_line(void *owner, const char *line)
{
    struct server *server = owner;

    if (strcmp(line, "ping") != 0) {
        on_client_gone(server, "said something that is not in the protocol of this stage");
        return;
    }
    line_send(&server->client, "pong");
}

/* welcome */
static void welcome(struct server *server, int fd)
{
    struct loop *loop = server->loop;
    int silence_ms = 3 * server->options.heartbeat_ms;

    if (line_open(&server->client, loop, fd, silence_ms, on_client_line, on_client_gone, server) != 0) {
        complain("cannot talk to the client: %s", errno_text());
        close(fd);
        return;
    }
    server->has_client = true;
    line_send(&server->client, "welcome");
    say("step 2: client opened the control connection from %s", sock_peer(fd).text);
}

static void turn_away(int fd, const char *why)
{
    complain("turned away %s: %s", sock_peer(fd).text, why);
    close(fd);
}

/* hello -> welcome | busy */
static void on_hello(void *owner, int fd, const char *line)
{
    struct server *server = owner;

    if (strcmp(line, "hello") != 0) {
        turn_away(fd, "said something else than `hello` on the control port");
    } else if (server->has_client) {
        complain("another client, %s: told that we are busy", sock_peer(fd).text);
        sock_refuse(fd, "busy");
    } else {
        welcome(server, fd);
    }
}

static void on_control(void *owner, int fd)
{
    struct server *server = owner;

    newcomers_add(&server->newcomers, fd, "the control port", on_hello, server);
}

static int open_server(struct server *server)
{
    struct options *options = &server->options;

    server->loop = loop_new();
    if (server->loop == NULL)
        return -1;
    newcomers_init(&server->newcomers, server->loop);
    if (listener_open(&server->control, server->loop, &options->control, "the client", on_control, server) !=
        0)
        return -1;
    say("step 1: waiting for the client");
    return 0;
}

static void close_server(struct server *server)
{
    listener_close(&server->control);
    newcomers_clear(&server->newcomers);
    line_close(&server->client);
    loop_free(server->loop);
}

static const char about[] = "Lets one client at a time open the control connection, and answers its pings.";

int main(int argc, char **argv)
{
    struct server server = {0};
    struct usage usage = {"server", about, OPT_CONTROL_PORT | OPT_BIND | OPT_HEARTBEAT, ""};
    int status = options_parse(&server.options, &usage, argc, argv);

    if (status != OPTIONS_OK)
        return status;
    status = open_server(&server) == 0 ? loop_run(server.loop) : 1;
    close_server(&server);
    return status;
}
