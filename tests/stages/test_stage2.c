/* Stage 2, proxy connections: users at the public port are joined to proxy connections of the client,
 * which echoes. */
#include "spec.h"

#include <stdio.h>

const int stage = 2;

/* ---- the client; the test plays the server ---- */

static void test_the_client_echoes_what_comes_through_a_proxy_connection(void)
{
    struct client client = start_welcome_client("");
    struct peer first = ask_for_proxy(&client, first_token, "a proxy connection");
    struct peer second = ask_for_proxy(&client, first_token, "another proxy connection");

    say(&first, "one");
    say(&second, "two");
    expect_bytes(&second, "two");
    expect_bytes(&first, "one");
    expect_echo(&first, 4 * 1000 * 1000);
    size_t size = stuff(&first);
    expect_echo(&second, 1000000); /* while the first does not read */
    finish(&first);
    expect_stuffed(&first, size);
    expect_end(&first);
}

static void test_the_client_says_nothing_but_the_proxy_line_by_itself(void)
{
    struct client client = start_welcome_client("--heartbeat 1");
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

    for (int i = 0; i < 2; i++)
        answer_ping(&client);
    expect_nothing_yet(&proxy);
    say(&proxy, "x");
    expect_bytes(&proxy, "x");
}

static void test_the_client_lives_on_when_a_proxy_connection_is_lost(void)
{
    struct client client = start_welcome_client("--heartbeat 1");

    for (int i = 0; i < 4; i++) {
        struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

        say(&proxy, "x");
        expect_bytes(&proxy, "x");
        if (i % 2 == 0)
            reset(&proxy);
        else
            leave(&proxy);
    }
    answer_ping(&client);
    ask_for_proxy(&client, first_token, "a proxy connection");
}

static void test_the_client_echoes_on_when_the_control_connection_is_lost(void)
{
    struct client client = start_welcome_client("");
    struct peer proxy = ask_for_proxy(&client, first_token, "a proxy connection");

    expect_echo(&proxy, 1000);
    leave(&client.server);
    expect_hello(&client);
    expect_echo(&proxy, 100000);
    finish(&proxy);
    expect_end(&proxy);
}

static void test_the_client_opens_what_the_new_session_asks_for_while_the_old_is_still_dialed(void)
{
    struct client client = start_welcome_client("");

    fill_queue(&client.proxy);
    say(&client.server, "create_proxy\n");
    answer_ping(&client);
    leave(&client.server);
    expect_hello(&client);
    welcome(&client, second_token);
    expect_caller(&client.proxy, "who filled the queue");
    ask_for_proxy(&client, second_token, "a proxy connection");
}

/* ---- both ---- */

static struct program *run_client(struct server *server)
{
    return run("client", "-c %d -x %d 127.0.0.1", server->control_port, server->proxy_port);
}

static void test_client_and_server_together_return_what_a_user_said(void)
{
    enum { USERS = 40 };
    struct server server = start_server("--wait 60");
    struct peer users[USERS];

    for (int i = 0; i < USERS; i++) {
        users[i] = dial("a user", server.program, server.public_port);
        say(&users[i], "I am %d", i);
        if (i == USERS / 2) /* half of them come while no client is there */
            run_client(&server);
    }
    for (int i = 0; i < USERS; i++) {
        char text[20];

        snprintf(text, sizeof text, "I am %d", i);
        expect_bytes(&users[i], text);
        finish(&users[i]);
        expect_end(&users[i]);
    }
    struct peer user = dial("the user", server.program, server.public_port);
    expect_echo(&user, 4 * 1000 * 1000);
}

static void test_users_wait_while_the_client_is_replaced_by_another(void)
{
    struct server server = start_server("");
    struct program *client = run_client(&server);
    struct peer user = dial("the user", server.program, server.public_port);

    say(&user, "x");
    expect_bytes(&user, "x");
    kill_program(client);
    expect_closed(&user, "the end, as the client that echoed has gone");
    user = dial("the user", server.program, server.public_port);
    say(&user, "y");
    run_client(&server);
    expect_bytes(&user, "y");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        /* the server: the control connection */
        SPEC(test_the_server_answers_hello_with_welcome),
        SPEC(test_the_token_is_32_hex_digits_and_new_in_every_session),
        SPEC(test_the_token_is_not_in_the_log),
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
        SPEC(test_users_are_served_first_come_first_served),
        SPEC(test_proxy_connections_are_used_first_come_first_served),
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
        SPEC(test_bytes_right_behind_the_proxy_line_are_for_the_user),
        SPEC(test_a_wrong_token_never_meets_a_user),
        SPEC(test_an_old_token_never_meets_a_user),
        SPEC(test_a_proxy_connection_of_a_client_that_has_gone_never_meets_a_user),
        SPEC(test_a_proxy_connection_that_is_reset_while_it_waits_is_not_used),
        SPEC(test_each_port_knows_its_own_first_line_only),
        SPEC(test_waiting_costs_no_processor_time),
        /* the server: joined connections */
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
        SPEC(test_joined_connections_outlive_the_control_connection),
        SPEC(test_a_user_is_logged_with_number_address_bytes_and_time),
        SPEC(test_the_soft_limit_on_descriptors_is_raised),
        SLOW_SPEC(test_a_server_without_free_descriptors_goes_on_when_some_are_free),
        /* the client */
        SLOW_SPEC(test_the_client_says_hello_first_and_then_waits),
        SLOW_SPEC(test_the_client_pings_once_in_a_heartbeat),
        SLOW_SPEC(test_the_client_understands_lines_in_pieces_and_together),
        SPEC(test_the_client_opens_a_proxy_connection_per_create_proxy),
        SLOW_SPEC(test_the_client_says_nothing_but_the_proxy_line_by_itself),
        SPEC(test_the_client_echoes_what_comes_through_a_proxy_connection),
        SPEC(test_the_client_lives_on_when_a_proxy_connection_is_lost),
        SLOW_SPEC(test_the_client_lives_on_when_the_proxy_port_cannot_be_reached),
        SLOW_SPEC(test_the_client_does_not_pile_up_what_it_could_not_open),
        SLOW_SPEC(test_the_client_drops_a_server_that_is_silent_for_three_heartbeats),
        SLOW_SPEC(test_the_client_comes_back_half_a_second_after_any_loss),
        SPEC(test_the_client_uses_the_token_of_its_newest_welcome),
        SPEC(test_the_client_echoes_on_when_the_control_connection_is_lost),
        SPEC(test_the_client_opens_what_the_new_session_asks_for_while_the_old_is_still_dialed),
        SPEC(test_the_client_comes_back_when_the_server_is_lost_right_after_welcome),
        SLOW_SPEC(test_the_client_comes_back_when_it_was_told_busy),
        SLOW_SPEC(test_the_client_tries_again_every_second_while_the_server_is_busy),
        SLOW_SPEC(test_the_client_waits_longer_after_each_failure_until_a_welcome),
        SPEC(test_the_client_keeps_trying_while_no_server_is_there),
        SPEC(test_the_client_tries_every_address_of_a_name),
        SPEC(test_the_client_does_not_take_the_welcome_of_another_stage),
        /* both */
        SPEC(test_client_and_server_together_return_what_a_user_said),
        SPEC(test_the_six_steps_are_logged_with_their_numbers),
        SLOW_SPEC(test_client_and_server_find_each_other_again_after_a_restart),
        SPEC(test_users_wait_while_the_client_is_replaced_by_another),
        SPEC(test_a_second_client_takes_over_when_the_first_ends),
        SLOW_SPEC(test_whoever_does_not_say_the_first_line_within_5_s_is_closed),
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
        SPEC(test_every_log_line_has_its_time_and_program_in_front),
        SLOW_SPEC(test_verbose_logs_more_and_quiet_logs_nothing_while_all_is_well),
        SLOW_SPEC(test_sigint_and_sigterm_stop_both_with_exit_0),
    };

    return spec_run_all(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
