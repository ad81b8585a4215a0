/* Stage 3, the local app: what makes the tunnel one to be used. A secret, spare proxy connections,
 * `start`, a stop that lets users finish. */
#include "spec.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const int stage = 3;

/* ---- the secret ---- */

static char secret_path[] = "/tmp/tunnel-secret-XXXXXX";

/* A file with that text; the one before is gone. */
static const char *secret_file(const char *text)
{
    static bool exists;

    if (exists)
        unlink(secret_path);
    strcpy(secret_path, "/tmp/tunnel-secret-XXXXXX");
    int fd = mkstemp(secret_path);
    exists = true;
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        unmet(NULL, "a file for the secret", "it can't be written");
    close(fd);
    return secret_path;
}

static struct server start_server_with_secret(const char *text)
{
    char options[100];

    snprintf(options, sizeof options, "--secret-file %s", secret_file(text));
    struct server server = start_server(options);
    unlink(secret_path);
    return server;
}

static void expect_answer(struct server *server, const char *hello, const char *answer)
{
    struct peer client = dial("the client", server->program, server->control_port);

    say(&client, "%s\n", hello);
    if (strcmp(answer, "welcome") != 0) {
        expect_line(&client, answer);
        expect_closed(&client, "to be closed after that");
        return;
    }
    const char *line = next_line(&client, "`welcome TOKEN`");
    if (strncmp(line, "welcome ", 8) != 0)
        unmet(server->program, "`welcome TOKEN` for the right secret", "`%s` came", line);
    leave(&client);
    await_turn(server);
}

static void test_the_server_denies_a_client_with_another_secret(void)
{
    static const char *const wrong[] = {"hello",
                                        "hello open",
                                        "hello open sesam",
                                        "hello open sesame!",
                                        "hello Open sesame",
                                        "hello  open sesame",
                                        "hello open sesame ",
                                        "hello sesame",
                                        "hello \xff"};
    struct server server = start_server_with_secret("open sesame\n");

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        expect_answer(&server, wrong[i], "denied");
    expect_answer(&server, "hello open sesame", "welcome");
}

static void test_the_server_takes_a_line_of_127_bytes_and_no_longer_one(void)
{
    struct server server = start_server_with_secret("sesame");
    char hello[129] = "hello ";

    memset(hello + 6, 's', 120);
    expect_answer(&server, hello, "denied"); /* with its newline 127 bytes */
    memset(hello + 6, 's', 121);
    struct peer stranger = dial("a stranger", server.program, server.control_port);
    say(&stranger, "%s\n", hello);
    expect_closed(&stranger, "to be closed for a line of 128 bytes");
}

static void test_the_server_denies_before_it_tells_that_it_is_busy(void)
{
    struct server server = start_server_with_secret("sesame");
    struct peer client = dial("the client", server.program, server.control_port);

    say(&client, "hello sesame\n");
    next_line(&client, "`welcome TOKEN`");
    expect_answer(&server, "hello guess", "denied");
    expect_answer(&server, "hello sesame", "busy");
    expect_pong(&client);
}

static void test_the_secret_comes_from_the_file_or_else_from_the_environment(void)
{
    setenv("TUNNEL_SECRET", "from-environment", 1);
    struct server server = start_server("");
    expect_answer(&server, "hello from-environment", "welcome");
    expect_answer(&server, "hello", "denied");
    struct client client = start_client("");
    client.server = expect_caller(&client.control, "the server");
    expect_line(&client.server, "hello from-environment");

    char options[100];
    snprintf(options, sizeof options, "--secret-file %s", secret_file("from-file\n"));
    server = start_server(options);
    expect_answer(&server, "hello from-file", "welcome");
    expect_answer(&server, "hello from-environment", "denied");
    client = start_client(options);
    client.server = expect_caller(&client.control, "the server");
    expect_line(&client.server, "hello from-file");

    unsetenv("TUNNEL_SECRET");
    server = start_server("");
    expect_answer(&server, "hello", "welcome");
    unlink(secret_path);
}

static void test_a_secret_file_that_cannot_be_read_is_one_line_and_exit_is_1(void)
{
    static const char *const names[] = {"server", "client"};

    for (int i = 0; i < 2; i++) {
        struct program *program =
            run(names[i], "--secret-file /nonexistent/secret %s", i == 0 ? "-c 0 -u 0 -x 0" : "1");

        expect_exit(program, 1);
        const char *log = log_of(program);
        if (strstr(log, "/nonexistent/secret") == NULL || strchr(log, '\n') == NULL ||
            strchr(log, '\n')[1] != '\0')
            unmet(program, "one line that names the file", "the log is `%s`", log);
    }
}

static void test_a_client_that_is_denied_exits_with_1_and_does_not_come_back(void)
{
    struct client client = start_client("");

    expect_hello(&client);
    say(&client.server, "denied\n");
    leave(&client.server);
    expect_exit(client.program, 1);
    expect_no_caller_yet(&client.control);

    setenv("TUNNEL_SECRET", "guess", 1);
    struct server server = start_server_with_secret("sesame");
    client.program = run("client", "-c %d -x %d 1 127.0.0.1", server.control_port, server.proxy_port);
    expect_exit(client.program, 1);
}

static void expect_no_secret_in_log(struct program *program)
{
    if (strstr(log_of(program), "sesam") != NULL)
        unmet(program, "no secret in the log, not even a wrong one, which may be nearly right", "`%s` came",
              log_of(program));
}

static void test_no_secret_is_in_the_log(void)
{
    struct server server = start_server_with_secret("open sesame");

    expect_answer(&server, "hello open sesam", "denied");
    expect_answer(&server, "hello open sesame", "welcome");
    expect_no_secret_in_log(server.program);

    setenv("TUNNEL_SECRET", "sesame", 1);
    struct program *client =
        run("client", "-v -c %d -x %d 1 127.0.0.1", server.control_port, server.proxy_port);
    expect_exit(client, 1);
    expect_no_secret_in_log(client);
}

/* ---- the server's spares ---- */

static struct server start_server_with_spares(int count)
{
    char options[30];

    snprintf(options, sizeof options, "--spares %d", count);
    return start_server(options);
}

static void expect_requests(struct peer *client, int count)
{
    for (int i = 0; i < count; i++)
        expect_line(client, "create_proxy");
}

static void test_the_server_asks_for_its_spares_right_after_welcome(void)
{
    for (int spares = 0; spares <= 3; spares += 3) {
        struct server server = start_server_with_spares(spares);
        struct peer client = open_control(&server);

        expect_requests(&client, spares);
        expect_pong(&client); /* and for no more */
    }
    struct program *program = run("server", "-c 0 -u 0 -x 0");
    struct server server = {.program = program,
                            .control_port = port_for(program, "the client"),
                            .public_port = port_for(program, "users")};
    struct peer client = open_control(&server);
    expect_requests(&client, 24);
    expect_pong(&client);
}

static void test_the_server_asks_for_its_spares_and_for_all_who_wait(void)
{
    struct server server = start_server_with_spares(3);

    dial("the first user", server.program, server.public_port);
    dial("the second user", server.program, server.public_port);
    await_turn(&server);
    struct peer client = open_control(&server);
    expect_requests(&client, 3 + 2);
    expect_pong(&client);
}

static void test_a_user_gets_a_spare_at_once_and_the_spare_is_replaced(void)
{
    struct server server = start_server_with_spares(2);
    struct peer client = open_control(&server), spares[2];

    expect_requests(&client, 2);
    for (int i = 0; i < 2; i++) {
        spares[i] = open_proxy(&server, i == 0 ? "the first spare" : "the second spare");
        await_proxy_turn(&server);
        expect_nothing_yet(&spares[i]); /* `start` comes with a user */
    }
    for (int i = 0; i < 2; i++) {
        struct peer user = dial("the user", server.program, server.public_port);

        expect_start(&spares[i]);
        exchange(&user, &spares[i], 1000, 1000);
        expect_line(&client, "create_proxy");
    }
    expect_pong(&client); /* one for one */
}

static void test_a_spare_that_dies_is_replaced(void)
{
    struct server server = start_server_with_spares(3);
    struct peer client = open_control(&server), spares[3];

    expect_requests(&client, 3);
    for (int i = 0; i < 3; i++) {
        spares[i] = open_proxy(&server, "a spare");
        await_proxy_turn(&server);
    }
    leave(&spares[0]);
    expect_line(&client, "create_proxy");
    reset(&spares[1]);
    expect_line(&client, "create_proxy");
    expect_pong(&client);
    struct peer user = dial("the user", server.program, server.public_port);
    expect_start(&spares[2]);
    exchange(&user, &spares[2], 1000, 1000);
}

static void test_a_spare_that_never_comes_is_asked_for_again(void)
{
    struct server server = start_server("--spares 2 --heartbeat 2");
    struct peer client = open_control(&server);

    expect_requests(&client, 2);
    expect_pong(&client); /* they may still come */
    struct peer spare = open_proxy(&server, "the spare");
    await_next_look(&client);
    say(&client, "ping\n");
    expect_line(&client, "pong");
    expect_line(&client, "create_proxy");
    struct peer user = dial("the user", server.program, server.public_port);
    expect_start(&spare);
    exchange(&user, &spare, 1000, 1000);
}

static void test_spares_leave_descriptors_for_users(void)
{
    struct server server = start_server_limited(64, 64, "--spares 1000");
    struct peer client = open_control(&server);

    expect_line(&client, "create_proxy");
    struct peer spare = open_proxy(&server, "the spare");
    struct peer user = dial("the user", server.program, server.public_port);
    expect_start(&spare);
    exchange(&user, &spare, 1000, 1000);
    expect_log(server.program, "descriptors for", "a line that says for how many there are");
}

/* Left behind by users who did not wait for them, for example. */
static void test_too_many_spares_are_closed_the_oldest_first(void)
{
    enum { TOO_MANY = 60 };
    static struct peer spares[TOO_MANY];
    struct server server = start_server("--spares 1 --heartbeat 60");
    struct peer client = open_control(&server);

    expect_requests(&client, 1);
    for (int i = 0; i < TOO_MANY; i++) {
        spares[i] = open_proxy(&server, "one spare of many");
        await_proxy_turn(&server);
    }
    expect_closed(&spares[0], "it is one too many");
    expect_pong(&client);
    expect_nothing_yet(&spares[TOO_MANY - 1]);
}

static void test_a_spare_waits_longer_than_a_user(void)
{
    struct server server = start_server("--spares 1 --wait 0.2");
    struct peer client = open_control(&server);

    expect_requests(&client, 1);
    struct peer spare = open_proxy(&server, "the spare");
    if (comes_within(&spare, 0.6)) /* three times as long as a user */
        expect_nothing_yet(&spare);
    expect_pong(&client);
    struct peer user = dial("the user", server.program, server.public_port);
    expect_start(&spare);
    exchange(&user, &spare, 1000, 1000);
}

/* A spare that is dead must be found out soon. Joined, it may be silent for as long as any other connection: what the line
 * loses for some seconds comes back. */
static void test_a_joined_proxy_connection_is_not_asked_for_signs_of_life_as_often_as_a_spare(void)
{
    struct server server = start_server("--spares 1 --heartbeat 1");
    struct peer client = open_control(&server);

    expect_requests(&client, 1);
    struct peer spare = open_proxy(&server, "the spare");
    struct peer user = dial("the user", server.program, server.public_port);
    expect_start(&spare);
    exchange(&user, &spare, 1000, 1000);
    if (comes_within(&spare, 0.3)) /* the last acknowledgement */
        expect_nothing_yet(&spare);
    int heard = segments_heard(&spare);
    if (heard < 0)
        skip_test("this system does not tell what a connection has heard");
    if (comes_within(&spare, 2.5))
        expect_nothing_yet(&spare);
    if (segments_heard(&spare) != heard)
        unmet(server.program, "no question for signs of life from a pair that was idle for 2.5 s", "%d came",
              segments_heard(&spare) - heard);
}

/* Users take descriptors; but of the last ones none is taken that a proxy connection needs. */
static void test_more_users_than_descriptors_are_served_one_after_the_other(void)
{
    enum { USERS = 200 };
    static struct peer users[USERS];
    struct server server = start_server_limited(64, 64, "--wait 60 --heartbeat 60");
    struct peer client = open_control(&server);

    for (int i = 0; i < USERS; i++)
        users[i] = dial("one user of many", server.program, server.public_port);
    for (int i = 0; i < USERS; i++) {
        expect_line(&client, "create_proxy");
        struct peer proxy = open_proxy(&server, "the proxy connection");
        expect_start(&proxy);
        exchange(&users[i], &proxy, 100, 100);
        leave(&users[i]);
        leave(&proxy);
    }
}

/* The server is held while both happens; the user is the first that it learns of. */
static void test_a_user_that_meets_a_spare_as_it_dies_gets_another(void)
{
    struct server server = start_server_with_spares(1);
    struct peer client = open_control(&server);

    expect_requests(&client, 1);
    struct peer spare = open_proxy(&server, "the spare");
    await_proxy_turn(&server);
    send_signal(server.program, SIGSTOP);
    struct peer user = dial("the user", server.program, server.public_port);
    reset(&spare);
    send_signal(server.program, SIGCONT);
    expect_requests(&client, 2); /* one for the user, one for the spare */
    expect_pong(&client);
    struct peer proxy = open_proxy(&server, "the next proxy connection");
    expect_start(&proxy);
    exchange(&user, &proxy, 1000, 1000);
}

static void test_the_users_bytes_follow_right_behind_start(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");

    say(&user, "GET / HTTP/1.1\r\n");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_start(&proxy);
    expect_bytes(&proxy, "GET / HTTP/1.1\r\n");
}

/* ---- the client ---- */

static void test_the_client_dials_the_local_app_on_start_only(void)
{
    struct client client = start_welcome_client("--heartbeat 1");
    struct peer first = ask_for_proxy(&client, first_token, "the first proxy connection");
    struct peer second = ask_for_proxy(&client, first_token, "the second proxy connection");

    answer_ping(&client);
    answer_ping(&client);
    expect_no_caller_yet(&client.app);
    say(&second, START); /* in any order */
    struct peer app = expect_caller(&client.app, "the local app");
    exchange(&second, &app, 1000, 1000);
    expect_no_caller_yet(&client.app);
    expect_nothing_yet(&first);
    say(&first, START);
    app = expect_caller(&client.app, "the local app");
    exchange(&first, &app, 1000, 1000);
}

static void test_bytes_right_behind_start_reach_the_app(void)
{
    struct client client = start_welcome_client("");
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

    say(&proxy, START START "GET / HTTP/1.1\r\n");
    finish(&proxy);
    struct peer app = expect_caller(&client.app, "the local app");
    expect_bytes(&app, START "GET / HTTP/1.1\r\n");
    expect_end(&app);
    say(&app, "200 OK");
    leave(&app);
    expect_bytes(&proxy, "200 OK");
    expect_end(&proxy);
}

/* The PROXY protocol, version 1. To which of the server's addresses the user came, the client can't know. */
static void test_an_app_that_wants_to_know_who_the_user_is_is_told_ahead_of_all_else(void)
{
    static const char *const told[][2] = {
        {"start 192.0.2.7 41234\nquestion", "PROXY TCP4 192.0.2.7 0.0.0.0 41234 60624\r\nquestion"},
        {"start 2001:db8::7 1\nquestion", "PROXY TCP6 2001:db8::7 :: 1 60624\r\nquestion"},
        {"start unknown 0\nquestion", "PROXY UNKNOWN\r\nquestion"},
    };
    struct client client = start_welcome_client("--proxy-protocol");

    for (size_t i = 0; i < sizeof told / sizeof told[0]; i++) {
        struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

        say(&proxy, "%s", told[i][0]);
        struct peer app = expect_caller(&client.app, "the local app");
        expect_bytes(&app, told[i][1]);
        exchange(&proxy, &app, 1000, 1000);
    }
}

static void test_start_may_come_byte_by_byte(void)
{
    struct client client = start_welcome_client("");
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

    for (const char *c = START; *c != '\0'; c++) {
        expect_no_caller_yet(&client.app);
        say_bytes(&proxy, c, 1);
        struct peer other =
            ask_for_proxy(&client, first_token, "another proxy connection"); /* so each byte comes alone */
        leave(&other);
    }
    struct peer app = expect_caller(&client.app, "the local app");
    exchange(&proxy, &app, 1000, 1000);
}

static void test_anything_but_start_closes_the_proxy_connection(void)
{
    static const char *const lines[] = {"started\n",          "star\n", "\n", "Start\n",
                                        "GET / HTTP/1.1\r\n", "ping\n"};
    struct client client = start_welcome_client("");
    char line[128];

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

        say(&proxy, "%s", lines[i]);
        expect_closed(&proxy, "to be closed after a line other than `start`");
    }
    memset(line, 's', sizeof line);
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");
    say_bytes(&proxy, line, sizeof line);
    expect_closed(&proxy, "to be closed after 128 bytes that have no newline");
    expect_no_caller_yet(&client.app);
}

static void test_the_client_lives_on_when_a_spare_is_closed(void)
{
    struct client client = start_welcome_client("");

    for (int i = 0; i < 4; i++) {
        struct peer spare = ask_for_proxy(&client, first_token, "a spare");

        if (i % 2 == 0) {
            finish(&spare);
            expect_closed(&spare, "to be closed by the client too");
        } else {
            reset(&spare);
        }
    }
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");
    say(&proxy, START);
    struct peer app = expect_caller(&client.app, "the local app");
    exchange(&proxy, &app, 1000, 1000);
    expect_no_caller_yet(&client.app);
}

static void test_a_user_is_closed_when_the_app_is_not_there_and_the_tunnel_lives(void)
{
    struct client client =
        start_client_at(open_door("the server's control port"), open_door("the server's proxy port"),
                        hold_port("the local app"), "");
    expect_hello(&client);
    welcome(&client, first_token);
    for (int i = 0; i < 3; i++) {
        struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

        say(&proxy, START "hello app");
        expect_closed(&proxy, "to be closed, as the local app is not there");
    }
    open_it(&client.app);
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");
    say(&proxy, START);
    struct peer app = expect_caller(&client.app, "the local app");
    exchange(&proxy, &app, 1000, 1000);
}

static void test_a_proxy_connection_that_could_not_be_opened_is_tried_again(void)
{
    struct client client =
        start_client_at(open_door("the server's control port"), hold_port("the server's proxy port"),
                        open_door("the local app"), "");

    expect_hello(&client);
    welcome(&client, first_token);
    say(&client.server, "create_proxy\ncreate_proxy\n");
    expect_log(client.program, "cannot open a proxy connection",
               "the client to log that it can't reach the port");
    expect_idle(client.program); /* it does not try all the time */
    open_it(&client.proxy);
    for (int i = 0; i < 2; i++)
        expect_proxy(&client, first_token, "a proxy connection that could not be opened at first");
}

/* A pong comes while the client pauses. The server, which asked a moment ago, does not ask again yet. */
static void test_so_it_is_although_a_pong_comes_meanwhile(void)
{
    struct client client =
        start_client_at(open_door("the server's control port"), hold_port("the server's proxy port"),
                        open_door("the local app"), "");

    expect_hello(&client);
    welcome(&client, first_token);
    say(&client.server, "create_proxy\n");
    expect_log(client.program, "cannot open a proxy connection",
               "the client to log that it can't reach the port");
    say(&client.server, "pong\n");
    open_it(&client.proxy);
    expect_proxy(&client, first_token, "a proxy connection that could not be opened at first");
}

static void test_the_client_closes_its_spares_when_the_control_connection_is_lost(void)
{
    struct client client = start_welcome_client("");
    struct peer spare = ask_for_proxy(&client, first_token, "a spare");

    leave(&client.server);
    expect_closed(&spare, "to be closed by the client that lost its control connection");
    expect_hello(&client);
}

static void test_a_user_that_waits_for_the_app_outlives_the_control_connection(void)
{
    struct client client = start_welcome_client("");
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

    fill_queue(&client.app);
    say(&proxy, START "question");
    expect_log(client.program, "dialing", "the client to log that it dials the local app");
    leave(&client.server);
    expect_hello(&client);
    expect_caller(&client.app, "the other caller");
    struct peer app = expect_caller(&client.app, "the local app");
    expect_bytes(&app, "question");
    exchange(&proxy, &app, 1000, 1000);
}

/* It is so for as long as for who dials it directly: the kernel knocks again after 1, 3 and 7 s. */
static void test_a_local_app_that_is_slow_to_accept_is_waited_for(void)
{
    struct client client = start_welcome_client("");
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");
    int64_t came = now_ms();

    fill_queue(&client.app);
    say(&proxy, START "question");
    while (now_ms() - came < 5500)
        comes_within(&proxy, (double)(came + 5500 - now_ms()) / 1000);
    expect_caller(&client.app, "the other caller");
    struct peer app = expect_caller(&client.app, "the local app");
    expect_bytes(&app, "question");
    exchange(&proxy, &app, 1000, 1000);
}

static void test_local_is_a_port_or_host_and_port(void)
{
    static const char *const wrong[] = {"app",  "localhost:", "localhost:http", "65536",
                                        "0x50", "-1",         "::1:80x"};
    struct door control = open_door("the server's control port"),
                proxy = open_door("the server's proxy port");
    struct door app = open_door("the local app"),
                six = has_ipv6() ? open_door_ipv6("the local app") : (struct door){0};
    char local[4][40];
    int count = has_ipv6() ? 4 : 3;

    snprintf(local[0], sizeof local[0], "%d", app.port);
    snprintf(local[1], sizeof local[1], "localhost:%d", app.port);
    snprintf(local[2], sizeof local[2], "127.0.0.1:%d", app.port);
    if (has_ipv6()) {
        snprintf(local[3], sizeof local[3], "[::1]:%d", six.port);
    }
    for (int i = 0; i < count; i++) {
        struct client client = {.control = control, .proxy = proxy, .app = i == 3 ? six : app};

        client.program = run("client", "-c %d -x %d %s 127.0.0.1", control.port, proxy.port, local[i]);
        client.control.with = client.proxy.with = client.app.with = client.program;
        expect_hello(&client);
        welcome(&client, first_token);
        struct peer connection = ask_for_proxy(&client, first_token, "a proxy connection");
        say(&connection, START);
        struct peer private = expect_caller(&client.app, "the local app");
        exchange(&connection, &private, 1000, 1000);
        send_signal(client.program, SIGTERM);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        expect_exit(run("client", "%s", wrong[i]), 2);
    expect_exit(run("client", "%s", ""), 2);
}

/* ---- a stop that lets users finish ---- */

static void test_a_stopped_server_listens_no_longer_and_lets_users_finish(void)
{
    struct door ports[3];

    for (int i = 0; i < 3; i++)
        ports[i] = hold_port("a port of the server");
    struct program *program =
        run("server", "-c %d -u %d -x %d --spares 1", ports[0].port, ports[1].port, ports[2].port);
    struct server server = {.program = program,
                            .control_port = port_for(program, "the client"),
                            .public_port = port_for(program, "users"),
                            .proxy_port = port_for(program, "proxy connections")};
    struct peer client = open_control(&server);
    expect_line(&client, "create_proxy");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    struct peer user = dial("the user", program, server.public_port);
    expect_start(&proxy);
    exchange(&user, &proxy, 1000, 1000);

    send_signal(program, SIGTERM);
    for (int i = 0; i < 3; i++)
        expect_refused_soon(program, ports[i].port, "a server that stops to listen no longer");
    exchange(&user, &proxy, 1000000, 1000000);
    finish(&user);
    expect_end(&proxy);
    exchange(&proxy, &user, 1000000, 0);
    expect_running(program);
    finish(&proxy);
    expect_end(&user);
    expect_exit(program, 0);
}

static void test_a_user_that_waits_when_the_server_is_stopped_is_served(void)
{
    struct server server = start_server("");
    struct peer client = open_control(&server);
    struct peer user = open_public(&server, &client, "the user");

    send_signal(server.program, SIGTERM);
    expect_log(server.program, "stopping", "the server to log that it is stopping");
    struct peer proxy = open_proxy(&server, "the proxy connection");
    expect_start(&proxy);
    exchange(&user, &proxy, 1000, 1000);
    expect_running(server.program);
    leave(&user);
    expect_end(&proxy);
    leave(&proxy);
    expect_exit(server.program, 0);
}

static void test_a_client_that_stops_does_not_come_back(void)
{
    struct pair pair = join(1);

    leave(&pair.client.server);
    expect_log(pair.program, "next try", "the client to log that it lost the server");
    send_signal(pair.program, SIGTERM);
    expect_log(pair.program, "stopping", "the client to log that it is stopping");
    while (has_caller_within(&pair.client.control, 0)) /* before the signal, on a busy machine */
        expect_caller(&pair.client.control, "the server");
    if (has_caller_within(&pair.client.control, 1)) /* twice as long as it waits for the next try */
        unmet(pair.program, "no control connection any more from a client that stops", "there is one");
    exchange(&pair.user, &pair.app, 1000, 1000);
    leave(&pair.user);
    expect_end(&pair.app);
    leave(&pair.app);
    expect_exit(pair.program, 0);
}

static void test_a_stopped_client_lets_users_finish(void)
{
    struct pair pair = join(1);

    exchange(&pair.user, &pair.app, 1000, 1000);
    send_signal(pair.program, SIGTERM);
    expect_log(pair.program, "stop", "the client to log that it is stopping");
    exchange(&pair.user, &pair.app, 1000000, 1000000);
    finish(&pair.user);
    expect_end(&pair.app);
    exchange(&pair.app, &pair.user, 1000000, 0);
    expect_running(pair.program);
    finish(&pair.app);
    expect_end(&pair.user);
    expect_exit(pair.program, 0);
}

static void test_a_stop_does_not_wait_for_spares_nor_for_the_client(void)
{
    struct server server = start_server_with_spares(2);
    struct peer client = open_control(&server);
    struct peer spare = open_proxy(&server, "a spare");
    int64_t began = now_ms();

    await_proxy_turn(&server);
    send_signal(server.program, SIGTERM);
    expect_exit(server.program, 0);
    (void)spare;
    leave(&client);

    struct client other = start_welcome_client("");
    struct peer first = ask_for_proxy(&other, first_token, "a spare");
    struct peer second = ask_for_proxy(&other, first_token, "a spare");
    send_signal(other.program, SIGTERM);
    expect_closed_after_anything(&other.server, "the client that stops to close the control connection");
    leave(&first); /* as a server does with the spares of a client that has gone */
    leave(&second);
    expect_exit(other.program, 0);
    expect_sooner_than(other.program, began, 8, "both to exit, sooner than the drain's 10 s,");
}

/* Pairs through a server, and through a client, that let users finish for half a second. */
static struct pair join_shortly(int way)
{
    struct pair pair = {0};

    if (way == 0) {
        pair.server = start_server("--drain 0.5");
        pair.control = open_control(&pair.server);
        pair.program = pair.server.program;
    } else {
        pair.client = start_welcome_client("--drain 0.5");
        pair.program = pair.client.program;
    }
    return join_another(way, &pair);
}

static void test_a_stop_waits_for_users_no_longer_than_the_drain(void)
{
    for (int way = 0; way < 2; way++) {
        struct pair pair = join_shortly(way);

        exchange(&pair.user, &pair.app, 1000, 1000);
        int64_t began = now_ms();
        send_signal(pair.program, way == 0 ? SIGTERM : SIGINT);
        expect_closed(&pair.user, "to be closed when the drain is over");
        expect_later_than(pair.program, began, 0.5, "the end of the drain");
        expect_exit(pair.program, 0);
    }
}

static void test_a_second_signal_ends_at_once(void)
{
    for (int way = 0; way < 2; way++) {
        struct pair pair = join(way);

        exchange(&pair.user, &pair.app, 1000, 1000);
        int64_t began = now_ms();
        send_signal(pair.program, SIGTERM);
        expect_log(pair.program, "stop", "the program to log that it is stopping");
        expect_running(pair.program);
        send_signal(pair.program, way == 0 ? SIGTERM : SIGINT);
        expect_exit(pair.program, 0);
        expect_sooner_than(pair.program, began, 4, "the end, sooner than the drain's 10 s,");
    }
}

/* ---- both ---- */

static struct program *run_client(struct server *server, struct door *app)
{
    app->with = run("client", "-c %d -x %d 127.0.0.1:%d 127.0.0.1", server->control_port, server->proxy_port,
                    app->port);
    return app->with;
}

static void test_client_and_server_with_the_same_secret_serve_users(void)
{
    enum { USERS = 40 };
    struct door app = open_door("the local app");
    setenv("TUNNEL_SECRET", "sesame", 1);
    struct server server = start_server("--spares 4 --wait 60");
    struct peer users[USERS];

    for (int i = 0; i < USERS; i++) {
        users[i] = dial("a user", server.program, server.public_port);
        say(&users[i], "%d.", i);
        if (i == USERS / 2) /* half of them come while no client is there */
            run_client(&server, &app);
    }
    for (int i = 0; i < USERS; i++) { /* in whatever order they get through: each gets its own answer */
        struct peer private = expect_caller(&app, "the local app");
        char number[10];
        size_t length = 0;

        do
            number[length] = next_byte(&private);
        while (number[length++] != '.' && length < sizeof number - 1);
        number[length] = '\0';
        say(&private, "to %s", number);
        leave(&private);
    }
    for (int i = 0; i < USERS; i++) {
        char answer[20];

        snprintf(answer, sizeof answer, "to %d.", i);
        expect_bytes(&users[i], answer);
        expect_end(&users[i]);
    }
}

static void test_users_wait_while_the_client_is_replaced_by_another(void)
{
    struct door app = open_door("the local app");
    struct server server = start_server("--spares 2");
    struct program *client = run_client(&server, &app);
    struct peer user = dial("the user", server.program, server.public_port);
    struct peer private = expect_caller(&app, "the local app");

    exchange(&user, &private, 1000, 1000);
    kill_program(client);
    expect_closed(&user, "the end, as the client that served it has gone");
    user = dial("the user", server.program, server.public_port);
    say(&user, "y");
    run_client(&server, &app);
    private = expect_caller(&app, "the local app");
    expect_bytes(&private, "y");
}

/* ---- the log ---- */

static void serve_a_user(struct server *server, struct peer *client)
{
    struct peer user = open_public(server, client, "a user"),
                proxy = open_proxy(server, "a proxy connection");

    expect_start(&proxy);
    exchange(&user, &proxy, 1000, 1000);
    leave(&user);
    leave(&proxy);
}

static void test_a_server_whose_log_nobody_reads_serves_users_and_says_later_what_is_missing(void)
{
    struct door held[] = {hold_port("a port"), hold_port("a port"), hold_port("a port")};
    struct server server = {
        .control_port = held[0].port, .public_port = held[1].port, .proxy_port = held[2].port};

    server.program = run_unread("server", "--spares 0 -v -c %d -u %d -x %d", server.control_port,
                                server.public_port, server.proxy_port);
    struct peer client = dial_when_open("the client", server.program, server.control_port);
    greet(&server, &client);
    for (int i = 0; i < 10; i++)
        serve_a_user(&server, &client);
    read_log(server.program);
    serve_a_user(&server, &client);
    expect_log(server.program, "server: \\([0-9]+ lines are missing here: nobody read them\\)$",
               "the log to say how many lines are missing");
}

static void test_a_client_whose_log_nobody_reads_serves_users_and_stops_on_sigterm(void)
{
    struct client client = {.control = open_door("the server's control port"),
                            .proxy = open_door("the server's proxy port"),
                            .app = open_door("the local app")};

    client.program = run_unread("client", "-v -c %d -x %d %d 127.0.0.1", client.control.port,
                                client.proxy.port, client.app.port);
    client.control.with = client.proxy.with = client.app.with = client.program;
    expect_hello(&client);
    welcome(&client, first_token);
    for (int i = 0; i < 10; i++) {
        struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");
        say(&proxy, START);
        struct peer app = expect_caller(&client.app, "the local app");
        exchange(&proxy, &app, 1000, 1000);
        leave(&proxy);
        leave(&app);
    }
    send_signal(client.program, SIGTERM);
    expect_exit(client.program, 0);
}

/* Its first connection must not take the number of standard error. */
static void test_a_client_without_standard_streams_says_nothing_but_the_protocol(void)
{
    struct client client = {.control = open_door("the server's control port"),
                            .proxy = open_door("the server's proxy port")};

    client.program = run_without_streams("client", "-v --heartbeat 1 -c %d -x %d 1 127.0.0.1",
                                         client.control.port, client.proxy.port);
    client.control.with = client.proxy.with = client.program;
    expect_hello(&client);
    welcome(&client, first_token);
    ask_for_proxy(&client, first_token, "a proxy connection");
    for (int i = 0; i < 2; i++)
        answer_ping(&client);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        /* the server: the control connection */
        SPEC(test_the_server_answers_hello_with_welcome),
        SPEC(test_the_token_is_32_hex_digits_and_new_in_every_session),
        SPEC(test_the_token_is_not_in_the_log),
        SPEC(test_the_server_denies_a_client_with_another_secret),
        SPEC(test_the_server_takes_a_line_of_127_bytes_and_no_longer_one),
        SPEC(test_the_server_denies_before_it_tells_that_it_is_busy),
        SPEC(test_the_secret_comes_from_the_file_or_else_from_the_environment),
        SPEC(test_a_secret_file_that_cannot_be_read_is_one_line_and_exit_is_1),
        SPEC(test_no_secret_is_in_the_log),
        SPEC(test_the_server_answers_each_ping_with_pong),
        SPEC(test_the_server_understands_a_line_that_comes_byte_by_byte),
        SPEC(test_the_server_understands_lines_that_come_together),
        SPEC(test_the_server_tells_a_second_client_busy_and_closes),
        SPEC(test_the_server_welcomes_the_next_client_when_the_first_has_gone),
        SPEC(test_the_server_closes_a_connection_that_says_anything_but_hello),
        SPEC(test_the_server_closes_a_line_of_128_bytes_before_its_end),
        SPEC(test_the_server_drops_a_client_that_says_anything_but_ping),
        SLOW_SPEC(test_the_server_drops_a_client_that_is_silent_for_three_heartbeats),
        SPEC(test_the_server_is_not_disturbed_by_strangers),
        /* the server: users and proxy connections */
        SPEC(test_the_server_asks_for_one_proxy_connection_per_user),
        SPEC(test_a_proxy_connection_is_joined_to_the_user_that_waits),
        SPEC(test_the_users_bytes_follow_right_behind_start),
        SPEC(test_users_are_served_first_come_first_served),
        SPEC(test_proxy_connections_are_used_first_come_first_served),
        SPEC(test_the_server_asks_for_its_spares_right_after_welcome),
        SPEC(test_the_server_asks_for_its_spares_and_for_all_who_wait),
        SPEC(test_a_user_gets_a_spare_at_once_and_the_spare_is_replaced),
        SPEC(test_a_spare_that_dies_is_replaced),
        SLOW_SPEC(test_a_spare_that_never_comes_is_asked_for_again),
        SPEC(test_spares_leave_descriptors_for_users),
        SPEC(test_too_many_spares_are_closed_the_oldest_first),
        SPEC(test_a_user_that_meets_a_spare_as_it_dies_gets_another),
        SLOW_SPEC(test_a_spare_waits_longer_than_a_user),
        SLOW_SPEC(test_a_joined_proxy_connection_is_not_asked_for_signs_of_life_as_often_as_a_spare),
        SPEC(test_what_a_user_says_while_it_waits_is_not_lost),
        SPEC(test_a_user_that_closes_its_side_while_it_waits_is_served),
        SPEC(test_a_user_that_is_reset_while_it_waits_loses_its_place),
        SLOW_SPEC(test_a_user_is_dropped_when_nobody_serves_it_within_the_wait),
        SLOW_SPEC(test_when_no_client_was_there_for_longer_than_the_wait_users_are_turned_away_at_once),
        SPEC(test_users_that_come_while_no_client_is_there_are_served_when_it_comes),
        SPEC(test_users_that_wait_when_the_client_is_lost_are_served_when_it_is_back),
        SLOW_SPEC(test_no_request_is_lost_when_the_client_does_not_read),
        SLOW_SPEC(test_a_proxy_connection_that_never_comes_is_asked_for_again),
        SLOW_SPEC(test_a_request_that_the_last_client_did_not_take_is_not_made_to_the_next),
        SPEC(test_the_proxy_line_may_come_byte_by_byte),
        SPEC(test_a_wrong_token_never_meets_a_user),
        SPEC(test_an_old_token_never_meets_a_user),
        SPEC(test_a_proxy_connection_of_a_client_that_has_gone_never_meets_a_user),
        SPEC(test_a_proxy_connection_that_is_reset_while_it_waits_is_not_used),
        SPEC(test_each_port_knows_its_own_first_line_only),
        SPEC(test_waiting_costs_no_processor_time),
        SPEC(test_a_user_is_logged_with_number_address_bytes_and_time),
        SPEC(test_the_soft_limit_on_descriptors_is_raised),
        SLOW_SPEC(test_a_server_without_free_descriptors_goes_on_when_some_are_free),
        SLOW_SPEC(test_more_users_than_descriptors_are_served_one_after_the_other),
        /* the client */
        SLOW_SPEC(test_the_client_says_hello_first_and_then_waits),
        SPEC(test_a_client_that_is_denied_exits_with_1_and_does_not_come_back),
        SLOW_SPEC(test_the_client_pings_once_in_a_heartbeat),
        SLOW_SPEC(test_the_client_understands_lines_in_pieces_and_together),
        SPEC(test_the_client_opens_a_proxy_connection_per_create_proxy),
        SLOW_SPEC(test_the_client_dials_the_local_app_on_start_only),
        SPEC(test_bytes_right_behind_start_reach_the_app),
        SPEC(test_an_app_that_wants_to_know_who_the_user_is_is_told_ahead_of_all_else),
        SPEC(test_start_may_come_byte_by_byte),
        SPEC(test_anything_but_start_closes_the_proxy_connection),
        SLOW_SPEC(test_a_local_app_that_is_slow_to_accept_is_waited_for),
        SPEC(test_local_is_a_port_or_host_and_port),
        SPEC(test_a_user_is_closed_when_the_app_is_not_there_and_the_tunnel_lives),
        SPEC(test_the_client_lives_on_when_a_spare_is_closed),
        SPEC(test_the_client_closes_its_spares_when_the_control_connection_is_lost),
        SLOW_SPEC(test_the_client_lives_on_when_the_proxy_port_cannot_be_reached),
        SLOW_SPEC(test_the_client_does_not_pile_up_what_it_could_not_open),
        SLOW_SPEC(test_a_proxy_connection_that_could_not_be_opened_is_tried_again),
        SLOW_SPEC(test_so_it_is_although_a_pong_comes_meanwhile),
        SLOW_SPEC(test_the_client_drops_a_server_that_is_silent_for_three_heartbeats),
        SLOW_SPEC(test_the_client_comes_back_half_a_second_after_any_loss),
        SPEC(test_the_client_uses_the_token_of_its_newest_welcome),
        SPEC(test_the_client_comes_back_when_the_server_is_lost_right_after_welcome),
        SLOW_SPEC(test_the_client_comes_back_when_it_was_told_busy),
        SLOW_SPEC(test_the_client_tries_again_every_second_while_the_server_is_busy),
        SLOW_SPEC(test_the_client_waits_longer_after_each_failure_until_a_welcome),
        SPEC(test_the_client_keeps_trying_while_no_server_is_there),
        SPEC(test_the_client_tries_every_address_of_a_name),
        SPEC(test_the_client_does_not_take_the_welcome_of_another_stage),
        /* joined connections: by the server, by the client, by both */
        SPEC(test_what_one_side_says_reaches_the_other),
        SPEC(test_bytes_both_ways_at_once_arrive_as_they_were_sent),
        SPEC(test_pairs_are_joined_apart_from_each_other),
        SPEC(test_a_user_that_closes_its_side_still_gets_its_answer),
        SPEC(test_an_app_that_closes_its_side_still_hears_the_user),
        SPEC(test_an_app_that_speaks_first_is_heard),
        SPEC(test_an_answer_before_the_end_of_the_question_reaches_the_user),
        SPEC(test_a_reset_by_the_user_reaches_the_app_as_a_reset),
        SPEC(test_a_reset_by_the_app_reaches_the_user_as_a_reset),
        SLOW_SPEC(test_a_side_that_does_not_read_stops_only_its_own_pair),
        SLOW_SPEC(test_joined_connections_cost_nothing_while_nothing_is_said),
        SPEC(test_joined_connections_leave_no_descriptor_behind),
        SLOW_SPEC(test_joined_connections_outlive_the_control_connection),
        SLOW_SPEC(test_a_user_that_waits_for_the_app_outlives_the_control_connection),
        /* both */
        SPEC(test_client_and_server_with_the_same_secret_serve_users),
        SPEC(test_the_six_steps_are_logged_with_their_numbers),
        SLOW_SPEC(test_client_and_server_find_each_other_again_after_a_restart),
        SPEC(test_users_wait_while_the_client_is_replaced_by_another),
        SPEC(test_a_second_client_takes_over_when_the_first_ends),
        SLOW_SPEC(test_whoever_does_not_say_the_first_line_within_5_s_is_closed),
        /* the stop */
        SPEC(test_a_stopped_server_listens_no_longer_and_lets_users_finish),
        SPEC(test_a_user_that_waits_when_the_server_is_stopped_is_served),
        SPEC(test_a_stopped_client_lets_users_finish),
        SLOW_SPEC(test_a_client_that_stops_does_not_come_back),
        SPEC(test_a_stop_does_not_wait_for_spares_nor_for_the_client),
        SLOW_SPEC(test_a_stop_waits_for_users_no_longer_than_the_drain),
        SPEC(test_a_second_signal_ends_at_once),
        SLOW_SPEC(test_sigint_and_sigterm_stop_both_with_exit_0),
        /* the log */
        SPEC(test_a_server_whose_log_nobody_reads_serves_users_and_says_later_what_is_missing),
        SPEC(test_a_client_whose_log_nobody_reads_serves_users_and_stops_on_sigterm),
        SLOW_SPEC(test_a_client_without_standard_streams_says_nothing_but_the_protocol),
        SPEC(test_every_log_line_has_its_time_and_program_in_front),
        SLOW_SPEC(test_verbose_logs_more_and_quiet_logs_nothing_while_all_is_well),
        /* the command line */
        SPEC(test_a_given_port_is_listened_on),
        SPEC(test_the_default_ports_are_those_of_the_book),
        SPEC(test_all_addresses_are_listened_on_ipv6_and_ipv4),
        SPEC(test_bind_names_the_one_address_to_listen_on),
        SPEC(test_a_server_that_was_killed_gets_its_ports_again_at_once),
        SPEC(test_a_port_that_is_taken_is_one_line_and_exit_is_1),
        SPEC(test_a_name_that_is_unknown_is_one_line_and_exit_is_1),
        SPEC(test_a_program_that_cannot_start_says_why_and_exit_is_1),
        SPEC(test_wrong_usage_is_one_line_and_exit_is_2),
        SPEC(test_wrong_seconds_and_numbers_are_wrong_usage),
        SPEC(test_an_option_of_another_stage_is_wrong_usage),
        SPEC(test_help_names_the_options_of_this_stage_and_no_others),
        SPEC(test_version_is_one_line_and_exit_is_0),
    };

    return spec_run_all(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
