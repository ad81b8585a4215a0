/* What our own programs of stage 3 do where the protocol leaves them free: the words that they find for what goes wrong and for
 * what is to be done about it, and how many spares they keep. The other tests hold for any that keep to the protocol. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "spec.h"

const int stage = 3;

/* ---- the command line ---- */

static void test_what_local_and_server_may_be_is_told_to_who_got_them_wrong(void)
{
    static const char *const locals[] = {"localhost", "http://localhost:8080", "app", "localhost:http"};

    for (size_t i = 0; i < sizeof locals / sizeof locals[0]; i++) {
        struct program *client = run("client", "%s", locals[i]);

        expect_exit(client, 2);
        expect_log(client, "LOCAL can't be \".*\": it is a port, host:port, or the path of a Unix socket",
                   "the log to say what LOCAL may be");
    }
    struct program *client = run("client", "8080 http://example.org");
    expect_exit(client, 2);
    expect_log(client, "SERVER can't be \".*\": it is a host, or host:port",
               "the log to say what SERVER may be");
}

static void test_a_port_that_is_taken_is_told_with_the_option_for_another(void)
{
    static const char options[] = "cux";
    struct door taken = open_door("a port that is taken");

    for (int i = 0; i < 3; i++) {
        char ports[60] = "", text[60];

        for (int j = 0; j < 3; j++)
            snprintf(ports + strlen(ports), 20, "-%c %d ", options[j], i == j ? taken.port : 0);
        struct program *server = run("server", "%s", ports);
        expect_exit(server, 1);
        snprintf(text, sizeof text, "port %d: .* choose another port with -%c$", taken.port, options[i]);
        expect_log(server, text, "the log to name the option that chooses another port");
    }
}

/* ---- descriptors ---- */

static void test_too_few_descriptors_for_anybody_are_told_at_the_start(void)
{
    struct door control = hold_port("the server's control port");

    for (int i = 0; i < 2; i++) {
        struct program *program = i == 0 ? run_limited(20, 20, "server", "-c 0 -u 0 -x 0")
                                         : run_limited(20, 20, "client", "-c %d 1 127.0.0.1", control.port);

        expect_log(program, "20 descriptors are too few for a user; `ulimit -n 1024` allows more",
                   "the log to say that nobody can be served, and what to do");
    }
    struct program *enough = run_limited(64, 64, "server", "-c 0 -u 0 -x 0");
    expect_log(enough, "step 1", "the server to be there");
    if (has_logged(enough, "too few"))
        unmet(enough, "no word of too few descriptors where they are enough", "there is one");
}

static void test_a_full_server_names_who_fills_it(void)
{
    enum { USERS = 40 };
    struct server server = start_server_limited(64, 64, "");
    struct peer users[USERS];

    for (int i = 0; i < USERS; i++)
        users[i] = dial("one user of many", server.program, server.public_port);
    expect_log(server.program,
               "full: .* no more than these ([0-9]+) users; ([0-9]+) of them are from 127\\.0\\.0\\.1$",
               "the log to say that the server is full, and who holds the connections");
    (void)users;
}

/* ---- server and client that don't fit ---- */

static void test_heartbeats_that_do_not_fit_are_named_on_both_sides(void)
{
    struct server server = start_server("--heartbeat 0.3");
    struct program *client =
        run("client", "--heartbeat 60 -c %d -x %d 1 127.0.0.1", server.control_port, server.proxy_port);

    expect_log(server.program, "client gone: .*--heartbeat", "the server to name --heartbeat");
    expect_log(client, "lost the server: .*--heartbeat", "the client to name --heartbeat");
}

static void expect_denied(const char *server_has, const char *client_has, const char *server_says,
                          const char *client_says)
{
    setenv("TUNNEL_SECRET", server_has, 1);
    if (server_has[0] == '\0')
        unsetenv("TUNNEL_SECRET");
    struct server server = start_server("");
    setenv("TUNNEL_SECRET", client_has, 1);
    if (client_has[0] == '\0')
        unsetenv("TUNNEL_SECRET");
    struct program *client = run("client", "-c %d -x %d 1 127.0.0.1", server.control_port, server.proxy_port);
    expect_exit(client, 1);
    expect_log(client, client_says, "the client to log what is wrong with the secret");
    expect_log(server.program, server_says, "the server to log what is wrong with the secret");
    unsetenv("TUNNEL_SECRET");
}

static void test_what_is_wrong_with_the_secret_is_told_on_both_sides(void)
{
    expect_denied("sesame", "guess", "a client with the wrong secret, .*: denied",
                  "denied: the server has another secret, or none");
    expect_denied("", "guess", "a client with a secret, while the server has none, .*: denied",
                  "denied: the server has another secret, or none");
    expect_denied("sesame", "", "a client without a secret, .*: denied",
                  "denied: the server has a secret, and this client has none \\(--secret-file\\)");
}

/* ---- all is well ---- */

static void test_a_client_that_is_let_in_says_where_users_go_and_whom_they_reach(void)
{
    struct client client = start_welcome_client("");
    char text[100];

    snprintf(text, sizeof text,
             "users who come to port 60624 of 127\\.0\\.0\\.1 reach 127\\.0\\.0\\.1 port %d$",
             client.app.port);
    expect_log(client.program, text, "the log to say where users go, and to which app they come");
}

static void test_a_proxy_connection_that_cannot_be_opened_is_told_with_the_address_that_was_dialed(void)
{
    struct door proxy = hold_port("the server's proxy port");
    struct client client =
        start_client_at(open_door("the server's control port"), proxy, open_door("the local app"), "");
    char text[100];

    expect_hello(&client);
    welcome(&client, first_token);
    say(&client.server, "create_proxy\n");
    snprintf(text, sizeof text, "cannot open a proxy connection to 127\\.0\\.0\\.1 port %d: ", proxy.port);
    expect_log(client.program, text, "the client to log where it cannot open a proxy connection");
}

/* Whoever reached the control port before the stop is let in, as users may wait. The app may be told their port. */
static void test_a_client_that_is_let_in_while_the_server_stops_is_told_where_users_came_to(void)
{
    struct server server = start_server("");
    struct peer user = dial("a user that waits", server.program, server.public_port);
    struct peer control = dial("the client", server.program, server.control_port);

    say(&user, "x");
    expect_log(server.program, "step 3", "the server to log that the user is there");
    send_signal(server.program, SIGTERM);
    expect_log(server.program, "stopping", "the server to log that it is stopping");
    greet(&server, &control);
    expect_line(&control, "create_proxy");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_start(&proxy);
    expect_bytes(&proxy, "x");
}

static void test_spares_are_announced_to_who_wants_to_know_alone(void)
{
    for (int verbose = 0; verbose < 2; verbose++) {
        struct server server = start_server(verbose ? "--spares 3 -v" : "--spares 3");
        struct peer control = open_control(&server);
        struct client client = start_welcome_client(verbose ? "-v" : "");

        for (int i = 0; i < 3; i++) {
            expect_line(&control, "create_proxy");
            open_proxy(&server, "a spare");
            ask_for_proxy(&client, first_token, "a spare");
        }
        await_proxy_turn(&server);
        if (has_logged(server.program, "step 4|spare") != verbose)
            unmet(server.program, "spares to be in the log with -v, and only then", "it was otherwise");
        if (has_logged(client.program, "step [45]") != verbose)
            unmet(client.program, "spares to be in the log with -v, and only then", "it was otherwise");
    }
}

/* ---- as many spares as are needed ---- */

static void expect_requests(struct peer *client, int count)
{
    for (int i = 0; i < count; i++)
        expect_line(client, "create_proxy");
}

static void call_the_roll(struct peer *client)
{
    await_next_look(client);
    say(client, "ping\n");
    expect_line(client, "pong");
}

static void test_spares_follow_the_demand_and_become_fewer_again(void)
{
    enum { SPARES = 2, USERS = 3 };
    struct server server = start_server("--spares 2 --heartbeat 2");
    struct peer client = open_control(&server), proxies[USERS], spares[SPARES + USERS];

    expect_requests(&client, SPARES);
    for (int i = 0; i < USERS; i++) {
        dial("a user who finds no spare", server.program, server.public_port);
        expect_line(&client, "create_proxy");
    }
    for (int i = 0; i < USERS; i++) {
        proxies[i] = open_proxy(&server, "a user's proxy connection");
        expect_start(&proxies[i]);
    }
    for (int i = 0; i < SPARES + USERS; i++) {
        if (i == SPARES) {
            call_the_roll(&client);
            expect_requests(&client, USERS);
            expect_pong(&client); /* and no more */
        }
        spares[i] = open_proxy(&server, "a spare");
        await_proxy_turn(&server);
    }
    for (int i = 0; i < USERS; i++) {
        expect_nothing_yet(&spares[i]);
        call_the_roll(&client);
        expect_closed(&spares[i], "nobody needed it");
    }
    call_the_roll(&client);
    expect_pong(&client);
    expect_nothing_yet(&spares[USERS]); /* --spares stay */
}

static void test_users_who_wait_one_by_one_bring_one_more_spare(void)
{
    struct server server = start_server("--spares 2 --heartbeat 2");
    struct peer client = open_control(&server);

    expect_requests(&client, 2); /* which don't come */
    for (int i = 0; i < 3; i++) {
        dial("a user", server.program, server.public_port);
        expect_line(&client, "create_proxy");
        struct peer proxy = open_proxy(&server, "the user's proxy connection");
        expect_start(&proxy);
    }
    call_the_roll(&client);
    expect_requests(&client, 1);
    expect_pong(&client);
}

static void test_more_spares_leave_descriptors_for_users(void)
{
    enum { SPARES = 2, A_QUARTER = 8, USERS = 9 }; /* of 64 descriptors, 32 of which are for connections */
    struct server server = start_server_limited(64, 64, "--spares 2 --heartbeat 2");
    struct peer client = open_control(&server);

    expect_requests(&client, SPARES);
    for (int i = 0; i < USERS; i++) {
        dial("a user who finds no spare", server.program, server.public_port);
        expect_line(&client, "create_proxy");
    }
    call_the_roll(&client);
    expect_requests(&client, A_QUARTER - SPARES);
    expect_pong(&client);
}

static void test_without_spares_demand_brings_none(void)
{
    struct server server = start_server("--spares 0 --heartbeat 2");
    struct peer client = open_control(&server);

    dial("a user", server.program, server.public_port);
    expect_line(&client, "create_proxy");
    struct peer proxy = open_proxy(&server, "the user's proxy connection");
    expect_start(&proxy);
    call_the_roll(&client);
    expect_pong(&client);
}

/* Behind a firewall that cuts what it does not know, for example. */
static void test_spares_that_die_as_soon_as_they_come_are_not_replaced_without_end(void)
{
    struct server server = start_server("--spares 2 --heartbeat 60");
    struct peer client = open_control(&server);

    for (int i = 0; i < 2 + 2; i++) { /* each is replaced once, until the next heartbeat */
        expect_line(&client, "create_proxy");
        struct peer spare = open_proxy(&server, "a spare that dies");
        await_proxy_turn(&server);
        leave(&spare);
    }
    await_proxy_turn(&server);
    expect_pong(&client);
    expect_pong(&client);
}

static void test_a_server_that_stops_wants_no_spares_any_more(void)
{
    struct server server = start_server("--spares 2 --heartbeat 2");
    struct peer client = open_control(&server);

    expect_line(&client, "create_proxy");
    expect_line(&client, "create_proxy");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    struct peer user = dial("the user", server.program, server.public_port);
    expect_start(&proxy);
    struct peer spare = open_proxy(&server, "the spare");
    expect_line(&client, "create_proxy");
    await_proxy_turn(&server);
    send_signal(server.program, SIGTERM);
    expect_closed(&spare, "to be closed, as no more users come");
    expect_pong(&client);
    await_next_look(&client);
    expect_pong(&client);
    expect_pong(&client);
    exchange(&user, &proxy, 1000, 1000);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        SPEC(test_what_local_and_server_may_be_is_told_to_who_got_them_wrong),
        SPEC(test_a_port_that_is_taken_is_told_with_the_option_for_another),
        SPEC(test_too_few_descriptors_for_anybody_are_told_at_the_start),
        SPEC(test_a_full_server_names_who_fills_it),
        SPEC(test_heartbeats_that_do_not_fit_are_named_on_both_sides),
        SPEC(test_what_is_wrong_with_the_secret_is_told_on_both_sides),
        SPEC(test_a_client_that_is_let_in_says_where_users_go_and_whom_they_reach),
        SPEC(test_a_proxy_connection_that_cannot_be_opened_is_told_with_the_address_that_was_dialed),
        SPEC(test_a_client_that_is_let_in_while_the_server_stops_is_told_where_users_came_to),
        SPEC(test_spares_are_announced_to_who_wants_to_know_alone),
        SPEC(test_spares_follow_the_demand_and_become_fewer_again),
        SPEC(test_users_who_wait_one_by_one_bring_one_more_spare),
        SPEC(test_more_spares_leave_descriptors_for_users),
        SPEC(test_without_spares_demand_brings_none),
        SPEC(test_spares_that_die_as_soon_as_they_come_are_not_replaced_without_end),
        SPEC(test_a_server_that_stops_wants_no_spares_any_more),
    };

    return spec_run_all(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
