#include "roles.h"

#include <stdio.h>
#include <string.h>

const char first_token[] = "00112233445566778899aabbccddeeff";
const char second_token[] = "ffeeddccbbaa99887766554433221100";

/* ---- a server under test ---- */

/* What follows the name `server`, but for the test's own options. */
static const char *usual_options(void)
{
    return stage == 1 ? "-c 0" : stage == 2 ? "-c 0 -u 0 -x 0" : "-c 0 -u 0 -x 0 --spares 0";
}

static struct server server_of(struct program *program)
{
    struct server server = {.program = program};

    server.control_port = port_for(server.program, "the client");
    if (stage >= 2) {
        server.public_port = port_for(server.program, "users");
        server.proxy_port = port_for(server.program, "proxy connections");
    }
    return server;
}

struct server start_server(const char *options)
{
    return server_of(run("server", "%s %s", usual_options(), options));
}

struct server start_server_limited(int soft, int hard, const char *options)
{
    return server_of(run_limited(soft, hard, "server", "%s %s", usual_options(), options));
}

void greet(struct server *server, struct peer *client)
{
    say(client, "hello\n");
    if (stage == 1) {
        expect_line(client, "welcome");
    } else {
        const char *line = next_line(client, "`welcome TOKEN`");
        char expected[40] = "";

        if (stage == 3)
            snprintf(expected, sizeof expected, " %d", server->public_port);
        if (strncmp(line, "welcome ", 8) != 0 || strspn(line + 8, "0123456789abcdefABCDEF") != TOKEN_DIGITS ||
            strcmp(line + 8 + TOKEN_DIGITS, expected) != 0)
            unmet(
                server->program,
                stage == 3
                    ? "`welcome TOKEN PORT` at the client, TOKEN being 32 hex digits and PORT that for users"
                    : "`welcome TOKEN` at the client, TOKEN being 32 hex digits",
                "`%s` came", line);
        snprintf(server->token, sizeof server->token, "%.*s", TOKEN_DIGITS, line + 8);
    }
}

struct peer open_control(struct server *server)
{
    struct peer client = dial("the client", server->program, server->control_port);

    greet(server, &client);
    return client;
}

void expect_pong(struct peer *client)
{
    say(client, "ping\n");
    expect_line(client, "pong");
}

void expect_pong_among_requests(struct peer *client)
{
    const char *line;

    say(client, "ping\n");
    while (strcmp(line = next_line(client, "`pong`"), "pong") != 0)
        if (strcmp(line, "create_proxy") != 0)
            unmet(client->with, "`pong` at the client", "`%s` came", line);
}

static void knock(struct server *server, int port)
{
    struct peer stranger = dial("a stranger", server->program, port);

    say(&stranger, "knock knock\n");
    expect_closed(&stranger, "to be closed after a first line that is none of the protocol's");
}

void await_turn(struct server *server)
{
    knock(server, server->control_port);
}

void await_proxy_turn(struct server *server)
{
    knock(server, server->proxy_port);
}

void await_next_look(struct peer *client)
{
    if (comes_within(client, 1.1))
        expect_nothing_yet(client);
}

struct peer open_public(struct server *server, struct peer *client, const char *name)
{
    struct peer user = dial(name, server->program, server->public_port);

    expect_line(client, "create_proxy");
    return user;
}

struct peer open_proxy(struct server *server, const char *name)
{
    struct peer proxy = dial(name, server->program, server->proxy_port);

    say(&proxy, "proxy %s\n", server->token);
    return proxy;
}

void expect_start(struct peer *proxy)
{
    char address[40];
    int port;

    if (stage != 3)
        return;
    const char *line = next_line(proxy, "`start ADDRESS PORT`");
    if (sscanf(line, "start %39s %d", address, &port) != 2 || strcmp(address, "127.0.0.1") != 0)
        unmet(proxy->with, "`start ADDRESS PORT` with the user's address, 127.0.0.1, and port", "`%s` came",
              line);
}

/* ---- a client under test ---- */

struct client start_client(const char *options)
{
    return start_client_at(open_door("the server's control port"), open_door("the server's proxy port"),
                           open_door("the local app"), options);
}

struct client start_client_at(struct door control, struct door proxy, struct door app, const char *options)
{
    struct client client = {.control = control, .proxy = proxy, .app = app};

    if (stage == 1)
        client.program = run("client", "-c %d %s 127.0.0.1", client.control.port, options);
    else if (stage == 2)
        client.program =
            run("client", "-c %d -x %d %s 127.0.0.1", client.control.port, client.proxy.port, options);
    else
        client.program = run("client", "-c %d -x %d %s 127.0.0.1:%d 127.0.0.1", client.control.port,
                             client.proxy.port, options, client.app.port);
    client.control.with = client.proxy.with = client.app.with = client.program;
    return client;
}

void expect_hello(struct client *client)
{
    client->server = expect_caller(&client->control, "the server");
    expect_line(&client->server, "hello");
}

void welcome(struct client *client, const char *token)
{
    if (stage == 1)
        say(&client->server, "welcome\n");
    else if (stage == 2)
        say(&client->server, "welcome %s\n", token);
    else
        say(&client->server, "welcome %s 60624\n", token);
}

struct client start_welcome_client(const char *options)
{
    struct client client = start_client(options);

    expect_hello(&client);
    welcome(&client, first_token);
    return client;
}

void answer_ping(struct client *client)
{
    expect_line(&client->server, "ping");
    say(&client->server, "pong\n");
}

struct peer expect_proxy(struct client *client, const char *token, const char *name)
{
    struct peer proxy = expect_caller(&client->proxy, name);
    char line[TOKEN_DIGITS + 7];

    snprintf(line, sizeof line, "proxy %s", token);
    expect_line(&proxy, line);
    return proxy;
}

struct peer ask_for_proxy(struct client *client, const char *token, const char *name)
{
    say(&client->server, "create_proxy\n");
    return expect_proxy(client, token, name);
}

/* ---- joined pairs ---- */

enum way { BY_SERVER, BY_CLIENT, BY_BOTH, BY_BOTH_TO_SOCKET };

static enum way way_of(int way)
{
    return stage == 0 ? BY_CLIENT : (enum way)way;
}

int count_ways(void)
{
    return stage == 3 ? 4 : 1;
}

int count_ways_with_resets(void)
{
    return stage == 3 ? 3 : 1;
}

static void start_programs(enum way way, struct pair *pair)
{
    if (stage == 0) {
        pair->client.app = open_door("TARGET");
        pair->client.program = run("client", "-p 0 127.0.0.1:%d", pair->client.app.port);
        pair->client.control.port = port_for(pair->client.program, "connections");
        pair->program = pair->client.program;
    } else if (way == BY_SERVER) {
        pair->server = start_server("");
        pair->control = open_control(&pair->server);
        pair->program = pair->server.program;
    } else if (way == BY_CLIENT) {
        pair->client = start_welcome_client("");
        pair->program = pair->client.program;
    } else {
        char local[64];

        pair->server = start_server("");
        pair->client.app = way == BY_BOTH ? open_door("the local app") : open_door_unix("the local app");
        snprintf(local, sizeof local, "%d", pair->client.app.port);
        pair->client.program = run("client", "-c %d -x %d %s 127.0.0.1", pair->server.control_port,
                                   pair->server.proxy_port, way == BY_BOTH ? local : pair->client.app.path);
        pair->program = pair->server.program;
    }
    pair->client.app.with = pair->client.program;
}

struct pair join_another(int number, const struct pair *first)
{
    enum way way = way_of(number);
    struct pair pair = *first;

    if (stage == 0) {
        pair.user = dial("the user", pair.program, pair.client.control.port);
        pair.app = expect_caller(&pair.client.app, "TARGET");
    } else if (way == BY_SERVER) {
        pair.user = open_public(&pair.server, &pair.control, "the user");
        pair.app = open_proxy(&pair.server, "the proxy connection");
        expect_start(&pair.app);
    } else if (way == BY_CLIENT) {
        pair.user = ask_for_proxy(&pair.client, first_token, "the proxy connection");
        say(&pair.user, START);
        pair.app = expect_caller(&pair.client.app, "the local app");
    } else {
        pair.user = dial("the user", pair.program, pair.server.public_port);
        pair.app = expect_caller(&pair.client.app, "the local app");
    }
    return pair;
}

struct pair join(int way)
{
    struct pair pair = {0};

    start_programs(way_of(way), &pair);
    return join_another(way, &pair);
}
