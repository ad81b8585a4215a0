/* Users and proxy connections: who waits for whom, who meets whom, and who never does. */
#include "spec.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* ---- the server; the test plays the client and the users ---- */

void test_the_token_is_32_hex_digits_and_new_in_every_session(void)
{
    enum { SESSIONS = 8 };
    struct server server = start_server("");
    char tokens[SESSIONS][TOKEN_DIGITS + 1];

    for (int i = 0; i < SESSIONS; i++) {
        struct peer client = open_control(&server); /* which checks the digits */
        int same = 0;

        memcpy(tokens[i], server.token, sizeof tokens[i]);
        for (int j = 0; j < i; j++)
            if (memcmp(tokens[i], tokens[j], 8) == 0) /* of eight random digits already, all are different */
                unmet(server.program, "a new random token in every session", "`%s` came after `%s`",
                      tokens[i], tokens[j]);
        for (int j = 0; j < TOKEN_DIGITS; j++)
            same += tokens[i][j] == tokens[0][j];
        if (i > 0 && same > 24)
            unmet(server.program, "tokens of random digits", "`%s` came after `%s`", tokens[i], tokens[0]);
        leave(&client);
        await_turn(&server);
    }
    for (int j = 0; j < TOKEN_DIGITS; j++) {
        int same = 0;

        for (int i = 0; i < SESSIONS; i++)
            same += tokens[i][j] == tokens[0][j];
        if (same == SESSIONS)
            unmet(server.program, "all digits of the token to be random",
                  "digit %d was `%c` in each of %d sessions", j + 1, tokens[0][j], SESSIONS);
    }
}

void test_the_server_asks_for_one_proxy_connection_per_user(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);

    for (int i = 0; i < 5; i++) {
        await_turn(&server);
        expect_nothing_yet(&client); /* nothing is asked for before a user comes */
        open_public(&server, &client, "a user");
    }
    expect_pong(&client);
}

/* The proxy connection is the user's: each hears the other. */
static void expect_joined(struct peer *user, struct peer *proxy)
{
    expect_start(proxy);
    say(user, "%s asks", user->name);
    char question[100], answer[100];
    snprintf(question, sizeof question, "%s asks", user->name);
    snprintf(answer, sizeof answer, "%s answers", proxy->name);
    expect_bytes(proxy, question);
    say(proxy, "%s", answer);
    expect_bytes(user, answer);
}

/* Whoever can read the log should not be able to take the users over. */
void test_the_token_is_not_in_the_log(void)
{
    struct server server = start_server("-v");
    struct peer control = open_control(&server);
    struct peer user = open_public(&server, &control, "the user");
    struct peer proxy = open_proxy(&server, "the proxy connection");

    expect_joined(&user, &proxy);
    leave(&control);
    await_turn(&server);
    if (strstr(log_of(server.program), server.token) != NULL)
        unmet(server.program, "the token not to be in the server's log", "it is");

    struct client client = start_welcome_client("-v");
    ask_for_proxy(&client, first_token, "a proxy connection");
    leave(&client.server);
    expect_hello(&client);
    if (strstr(log_of(client.program), first_token) != NULL)
        unmet(client.program, "the token not to be in the client's log", "it is");
}

void test_a_proxy_connection_is_joined_to_the_user_that_waits(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);

    for (int i = 0; i < 3; i++) {
        struct peer user = open_public(&server, &client, "the user");
        struct peer proxy = open_proxy(&server, "the proxy connection");

        expect_joined(&user, &proxy);
    }
    expect_pong(&client);
}

void test_users_are_served_first_come_first_served(void)
{
    static const char *const names[] = {"the first user", "the second user", "the third user",
                                        "the fourth user"};
    struct server server = start_server("");
    struct peer client = open_control(&server), users[4];

    for (int i = 0; i < 4; i++)
        users[i] = open_public(&server, &client, names[i]);
    for (int i = 0; i < 4; i++) {
        struct peer proxy = open_proxy(&server, "the proxy connection");

        expect_joined(&users[i], &proxy);
    }
}

void test_proxy_connections_are_used_first_come_first_served(void)
{
    static const char *const names[] = {"the first proxy connection", "the second proxy connection",
                                        "the third proxy connection"};
    struct server server = start_server("");
    struct peer client = open_control(&server), proxies[3];

    for (int i = 0; i < 3; i++) {
        proxies[i] = open_proxy(&server, names[i]);
        await_proxy_turn(&server);
    }
    for (int i = 0; i < 3; i++) {
        struct peer user = dial("the user", server.program, server.public_port);

        expect_joined(&user, &proxies[i]);
    }
    leave(&client);
}

void test_what_a_user_says_while_it_waits_is_not_lost(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");
    size_t size = stuff(&user);
    struct peer proxy = open_proxy(&server, "the proxy connection");

    expect_start(&proxy);
    finish(&user);
    expect_stuffed(&proxy, size);
    expect_end(&proxy);
}

void test_the_proxy_line_may_come_byte_by_byte(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");
    struct peer proxy = dial("the proxy connection", server.program, server.proxy_port);
    char line[TOKEN_DIGITS + 8];

    snprintf(line, sizeof line, "proxy %s\n", server.token);
    for (const char *c = line; *c != '\0'; c++) {
        expect_nothing_yet(&proxy);
        say_bytes(&proxy, c, 1);
        await_turn(&server); /* so each byte comes alone */
    }
    expect_joined(&user, &proxy);
}

void test_bytes_right_behind_the_proxy_line_are_for_the_user(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");
    struct peer proxy = dial("the proxy connection", server.program, server.proxy_port);

    say(&proxy, "proxy %s\nproxy %s\nand more", server.token, server.token);
    expect_bytes(&user, "proxy ");
    expect_bytes(&user, server.token);
    expect_bytes(&user, "\nand more");
    expect_joined(&user, &proxy);
}

/* It is closed, and the user that waits hears nothing of it. */
static void expect_turned_away(struct server *server, const char *format, const char *token)
{
    struct peer stranger = dial("a proxy connection of nobody", server->program, server->proxy_port);

    say(&stranger, format, token);
    expect_closed(&stranger, "to be closed for a wrong token");
}

void test_a_wrong_token_never_meets_a_user(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");
    char wrong[TOKEN_DIGITS + 2];
    int64_t began = now_ms();

    for (int i = 0; i < TOKEN_DIGITS; i++) { /* one digit wrong */
        snprintf(wrong, sizeof wrong, "%s", server.token);
        wrong[i] = wrong[i] == '0' ? '1' : '0';
        expect_turned_away(&server, "proxy %s\n", wrong);
    }
    for (int i = 0; i < TOKEN_DIGITS; i += 5) { /* too few of them */
        snprintf(wrong, sizeof wrong, "%.*s", i, server.token);
        expect_turned_away(&server, "proxy %s\n", wrong);
    }
    expect_turned_away(&server, "proxy %s0\n", server.token);
    expect_turned_away(&server, "proxy %s \n", server.token);
    expect_turned_away(&server, "proxy  %s\n", server.token);
    expect_turned_away(&server, "proxy%s\n", server.token);
    expect_turned_away(&server, "%s\n", server.token);
    expect_turned_away(&server, "Proxy %s\n", server.token);
    expect_turned_away(&server, "proxy\n%s", "");
    expect_turned_away(&server, "%s\n", "");
    expect_turned_away(&server, "proxy 00000000000000000000000000000000\n%s", "");
    expect_sooner_than(server.program, began, 4, "all of them to be closed at once");
    expect_nothing_yet(&user);

    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&user, &proxy);
}

void test_an_old_token_never_meets_a_user(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    char old[TOKEN_DIGITS + 1];

    memcpy(old, server.token, sizeof old);
    leave(&client);
    await_turn(&server);
    expect_turned_away(&server, "proxy %s\n", old); /* while no client is there */
    expect_turned_away(&server, "proxy %s\n", "");
    expect_turned_away(&server, "proxy 00000000000000000000000000000000\n%s", "");
    client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");
    expect_turned_away(&server, "proxy %s\n", old); /* while the next one is there */
    expect_nothing_yet(&user);
}

void test_a_proxy_connection_of_a_client_that_has_gone_never_meets_a_user(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server), proxy = open_proxy(&server, "the proxy connection");

    await_proxy_turn(&server);
    expect_nothing_yet(&proxy);
    leave(&client);
    expect_closed(&proxy, "to be closed when its client has gone");
    client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");
    struct peer another = open_proxy(&server, "the next proxy connection");
    expect_joined(&user, &another);
}

void test_each_port_knows_its_own_first_line_only(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");
    struct peer lost = dial("a proxy connection at the control port", server.program, server.control_port);

    say(&lost, "proxy %s\n", server.token);
    expect_closed(&lost, "to be closed, as this is no first line there");
    lost = dial("a client at the proxy port", server.program, server.proxy_port);
    say(&lost, "hello\n");
    expect_closed(&lost, "to be closed, as this is no first line there");
    expect_nothing_yet(&user);
    expect_pong(&client);
}

void test_a_user_that_closes_its_side_while_it_waits_is_served(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");

    say(&user, "question");
    finish(&user);
    await_turn(&server);
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_start(&proxy);
    expect_bytes(&proxy, "question");
    expect_end(&proxy);
    say(&proxy, "answer");
    leave(&proxy);
    expect_bytes(&user, "answer");
    expect_end(&user);
}

void test_a_user_that_is_reset_while_it_waits_loses_its_place(void)
{
    if (resets_are_told_late())
        skip_test("macOS tells nothing of a connection of which nothing is asked");
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer first = open_public(&server, &client, "the first user");
    struct peer second = open_public(&server, &client, "the second user");

    reset(&first);
    await_turn(&server);
    await_proxy_turn(&server);
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&second, &proxy);
}

void test_a_proxy_connection_that_is_reset_while_it_waits_is_not_used(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer first = open_proxy(&server, "the first proxy connection");
    await_proxy_turn(&server);
    struct peer second = open_proxy(&server, "the second proxy connection");
    await_proxy_turn(&server);

    reset(&first);
    await_turn(&server);
    expect_pong_among_requests(&client);
    struct peer user = dial("the user", server.program, server.public_port);
    expect_joined(&user, &second);
}

void test_a_user_is_dropped_when_nobody_serves_it_within_the_wait(void)
{
    struct server server = start_server("--wait 2");
    int64_t began = now_ms();
    struct peer alone = dial("a user while no client is there", server.program, server.public_port);
    struct peer asking = dial("a user that has said everything", server.program, server.public_port);

    say(&asking, "question");
    finish(&asking);
    await_turn(&server);
    struct peer client = open_control(&server);
    expect_line(&client, "create_proxy");
    expect_line(&client, "create_proxy");
    int64_t later = now_ms();
    struct peer late = open_public(&server, &client, "a user that came later");

    expect_closed(&alone, "to be dropped after the wait");
    expect_later_than(server.program, began, 2, "the wait");
    expect_closed(&asking, "to be dropped after the wait");
    expect_closed(&late, "to be dropped after the wait");
    expect_later_than(server.program, later, 2, "the wait");
    /* and the next is served as if nothing had been */
    struct peer user = open_public(&server, &client, "the user");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&user, &proxy);
}

/* Nobody waits in vain, and a load balancer's check does not take this server for alive. */
void test_when_no_client_was_there_for_longer_than_the_wait_users_are_turned_away_at_once(void)
{
    struct server server = start_server("--wait 1.5");
    struct peer first = dial("a user that may hope", server.program, server.public_port);

    expect_closed(&first, "to be dropped after the wait");
    int64_t came = now_ms();
    struct peer late = dial("a user that comes when it is of no use", server.program, server.public_port);
    expect_reset(&late);
    expect_sooner_than(server.program, came, 1.4, "to be turned away at once");

    /* Once a client is there all is as before, when it has just left, too. */
    struct peer client = open_control(&server);
    leave(&client);
    await_turn(&server);
    struct peer user = dial("a user that waits for the next client", server.program, server.public_port);
    await_turn(&server);
    client = open_control(&server);
    expect_line(&client, "create_proxy");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&user, &proxy);
}

void test_users_that_come_while_no_client_is_there_are_served_when_it_comes(void)
{
    struct server server = start_server("");
    struct peer first = dial("the first user", server.program, server.public_port);
    await_turn(&server);
    struct peer second = dial("the second user", server.program, server.public_port);
    await_turn(&server);
    struct peer client = open_control(&server);

    expect_line(&client, "create_proxy");
    expect_line(&client, "create_proxy");
    expect_pong(&client);
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&first, &proxy);
    proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&second, &proxy);
}

void test_users_that_wait_when_the_client_is_lost_are_served_when_it_is_back(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer served = open_public(&server, &client, "a user that was served");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&served, &proxy);
    struct peer first = open_public(&server, &client, "the first user");
    struct peer second = open_public(&server, &client, "the second user");

    reset(&client);
    await_turn(&server);
    client = open_control(&server);
    expect_line(&client, "create_proxy");
    expect_line(&client, "create_proxy");
    expect_pong(&client); /* one request for each that still waits */
    proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&first, &proxy);
    proxy = open_proxy(&server, "the proxy connection");
    expect_joined(&second, &proxy);
}

enum { CROWD = 6000 }; /* so that the requests hardly fit into what is between server and client */

/* 4 s; on a busy machine a crowd takes its time, and nobody shall be given up meanwhile. */
static double crowd_heartbeat(void)
{
    return 0.8 * patience();
}

/* A client that does not read, while users come. */
static struct peer crowd_a_deaf_client(struct server *server, struct peer *users)
{
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < 3 * CROWD)
        skip_test("this system does not let a program have enough descriptors");
    char options[60];
    snprintf(options, sizeof options, "--wait 60 --heartbeat %g", crowd_heartbeat());
    *server = start_server(options);
    struct peer client = dial_narrowly("the client", server->program, server->control_port);
    greet(server, &client);
    for (int i = 0; i < CROWD; i++) {
        users[i] = dial("a user", server->program, server->public_port);
        if (i % 500 == 0)
            say(&client, "ping\n"); /* it is alive */
    }
    await_turn(server);
    return client;
}

/* How often the client is asked for a proxy connection, until the server has nothing more to say. */
static int count_requests(struct peer *client)
{
    int requests = 0;

    while (comes_within(client, 0.55 * crowd_heartbeat()))
        requests += strcmp(next_line(client, "`create_proxy` or `pong`"), "create_proxy") == 0;
    return requests;
}

/* What it had no room for is not lost for good: it is still missing at the next roll-calls, and asked for again. */
void test_no_request_is_lost_when_the_client_does_not_read(void)
{
    static struct peer users[CROWD];
    struct server server;
    struct peer client = crowd_a_deaf_client(&server, users);

    widen(&client);
    count_requests(&client); /* as many as there was room for */
    for (int again = 0; again < CROWD; again += count_requests(&client))
        say(&client, "ping\n");
    for (int i = 0; i < 10; i++) {
        struct peer proxy = open_proxy(&server, "a proxy connection");

        expect_joined(&users[i], &proxy);
    }
}

void test_a_request_that_the_last_client_did_not_take_is_not_made_to_the_next(void)
{
    static struct peer users[CROWD];
    struct server server;
    struct peer client = crowd_a_deaf_client(&server, users);

    reset(&client);
    await_turn(&server);
    client = open_control(&server);
    for (int i = 0; i < CROWD; i++) /* one for each who waits, and no more */
        expect_line(&client, "create_proxy");
    expect_pong(&client);
}

/* The network may lose it, after the client has opened it. */
void test_a_proxy_connection_that_never_comes_is_asked_for_again(void)
{
    struct server server = start_server("--wait 60 --heartbeat 2");
    struct peer client = open_control(&server);
    struct peer first = open_public(&server, &client, "the first user");

    expect_pong(&client); /* it may still come */
    struct peer second = open_public(&server, &client, "the second user");
    struct peer proxy = open_proxy(&server, "the second one's proxy connection");
    expect_joined(&first, &proxy); /* and what comes meanwhile does not hide it */
    await_next_look(&client);
    say(&client, "ping\n");
    expect_line(&client, "pong");
    expect_line(&client, "create_proxy");
    say(&client, "ping\nping\nping\n");
    for (int i = 0; i < 3; i++)
        expect_line(&client, "pong"); /* a flood of pings does not lead to one of requests */
    struct peer again = open_proxy(&server, "the next proxy connection");
    expect_joined(&second, &again);
    expect_pong(&client);
}

void test_waiting_costs_no_processor_time(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer half = dial("a stranger with half a line", server.program, server.control_port);
    struct peer quiet = open_public(&server, &client, "a user that says nothing");
    struct peer talking = open_public(&server, &client, "a user that says something");
    struct peer asking = open_public(&server, &client, "a user that has said everything");

    (void)quiet;
    say(&half, "hel");
    say(&talking, "something");
    say(&asking, "something");
    finish(&asking);
    expect_pong(&client);
    expect_idle(server.program);
}

void test_joined_connections_outlive_the_control_connection(void)
{
    for (int way = 0; way < (stage == 2 ? 1 : 2); way++) { /* through the server; through the client */
        struct pair pair = join(way);

        exchange(&pair.user, &pair.app, 1000, 1000);
        if (way == 0) {
            leave(&pair.control);
            await_turn(&pair.server);
            open_control(&pair.server);
        } else {
            leave(&pair.client.server);
            expect_hello(&pair.client);
        }
        exchange(&pair.user, &pair.app, 100000, 100000);
        finish(&pair.user);
        expect_end(&pair.app);
        exchange(&pair.app, &pair.user, 100000, 0);
        finish(&pair.app);
        expect_end(&pair.user);
    }
}

void test_the_soft_limit_on_descriptors_is_raised(void)
{
    enum { USERS = 60 };
    struct server server = start_server_limited(24, 512, "--heartbeat 60");
    struct peer client = open_control(&server), users[USERS];

    for (int i = 0; i < USERS; i++)
        users[i] = open_public(&server, &client, "a user");
    for (int i = 0; i < USERS; i++) {
        struct peer proxy = open_proxy(&server, "a proxy connection");

        expect_joined(&users[i], &proxy);
    }
}

void test_a_server_without_free_descriptors_goes_on_when_some_are_free(void)
{
    enum { USERS = 100 };
    struct server server = start_server_limited(48, 48, "");
    struct peer client = open_control(&server), users[USERS];

    for (int i = 0; i < USERS; i++)
        users[i] = dial("one user of many", server.program, server.public_port);
    expect_pong_among_requests(&client); /* it has taken as many as it can */
    expect_idle(server.program);
    for (int i = 0; i < USERS; i++)
        reset(&users[i]);
    /* Whatever was asked for those, the control connection lives, and the next user is served. */
    expect_pong_among_requests(&client);
    struct peer user = dial("the user", server.program, server.public_port);
    say(&user, "still there?");
    for (int64_t until = now_ms() + (int64_t)(3 * patience() * 1000); now_ms() < until;) {
        struct peer proxy =
            open_proxy(&server, "a proxy connection"); /* may meet one of those who have gone */

        if (hears(&proxy, "still there?", (double)(until - now_ms()) / 1000))
            return;
        leave(&proxy);
    }
    unmet(server.program, "the next user to be served", "it was not in time");
}

void test_a_user_is_logged_with_number_address_bytes_and_time(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    char text[100];

    expect_start(&proxy);
    exchange(&user, &proxy, 412, 1234567);
    snprintf(text, sizeof text, "user [0-9]+ .*[^0-9]%d([^0-9]|$)", own_port(&user));
    expect_log(server.program, text, "a log line with the user's number and its address");
    leave(&user);
    leave(&proxy);
    expect_log(server.program, "user [0-9]+ done: 412 B up, 1\\.2 MB down, [0-9]+\\.[0-9] s",
               "the log line `user N done: 412 B up, 1.2 MB down, T s`");
}

/* ---- the client; the test plays the server ---- */

void test_the_client_opens_a_proxy_connection_per_create_proxy(void)
{
    struct client client = start_welcome_client("");

    ask_for_proxy(&client, first_token, "a proxy connection");
    expect_no_caller_yet(&client.proxy);
    say(&client.server, "create_proxy\ncreate_proxy\ncreate_");
    for (int i = 0; i < 2; i++)
        expect_proxy(&client, first_token, "a proxy connection");
    say(&client.server, "proxy\n");
    expect_proxy(&client, first_token, "a proxy connection");
    answer_ping(&client);
    expect_no_caller_yet(&client.proxy);
}

void test_the_client_uses_the_token_of_its_newest_welcome(void)
{
    struct client client = start_welcome_client("");

    ask_for_proxy(&client, first_token, "a proxy connection");
    leave(&client.server);
    expect_hello(&client);
    welcome(&client, second_token);
    ask_for_proxy(&client, second_token, "a proxy connection");
}

/* A client that is welcome, but can't open proxy connections until open_it(&client.proxy). */
static struct client welcome_with_proxy_port_shut(void)
{
    struct client client =
        start_client_at(open_door("the server's control port"), hold_port("the server's proxy port"),
                        open_door("the local app"), "--heartbeat 1");

    expect_hello(&client);
    welcome(&client, first_token);
    return client;
}

void test_the_client_lives_on_when_the_proxy_port_cannot_be_reached(void)
{
    struct client client = welcome_with_proxy_port_shut();

    say(&client.server, "create_proxy\n");
    for (int i = 0; i < 2; i++)
        answer_ping(&client);
    open_it(&client.proxy);
    ask_for_proxy(&client, first_token, "a proxy connection");
}

/* The server asks again for what it misses; whoever remembered all of it would owe more and more. */
void test_the_client_does_not_pile_up_what_it_could_not_open(void)
{
    struct client client = welcome_with_proxy_port_shut();

    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 100; j++)
            say(&client.server, "create_proxy\n");
        answer_ping(&client);
    }
    answer_ping(&client); /* the last hundred are to be had for one more heartbeat */
    answer_ping(&client);
    open_it(&client.proxy);
    say(&client.server, "create_proxy\n");
    expect_caller(&client.proxy, "the one proxy connection");
    answer_ping(&client);
    expect_no_caller_yet(&client.proxy);
}

/* ---- both ---- */

void test_the_six_steps_are_logged_with_their_numbers(void)
{
    struct server server = start_server("");
    struct door app = open_door("the local app");
    struct program *client =
        stage == 3
            ? run("client", "-c %d -x %d %d 127.0.0.1", server.control_port, server.proxy_port, app.port)
            : run("client", "-c %d -x %d 127.0.0.1", server.control_port, server.proxy_port);
    struct peer user = dial("the user", server.program, server.public_port);

    say(&user, "x");
    if (stage == 3) {
        struct peer private = expect_caller(&app, "the local app");

        expect_bytes(&private, "x");
    } else {
        expect_bytes(&user, "x");
    }
    for (int step = 1; step <= 6; step++) {
        char text[20];

        snprintf(text, sizeof text, "step %d:", step);
        if (!has_logged(server.program, text) && !has_logged(client, text))
            unmet(server.program, "each of the six steps in the log of server or client",
                  "`%s` is in neither", text);
    }
}
