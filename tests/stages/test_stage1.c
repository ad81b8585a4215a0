/* Stage 1, the control connection: one client at a time, a heartbeat, and a client that comes back after
 * any loss. */
#include "spec.h"

const int stage = 1;

static void test_count_ends_the_client_with_exit_0_after_so_many_pongs(void)
{
    struct client client = start_welcome_client("-n 3 --heartbeat 1");

    for (int i = 0; i < 3; i++) {
        expect_line(&client.server, "ping");
        expect_running(client.program);
        say(&client.server, "pong\n");
    }
    expect_exit(client.program, 0);
}

static void test_client_and_server_together_exchange_ping_and_pong(void)
{
    struct server server = start_server("--heartbeat 1");
    struct program *client = run("client", "-c %d --count 2 --heartbeat 0.3 127.0.0.1", server.control_port);

    expect_log(server.program, "step 1:", "the server to log that it waits for the client (`step 1: ...`)");
    expect_log(server.program,
               "step 2:", "the server to log that the client opened the control connection (`step 2: ...`)");
    expect_log(client, "step 2:", "the client to log that it opened the control connection (`step 2: ...`)");
    expect_exit(client, 0);
    open_control(&server);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        /* the server */
        SPEC(test_the_server_answers_hello_with_welcome),
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
        /* the client */
        SLOW_SPEC(test_the_client_says_hello_first_and_then_waits),
        SLOW_SPEC(test_the_client_pings_once_in_a_heartbeat),
        SLOW_SPEC(test_the_client_understands_lines_in_pieces_and_together),
        SLOW_SPEC(test_count_ends_the_client_with_exit_0_after_so_many_pongs),
        SLOW_SPEC(test_the_client_drops_a_server_that_is_silent_for_three_heartbeats),
        SLOW_SPEC(test_the_client_comes_back_half_a_second_after_any_loss),
        SPEC(test_the_client_comes_back_when_the_server_is_lost_right_after_welcome),
        SLOW_SPEC(test_the_client_comes_back_when_it_was_told_busy),
        SLOW_SPEC(test_the_client_tries_again_every_second_while_the_server_is_busy),
        SLOW_SPEC(test_the_client_waits_longer_after_each_failure_until_a_welcome),
        SPEC(test_the_client_keeps_trying_while_no_server_is_there),
        SPEC(test_the_client_tries_every_address_of_a_name),
        SPEC(test_the_client_does_not_take_the_welcome_of_another_stage),
        /* both */
        SPEC(test_client_and_server_together_exchange_ping_and_pong),
        SLOW_SPEC(test_client_and_server_find_each_other_again_after_a_restart),
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
