/* Stage 0, a pipe: the server echoes; the client joins each connection that it accepts to one to TARGET. */
#include "spec.h"

#include <signal.h>
#include <stdio.h>

const int stage = 0;

/* ---- the server ---- */

static struct peer call_server(struct program *server)
{
    return dial("whoever calls the server", server, port_for(server, "connections"));
}

static void test_the_server_echoes_what_it_hears(void)
{
    struct program *server = run("server", "-p 0");
    struct peer peer = call_server(server);

    say(&peer, "once");
    expect_bytes(&peer, "once");
    say(&peer, "and once more\n");
    expect_bytes(&peer, "and once more\n");
}

static void test_the_server_echoes_to_each_its_own(void)
{
    enum { PEERS = 20 };
    struct program *server = run("server", "-p 0");
    struct peer peers[PEERS];

    for (int i = 0; i < PEERS; i++) {
        peers[i] = call_server(server);
        say(&peers[i], "I am %d", i);
    }
    for (int i = PEERS - 1; i >= 0; i--) {
        char text[20];

        snprintf(text, sizeof text, "I am %d", i);
        expect_bytes(&peers[i], text);
    }
}

static void test_the_server_echoes_many_bytes_while_they_still_come(void)
{
    struct program *server = run("server", "-p 0");
    struct peer peer = call_server(server);

    expect_echo(&peer, 16 * 1000 * 1000);
    finish(&peer);
    expect_end(&peer);
}

static void test_the_server_echoes_all_to_a_peer_that_closes_its_side(void)
{
    struct program *server = run("server", "-p 0");
    struct peer peer = call_server(server);
    size_t size = stuff(&peer);

    finish(&peer);
    expect_stuffed(&peer, size);
    expect_end(&peer);
}

static void test_the_server_closes_when_its_peer_has_said_nothing_and_closed(void)
{
    struct program *server = run("server", "-p 0");
    struct peer peer = call_server(server);

    finish(&peer);
    expect_end(&peer);
}

static void test_the_server_serves_others_while_one_does_not_read(void)
{
    struct program *server = run("server", "-p 0");
    struct peer stopped = call_server(server), other = call_server(server);

    stuff(&stopped);
    expect_echo(&other, 1000000);
    expect_idle(server);
}

static void test_the_server_lives_on_after_a_reset(void)
{
    struct program *server = run("server", "-p 0");
    struct peer first = call_server(server), second = call_server(server);

    stuff(&first);
    reset(&first);
    reset(&second);
    struct peer third = call_server(server);
    expect_echo(&third, 1000);
}

/* ---- the client ---- */

static void test_the_client_dials_target_once_per_connection(void)
{
    struct pair first = join(0);

    expect_no_caller_yet(&first.client.app);
    struct pair second = join_another(0, &first);
    expect_no_caller_yet(&first.client.app);
    exchange(&first.user, &first.app, 1000, 1000);
    exchange(&second.user, &second.app, 1000, 1000);
}

static void test_the_client_resets_the_connection_when_target_is_not_there(void)
{
    struct door target = hold_port("TARGET");
    struct program *client = run("client", "-p 0 127.0.0.1:%d", target.port);
    int port = port_for(client, "connections");

    int before = open_descriptors(client);

    target.with = client;
    for (int i = 0; i < 3; i++) {
        struct peer user = dial("the user", client, port);

        expect_reset(&user); /* an orderly end would say that this was all */
    }
    if (before >= 0)
        expect_descriptors(client, before);
    open_it(&target);
    struct peer user = dial("the user", client, port), app = expect_caller(&target, "TARGET");
    exchange(&user, &app, 1000, 1000);
}

static void test_a_connection_that_waits_for_target_is_closed_when_the_client_stops(void)
{
    struct door target = open_door("TARGET");
    struct program *client = run("client", "-p 0 127.0.0.1:%d", target.port);

    fill_queue(&target);
    struct peer user = dial("the user", client, port_for(client, "connections"));
    expect_log(client, "opened", "the client to log the connection");
    expect_nothing_yet(&user);
    send_signal(client, SIGTERM);
    expect_closed(&user, "to be closed, as the client stops");
    expect_exit(client, 0);
}

static void test_target_is_host_and_port(void)
{
    static const char *const wrong[] = {"localhost", "localhost:", "localhost:http", "localhost:65536",
                                        "localhost:0x50"};
    struct door target = open_door("TARGET"), six;
    struct program *client = run("client", "-p 0 localhost:%d", target.port);
    struct peer user = dial("the user", client, port_for(client, "connections"));

    target.with = client;
    expect_caller(&target, "TARGET");
    leave(&user);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        expect_exit(run("client", "-p 0 %s", wrong[i]), 2);
    if (!has_ipv6())
        return;
    six = open_door_ipv6("TARGET");
    six.with = run("client", "-p 0 [::1]:%d", six.port);
    user = dial("the user", six.with, port_for(six.with, "connections"));
    expect_caller(&six, "TARGET");
}

static void test_client_and_server_together_return_what_was_said(void)
{
    struct program *server = run("server", "-p 0");
    struct program *client = run("client", "-p 0 127.0.0.1:%d", port_for(server, "connections"));
    struct peer user = dial("the user", client, port_for(client, "connections"));

    expect_echo(&user, 4 * 1000 * 1000);
    finish(&user);
    expect_end(&user);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        /* the server */
        SPEC(test_the_server_echoes_what_it_hears),
        SPEC(test_the_server_echoes_to_each_its_own),
        SPEC(test_the_server_echoes_many_bytes_while_they_still_come),
        SPEC(test_the_server_echoes_all_to_a_peer_that_closes_its_side),
        SPEC(test_the_server_closes_when_its_peer_has_said_nothing_and_closed),
        SPEC(test_the_server_serves_others_while_one_does_not_read),
        SPEC(test_the_server_lives_on_after_a_reset),
        /* the client */
        SPEC(test_the_client_dials_target_once_per_connection),
        SPEC(test_what_one_side_says_reaches_the_other),
        SPEC(test_bytes_both_ways_at_once_arrive_as_they_were_sent),
        SPEC(test_pairs_are_joined_apart_from_each_other),
        SPEC(test_a_user_that_closes_its_side_still_gets_its_answer),
        SPEC(test_an_app_that_closes_its_side_still_hears_the_user),
        SPEC(test_an_app_that_speaks_first_is_heard),
        SPEC(test_an_answer_before_the_end_of_the_question_reaches_the_user),
        SPEC(test_a_reset_by_the_user_reaches_the_app_as_a_reset),
        SPEC(test_a_reset_by_the_app_reaches_the_user_as_a_reset),
        SPEC(test_a_side_that_does_not_read_stops_only_its_own_pair),
        SPEC(test_joined_connections_cost_nothing_while_nothing_is_said),
        SPEC(test_joined_connections_leave_no_descriptor_behind),
        SPEC(test_the_client_resets_the_connection_when_target_is_not_there),
        SPEC(test_a_connection_that_waits_for_target_is_closed_when_the_client_stops),
        SPEC(test_target_is_host_and_port),
        /* both */
        SPEC(test_client_and_server_together_return_what_was_said),
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
        SPEC(test_an_option_of_another_stage_is_wrong_usage),
        SPEC(test_help_names_the_options_of_this_stage_and_no_others),
        SPEC(test_version_is_one_line_and_exit_is_0),
        SPEC(test_every_log_line_has_its_time_and_program_in_front),
        SPEC(test_verbose_logs_more_and_quiet_logs_nothing_while_all_is_well),
        SPEC(test_sigint_and_sigterm_stop_both_with_exit_0),
    };

    return spec_run_all(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
