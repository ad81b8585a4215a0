/* The control connection: `hello`, `welcome`, `busy`, `ping`, `pong`; who is dropped when, and who comes
 * back. */
#include "spec.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* ---- the server; the test plays the client ---- */

void test_the_server_answers_hello_with_welcome(void)
{
    struct server server = start_server("");
    struct peer client = dial("the client", server.program, server.control_port);

    await_turn(&server);
    expect_nothing_yet(&client); /* the client speaks first */
    say(&client, "hello\n");
    const char *line = next_line(&client, "`welcome`");
    if (stage == 1 ? strcmp(line, "welcome") != 0 : strncmp(line, "welcome ", 8) != 0)
        unmet(server.program, "`welcome` at the client", "`%s` came", line);
}

void test_the_server_answers_each_ping_with_pong(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);

    for (int i = 0; i < 3; i++)
        expect_pong(&client);
}

void test_the_server_understands_a_line_that_comes_byte_by_byte(void)
{
    struct server server = start_server("");
    struct peer client = dial("the client", server.program, server.control_port);

    for (const char *c = "hello\n"; *c != '\0'; c++) {
        expect_nothing_yet(&client);
        say_bytes(&client, c, 1);
        await_turn(&server); /* so each byte comes alone */
    }
    next_line(&client, "`welcome`");
    for (const char *c = "ping\n"; *c != '\0'; c++) {
        expect_nothing_yet(&client);
        say_bytes(&client, c, 1);
        await_turn(&server);
    }
    expect_line(&client, "pong");
}

void test_the_server_understands_lines_that_come_together(void)
{
    struct server server = start_server("");
    struct peer client = dial("the client", server.program, server.control_port);

    say(&client, "hello\nping\nping\npi");
    next_line(&client, "`welcome`");
    expect_line(&client, "pong");
    expect_line(&client, "pong");
    say(&client, "ng\n");
    expect_line(&client, "pong");
}

void test_the_server_tells_a_second_client_busy_and_closes(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer second = dial("the second client", server.program, server.control_port);

    say(&second, "hello\n");
    expect_line(&second, "busy");
    expect_closed(&second, "to be closed after `busy`");
    expect_pong(&client); /* which the first client doesn't notice */
}

void test_the_server_welcomes_the_next_client_when_the_first_has_gone(void)
{
    struct server server = start_server("");

    for (int i = 0; i < 4; i++) {
        struct peer client = open_control(&server);

        expect_pong(&client);
        if (i % 2 == 0)
            leave(&client);
        else
            reset(&client);
        await_turn(&server);
    }
}

void test_the_server_closes_a_connection_that_says_anything_but_hello(void)
{
    static const char *const lines[] = {
        "\n",      "hell\n",        "Hello\n", " hello\n",           "helloo\n",
        "ping\n",  "welcome\n",     "pong\n",  "GET / HTTP/1.1\r\n", "create_proxy\n",
        "proxy\n", "\x16\x03\x01\n"};
    struct server server = start_server("");
    int64_t began = now_ms();

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct peer stranger = dial("a stranger", server.program, server.control_port);

        say(&stranger, "%s", lines[i]);
        if (stage == 3 && strncmp(lines[i], "hello", 5) == 0)
            expect_closed_after_anything(&stranger, "to be closed after a first line other than `hello`");
        else
            expect_closed(&stranger, "to be closed after a first line other than `hello`");
    }
    struct peer stranger = dial("a stranger", server.program, server.control_port);
    say_bytes(&stranger, "hello\0\n", 7);
    expect_closed_after_anything(&stranger,
                                 "to be closed after `hello` with a zero byte, which is not `hello`");
    stranger = dial("a stranger", server.program, server.control_port);
    say(&stranger, "hel");
    finish(&stranger);
    expect_closed(&stranger, "to be closed after half a line and the end");
    expect_sooner_than(server.program, began, 4, "all of them to be closed at once");
    open_control(&server);
}

void test_the_server_closes_a_line_of_128_bytes_before_its_end(void)
{
    struct server server = start_server("");
    struct peer stranger = dial("a stranger", server.program, server.control_port);
    char line[128];
    int64_t began = now_ms();

    memset(line, 'h', sizeof line);
    say_bytes(&stranger, line, sizeof line);
    expect_closed(&stranger, "to be closed after 128 bytes that have no newline");
    struct peer client = open_control(&server);
    say_bytes(&client, line, sizeof line);
    expect_closed(&client, "to be dropped after 128 bytes that have no newline");
    expect_sooner_than(server.program, began, 4, "both to be closed at once");
    open_control(&server);
}

void test_the_server_drops_a_client_that_says_anything_but_ping(void)
{
    static const char *const lines[] = {"pong\n", "hello\n", "\n", "pin\n", "pings\n", "create_proxy\n"};
    struct server server = start_server("");

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct peer client = open_control(&server);

        say(&client, "%s", lines[i]);
        expect_closed(&client, "to be dropped after a line other than `ping`");
    }
    open_control(&server);
}

void test_the_server_drops_a_client_that_is_silent_for_three_heartbeats(void)
{
    struct server server = start_server("--heartbeat 1");
    int64_t began = now_ms();
    struct peer client = open_control(&server);

    expect_closed(&client, "to be dropped after three heartbeats without a `ping`");
    expect_later_than(server.program, began, 3, "three heartbeats' silence to end the control connection");

    began = now_ms();
    client = open_control(&server);
    while (now_ms() - began < 1500) /* half of the time */
        comes_within(&client, 0.05);
    int64_t pinged = now_ms();
    say(&client, "ping\n");
    expect_line(&client, "pong");
    expect_closed(&client, "to be dropped three heartbeats after the last `ping`");
    expect_later_than(server.program, pinged, 3, "three heartbeats' silence to end the control connection");
}

void test_the_server_is_not_disturbed_by_strangers(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server), strangers[60];

    for (int i = 0; i < 60; i++) {
        strangers[i] =
            dial("a stranger", server.program, stage == 1 || i % 2 ? server.control_port : server.proxy_port);
        if (i % 3 == 0)
            say(&strangers[i], "half a li");
        if (i % 5 == 0)
            reset(&strangers[i]);
    }
    expect_pong(&client);
    for (int i = 0; i < 60; i++)
        if (i % 5 != 0 && i % 2 == 0)
            leave(&strangers[i]);
    expect_pong(&client);
}

void test_whoever_does_not_say_the_first_line_within_5_s_is_closed(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server), strangers[6];
    int count = stage == 1 ? 3 : 6;
    struct client silent = start_client("--heartbeat 1"); /* to which no server speaks */
    int64_t began = now_ms();

    for (int i = 0; i < count; i++) {
        strangers[i] = dial(i % 3 == 0   ? "a stranger that says nothing"
                            : i % 3 == 1 ? "a stranger that says half a line"
                                         : "a stranger that says a byte a second",
                            server.program, i < 3 ? server.control_port : server.proxy_port);
        if (i % 3 == 1)
            say(&strangers[i], i < 3 ? "hel" : "proxy 01234");
    }
    expect_hello(&silent);
    for (int second = 0; second < 4; second++) {
        for (int i = 2; i < count; i += 3)
            if (!comes_within(&strangers[i], 0))
                say(&strangers[i], "h");
        for (int64_t next = now_ms() + 1000; now_ms() < next;)
            comes_within(&client, (double)(next - now_ms()) / 1000);
        expect_pong(&client);
    }
    for (int i = 0; i < count; i++)
        if (comes_within(&strangers[i], 0)) /* on a slow machine it may be time by now */
            expect_later_than(server.program, began, 5, "the limit for a first line");
    expect_idle(server.program);
    for (int i = 0; i < count; i++) {
        while (i % 3 == 2 && now_ms() - began < 5000 + (int64_t)(patience() * 1000) &&
               !comes_within(&strangers[i], 0.5))
            say(&strangers[i], "h");
        expect_closed(&strangers[i], "to be closed 5 s after it came");
    }
    expect_later_than(server.program, began, 5, "the limit for a first line");
    expect_sooner_than(server.program, began, 5 + patience() - 1, "all of them to be closed");
    expect_closed_after_anything(&silent.server, "to be given up by the client, as no `welcome` came");
    expect_pong(&client);
}

/* ---- the client; the test plays the server ---- */

void test_the_client_says_hello_first_and_then_waits(void)
{
    struct client client = start_client("--heartbeat 2");

    for (int i = 0; i < 2; i++) { /* after a loss, too */
        expect_hello(&client);
        if (comes_within(&client.server, 2.3)) /* a client that is not welcome yet does not ping */
            expect_nothing_yet(&client.server);
        welcome(&client, first_token);
        expect_line(&client.server, "ping");
        leave(&client.server);
    }
}

void test_the_client_pings_once_in_a_heartbeat(void)
{
    struct client client = start_client("--heartbeat 1.2");

    expect_hello(&client);
    int64_t began = now_ms();
    welcome(&client, first_token);
    for (int i = 0; i < 4; i++)
        answer_ping(&client);
    /* whether the first comes at once or after a heartbeat, the fourth comes three heartbeats later */
    expect_later_than(client.program, began, 3.6, "the fourth `ping`, three heartbeats after the first,");
}

void test_the_client_understands_lines_in_pieces_and_together(void)
{
    struct client client = start_client("--heartbeat 1");

    expect_hello(&client);
    if (stage == 1)
        say(&client.server, "welcome\npo");
    else
        say(&client.server, stage == 2 ? "welcome %s\npo" : "welcome %s 60624\npo", first_token);
    expect_line(&client.server, "ping");
    say(&client.server, "ng\npong\npo");
    expect_line(&client.server, "ping");
    say(&client.server, "ng\n");
    expect_line(&client.server, "ping");
}

void test_the_client_drops_a_server_that_is_silent_for_three_heartbeats(void)
{
    struct client client = start_client("--heartbeat 1");

    expect_hello(&client);
    int64_t began = now_ms();
    welcome(&client, first_token);
    expect_closed_after_anything(&client.server,
                                 "to be dropped by the client after three heartbeats without a `pong`");
    expect_later_than(client.program, began, 3, "three heartbeats' silence to end the control connection");
    expect_hello(&client);
}

void test_the_client_comes_back_half_a_second_after_any_loss(void)
{
    enum { LOSSES = 7 };
    struct client clients[LOSSES];
    int64_t began[LOSSES];
    char line[128];

    memset(line, 'p', sizeof line);
    for (int i = 0; i < LOSSES; i++)
        clients[i] = start_welcome_client("--heartbeat 60");
    for (int i = 0; i < LOSSES; i++) {
        struct peer *server = &clients[i].server;

        began[i] = now_ms();
        switch (i) {
        case 0: leave(server); break;
        case 1: finish(server); break;
        case 2: say(server, "rubbish\n"); break;
        case 3: say_bytes(server, line, sizeof line); break;
        case 4: say_bytes(server, "pong\0\n", 6); break;
        case 5: say(server, "ping\n"); break;
        default: reset(server); break;
        }
    }
    for (int i = 0; i < LOSSES; i++) {
        struct peer lost = clients[i].server;

        expect_hello(&clients[i]);
        expect_later_than(clients[i].program, began[i], 0.2,
                          "the first try to come back, about 0.5 s after the loss,");
        expect_sooner_than(clients[i].program, began[i], 2,
                           "the first try to come back, about 0.5 s after the loss,");
        welcome(&clients[i], second_token);
        if (lost.fd >= 0)
            expect_closed_after_anything(&lost, "the client to close the control connection that it gave up");
    }
}

/* The client is held while both happens: it reads the line of a connection that is no more. */
void test_the_client_comes_back_when_the_server_is_lost_right_after_welcome(void)
{
    struct client client = start_client("");

    expect_hello(&client);
    send_signal(client.program, SIGSTOP);
    welcome(&client, first_token);
    reset(&client.server);
    send_signal(client.program, SIGCONT);
    expect_hello(&client);
    welcome(&client, second_token);
    expect_line(&client.server, "ping");
}

void test_the_client_comes_back_when_it_was_told_busy(void)
{
    struct client client = start_client("--heartbeat 1");

    expect_hello(&client);
    say(&client.server, "busy\n");
    leave(&client.server);
    expect_hello(&client);
    welcome(&client, first_token);
    answer_ping(&client);
}

/* The other client may go at any moment: no longer and longer pauses, and none in which the place stays empty. */
void test_the_client_tries_again_every_second_while_the_server_is_busy(void)
{
    struct client client = start_client("");
    int64_t told = now_ms();

    for (int i = 0; i < 4; i++) {
        expect_hello(&client);
        if (i > 0)
            expect_later_than(client.program, told, 0.5, "the next try, about a second after `busy`,");
        say(&client.server, "busy\n");
        leave(&client.server);
        told = now_ms();
    }
    expect_hello(&client);
    expect_sooner_than(client.program, told, 2.7, "the next try, about a second after the fourth `busy`,");
}

void test_the_client_waits_longer_after_each_failure_until_a_welcome(void)
{
    struct client client = start_client("");
    int64_t failed = now_ms();

    for (int i = 0; i < 3; i++) {
        expect_hello(&client);
        leave(&client.server);
        failed = now_ms();
    }
    expect_hello(&client);
    expect_later_than(client.program, failed, 0.9,
                      "the third try again, about 2 s after the failure before,");
    welcome(&client, first_token);
    say(&client.server, "rubbish\n");
    expect_closed_after_anything(&client.server,
                                 "to be given up by the client for a line that is none of the protocol's");
    failed = now_ms();
    expect_hello(&client);
    expect_sooner_than(client.program, failed, 1.8,
                       "the first try again after a `welcome`, about 0.5 s after the loss,");
}

void test_the_client_keeps_trying_while_no_server_is_there(void)
{
    struct door control = hold_port("the server's control port");
    struct program *client = stage == 3 ? run("client", "-c %d 1 127.0.0.1", control.port)
                                        : run("client", "-c %d 127.0.0.1", control.port);

    control.with = client;
    await_any_log(client, 2); /* that it can't reach the server */
    expect_running(client);
    open_it(&control);
    struct peer server = expect_caller(&control, "the server");
    expect_line(&server, "hello");
}

void test_the_client_tries_every_address_of_a_name(void)
{
    /* localhost, which is also the server's name if none is given, has an IPv6 and an IPv4 address on
     * most machines. */
    struct door four = open_door("the server's control port"), six = {0};
    struct program *client =
        stage == 3 ? run("client", "-c %d 1", four.port) : run("client", "-c %d", four.port);

    four.with = client;
    struct peer server = expect_caller(&four, "the server");
    expect_line(&server, "hello");
    if (!has_ipv6())
        return;
    six = open_door_ipv6("the server's control port");
    six.with = stage == 3 ? run("client", "-c %d 1 ::1", six.port) : run("client", "-c %d ::1", six.port);
    server = expect_caller(&six, "the server");
    expect_line(&server, "hello");
}

void test_the_client_does_not_take_the_welcome_of_another_stage(void)
{
    struct client client = start_client("");

    expect_hello(&client);
    if (stage == 2)
        say(&client.server, "welcome\n");
    else
        say(&client.server, "welcome %s\n", first_token);
    expect_closed(&client.server, "to be given up by the client for the `welcome` of another stage");
    if (log_of(client.program)[0] == '\0')
        unmet(client.program, "a log line that says so", "none came");
}

/* ---- both ---- */

static struct program *run_client(int control_port, int proxy_port, const char *options)
{
    if (stage == 1)
        return run("client", "-c %d %s 127.0.0.1", control_port, options);
    return run("client", "-c %d -x %d %s %s 127.0.0.1", control_port, proxy_port, options,
               stage == 3 ? "1" : "");
}

static const char welcomed[] = "step 2:";

void test_client_and_server_find_each_other_again_after_a_restart(void)
{
    struct door control = hold_port("the server's control port"),
                proxy = hold_port("the server's proxy port");
    struct program *client = run_client(control.port, proxy.port, "");

    for (int i = 0; i < 2; i++) {
        struct program *server = stage == 1 ? run("server", "-c %d", control.port)
                                            : run("server", "-c %d -x %d -u 0", control.port, proxy.port);

        expect_log(server, welcomed,
                   "the server to log that the client opened the control connection (`step 2: ...`)");
        if (i == 0)
            kill_program(server);
    }
    expect_running(client);
}

void test_a_second_client_takes_over_when_the_first_ends(void)
{
    struct server server = start_server("");
    struct peer first = open_control(&server);
    struct program *second = run_client(server.control_port, server.proxy_port, "");

    expect_log(second, "busy", "the client to log that the server is busy");
    leave(&first);
    expect_log(second, welcomed, "the client to log that it opened the control connection (`step 2: ...`)");
    expect_running(second);
}
