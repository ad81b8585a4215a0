/*
 * roles: the parts that a test plays, in the protocol's words. Where stages differ, these functions know it.
 */
#ifndef TESTS_ROLES_H
#define TESTS_ROLES_H

#include "harness.h"

/* The stage under test, 0 to 3; each test_stageN.c says it. */
extern const int stage;

enum { TOKEN_DIGITS = 32 };

/* ---- a server under test: the test plays the client, users and strangers ---- */

struct server {
    struct program *program;
    int control_port, public_port, proxy_port; /* the last two: from stage 2 on */
    char token[TOKEN_DIGITS + 1];              /* of the newest session */
};

/* Starts it on free ports; from stage 3 on without spares, unless options ask for some. */
struct server start_server(const char *options);
/* The same with limits on descriptors: a soft and a hard one. */
struct server start_server_limited(int soft, int hard, const char *options);

/* Opens the control connection: `hello`, `welcome`. */
struct peer open_control(struct server *server);
/* The same, for a connection that is open already. */
void greet(struct server *server, struct peer *client);
/* Sees to it that the server has done all that came before: `ping`, and the very next line is `pong`. */
void expect_pong(struct peer *client);
/* The same, with any number of `create_proxy` ahead of it. */
void expect_pong_among_requests(struct peer *client);
/* Makes the server turn once more to what has come, by the fate of a stranger. */
void await_turn(struct server *server);
void await_proxy_turn(struct server *server); /* of one at the proxy port */

/* A user comes, and the server has noticed: it asks the client for a proxy connection. */
struct peer open_public(struct server *server, struct peer *client, const char *name);
/* Opens a proxy connection: `proxy TOKEN`. */
struct peer open_proxy(struct server *server, const char *name);
/* A server with `--heartbeat 2` looks, when there is a ping, for proxy connections that got lost: once a second at most. */
void await_next_look(struct peer *client);
/* The proxy connection is joined to a user now; in stage 3 `start` says so. */
#define START "start 192.0.2.7 41234\n" /* what a server says to bring a user */
void expect_start(struct peer *proxy);

/* ---- a client under test: the test plays the server, and the local app ---- */

struct client {
    struct program *program;
    struct door control, proxy, app; /* the last two: from stage 2, from stage 3 on */
    struct peer server;              /* the test's end of the control connection */
};

extern const char first_token[], second_token[];

/* Starts it; the server that it is to find is there already. */
struct client start_client(const char *options);
/* The same with doors of your own. */
struct client start_client_at(struct door control, struct door proxy, struct door app, const char *options);
/* The client opens the control connection and says `hello`. */
void expect_hello(struct client *client);
/* Answers it: `welcome`, from stage 2 on with the token. */
void welcome(struct client *client, const char *token);
/* All three: the client is started, and welcome. */
struct client start_welcome_client(const char *options);
/* Answers pings until the client has done all that came before. */
void answer_ping(struct client *client);
/* Asks for a proxy connection and takes it: `create_proxy`, `proxy TOKEN`. */
struct peer ask_for_proxy(struct client *client, const char *token, const char *name);
struct peer expect_proxy(struct client *client, const char *token, const char *name);

/* ---- two connections joined by the programs under test ---- */

struct pair {
    struct peer user, app; /* whoever plays them */
    struct program *program;
    struct server server; /* whichever is under test */
    struct client client;
    struct peer control;
};

/* The ways through which this stage joins two connections: stage 0 the client; stage 2 the server; stage
 * 3 the server, the client, or both, and both with the local app at a Unix socket. Returns how many; way counts from
 * 0. */
int count_ways(void);
/* Those among them, from the first, that know a reset: a Unix socket just ends. */
int count_ways_with_resets(void);
struct pair join(int way);
/* Another pair through the same programs. */
struct pair join_another(int way, const struct pair *first);

#endif
