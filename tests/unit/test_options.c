/* options: the command line. */
#include "unit.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../common/options.h"

enum { ALL = (1 << 13) - 1, MOST_WORDS = 16 };

static struct options options;

static int begin(void **state)
{
    unsetenv("TUNNEL_SECRET");
    options = (struct options){.listen.port = 54287};
    return unit_begin(state);
}

#define OPTIONS(test)                                                                                        \
    {                                                                                                        \
#test, test, begin, unit_end, NULL                                                                   \
    }

/* Parses a command line, split at blanks, that the options keep pointing into. */
static int parse_as(unsigned known, const char *arguments, const char *line)
{
    static char words[500];
    char *argv[MOST_WORDS] = {"./ngrok--d"}; /* as it was called */
    struct usage usage = {"server", "Serves.", known, arguments};
    int argc = 1;

    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    log_forget();
    options.listen = (struct endpoint){.port = 54287};
    optind = 0; /* a program parses once; have getopt_long start over */
    return options_parse(&options, &usage, argc, argv);
}

static int parse(const char *line)
{
    return parse_as(ALL, "", line);
}

/* Wrong usage: said in one line, status 2. */
static void expect_wrong(const char *line, const char *text)
{
    int status = parse(line);

    if (status != 2 || times_logged(text) != 1)
        print_error("\"%s\" gave status %d, and: %s\n", line, status, logged());
    assert_int_equal(status, 2);
    assert_int_equal(times_logged(text), 1);
    assert_int_equal(times_logged("\n"), 1);
    later(2000); /* the next complaint is not to be held back */
}

/* What the program prints on stdout. */
static const char *output_of(const char *line, unsigned known, const char *arguments)
{
    static char text[4096];
    int real = dup(STDOUT_FILENO);
    FILE *file = tmpfile();

    assert_non_null(file);
    fflush(stdout);
    dup2(fileno(file), STDOUT_FILENO);
    int status = parse_as(known, arguments, line);
    fflush(stdout);
    dup2(real, STDOUT_FILENO);
    close(real);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    assert_int_equal(status, 0);
    assert_string_equal(logged(), "");
    return text;
}

/* ---- values ---- */

static void test_without_options_everything_has_its_default(void **state)
{
    (void)state;
    assert_int_equal(parse(""), OPTIONS_OK);
    assert_int_equal(options.listen.port, 54287); /* the program's own */
    assert_int_equal(options.control.port, 60623);
    assert_int_equal(options.public.port, 60624);
    assert_int_equal(options.proxy.port, 60625);
    assert_null(options.bind);
    assert_int_equal(options.heartbeat_ms, 5000);
    assert_int_equal(options.wait_ms, 15000);
    assert_int_equal(options.spares, 24);
    assert_int_equal(options.drain_ms, 8000);
    assert_int_equal(options.count, 0);
    assert_int_equal(options.log_level, LOG_NORMAL);
    assert_false(options.proxy_protocol);
    assert_null(options.congestion);
    assert_string_equal(options.secret, "");
    assert_null(options.arguments[0]);
    assert_null(options.arguments[1]);
    assert_string_equal(logged(), "");
}

static void test_each_option_has_a_long_form(void **state)
{
    (void)state;
    assert_int_equal(parse("--listen-port 1 --control-port=2 --public-port 3 --proxy-port 4 --bind ::1"),
                     OPTIONS_OK);
    assert_int_equal(options.listen.port, 1);
    assert_int_equal(options.control.port, 2);
    assert_int_equal(options.public.port, 3);
    assert_int_equal(options.proxy.port, 4);
    assert_string_equal(options.bind, "::1");
    assert_int_equal(parse("--heartbeat 0.25 --wait 1.5 --spares 3 --drain 0 --count 12 --verbose"),
                     OPTIONS_OK);
    assert_int_equal(options.heartbeat_ms, 250);
    assert_int_equal(options.wait_ms, 1500);
    assert_int_equal(options.spares, 3);
    assert_int_equal(options.drain_ms, 0);
    assert_int_equal(options.count, 12);
    assert_int_equal(options.log_level, LOG_VERBOSE);
    assert_int_equal(parse("--proxy-protocol --congestion bbr"), OPTIONS_OK);
    assert_true(options.proxy_protocol);
    assert_string_equal(options.congestion, "bbr");
    assert_int_equal(parse("--quiet"), OPTIONS_OK);
    assert_int_equal(options.log_level, LOG_QUIET);
}

static void test_the_common_ones_have_a_letter(void **state)
{
    (void)state;
    assert_int_equal(parse("-p 1 -c 2 -u3 -x 65535 -b 127.0.0.1 -n 7 -q"), OPTIONS_OK);
    assert_int_equal(options.listen.port, 1);
    assert_int_equal(options.control.port, 2);
    assert_int_equal(options.public.port, 3);
    assert_int_equal(options.proxy.port, 65535);
    assert_string_equal(options.bind, "127.0.0.1");
    assert_int_equal(options.count, 7);
    assert_int_equal(options.log_level, LOG_QUIET);
    assert_int_equal(parse("-v"), OPTIONS_OK);
    assert_int_equal(options.log_level, LOG_VERBOSE);
}

static void test_port_0_may_be_asked_for(void **state)
{
    (void)state;
    assert_int_equal(parse("-p 0 -c 0 -u 0 -x 0"), OPTIONS_OK);
    assert_int_equal(options.listen.port + options.control.port + options.public.port + options.proxy.port,
                     0);
}

static void test_no_spares_may_be_asked_for(void **state)
{
    (void)state;
    assert_int_equal(parse("--spares 0"), OPTIONS_OK);
    assert_int_equal(options.spares, 0);
}

static void test_the_last_of_two_counts(void **state)
{
    (void)state;
    assert_int_equal(parse("-c 1 -c 2"), OPTIONS_OK);
    assert_int_equal(options.control.port, 2);
    assert_int_equal(parse("-c 127.0.0.1:1 -c 2"), OPTIONS_OK);
    assert_string_equal(options.control.address, "");
}

static void test_parsing_again_starts_from_the_defaults(void **state)
{
    (void)state;
    assert_int_equal(parse("-c 1 -b ::1"), OPTIONS_OK);
    assert_int_equal(parse(""), OPTIONS_OK);
    assert_int_equal(options.control.port, 60623);
    assert_null(options.bind);
}

/* ---- addresses ---- */

static void expect_endpoint(const struct endpoint *where, const char *address, int port)
{
    assert_string_equal(where->address, address);
    assert_int_equal(where->port, port);
}

static void test_a_port_may_have_an_address(void **state)
{
    (void)state;
    assert_int_equal(parse("-p 192.0.2.1:1 -c [::1]:2 -u [fe80::1]:3 -x localhost:0"), OPTIONS_OK);
    expect_endpoint(&options.listen, "192.0.2.1", 1);
    expect_endpoint(&options.control, "::1", 2);
    expect_endpoint(&options.public, "fe80::1", 3);
    expect_endpoint(&options.proxy, "localhost", 0);
}

static void test_without_one_it_is_for_all_addresses(void **state)
{
    (void)state;
    assert_int_equal(parse("-c 2"), OPTIONS_OK);
    expect_endpoint(&options.listen, "", 54287);
    expect_endpoint(&options.control, "", 2);
    expect_endpoint(&options.public, "", 60624);
    expect_endpoint(&options.proxy, "", 60625);
}

static void test_bind_is_for_those_that_have_none(void **state)
{
    static const char *const lines[] = {"-c 192.0.2.1:2 -u 3 -b 127.0.0.1",
                                        "-b 127.0.0.1 -c 192.0.2.1:2 -u 3"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(parse(lines[i]), OPTIONS_OK);
        expect_endpoint(&options.listen, "127.0.0.1", 54287);
        expect_endpoint(&options.control, "192.0.2.1", 2);
        expect_endpoint(&options.public, "127.0.0.1", 3);
        expect_endpoint(&options.proxy, "127.0.0.1", 60625);
    }
}

static void test_an_address_to_bind_may_stand_in_brackets(void **state)
{
    (void)state;
    assert_int_equal(parse("-b [::1]"), OPTIONS_OK);
    expect_endpoint(&options.control, "::1", 60623);
    assert_int_equal(parse("-b ::1"), OPTIONS_OK);
    expect_endpoint(&options.control, "::1", 60623);
}

static void test_who_does_not_listen_has_ports_without_addresses(void **state)
{
    unsigned clients = OPT_CONTROL_PORT | OPT_PROXY_PORT;

    (void)state;
    assert_int_equal(parse_as(clients, "", "-c 127.0.0.1:1"), 2);
    expect_logged("ADDRESS:PORT, and port 0, are for a server");
    assert_int_equal(parse_as(clients, "", "-c 0"), 2);
    assert_int_equal(parse_as(clients, "", "-x 0"), 2);
    later(2000);
    assert_int_equal(parse_as(clients, "", "-x [::1]:1"), 2);
    assert_int_equal(parse_as(clients, "", "-c 1 -x 2"), OPTIONS_OK);
}

static void test_each_port_knows_its_option(void **state)
{
    (void)state;
    assert_int_equal(parse("-c 1 -b ::1"), OPTIONS_OK);
    assert_string_equal(options.listen.option, "-p");
    assert_string_equal(options.control.option, "-c");
    assert_string_equal(options.public.option, "-u");
    assert_string_equal(options.proxy.option, "-x");
}

/* ---- wrong usage ---- */

static void test_a_port_is_a_number_up_to_65535(void **state)
{
    static const char *const names[] = {"listen-port", "control-port", "public-port", "proxy-port"};
    static const char *const wrong[] = {"65536", "-1", "+1", "x", "1x", "1.5", "99999999999999999999",
                                        "0x10"};
    char line[100], text[250];

    (void)state;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++) {
            snprintf(line, sizeof line, "--%s=%s", names[i], wrong[j]);
            snprintf(text, sizeof text,
                     "server: --%s can't be \"%s\": it takes a number from 0 to 65535 (0: any free one), for "
                     "a server "
                     "also ADDRESS:PORT or [::1]:PORT (see --help)\n",
                     names[i], wrong[j]);
            expect_wrong(line, text);
        }
    expect_wrong("--listen-port=", "--listen-port can't be \"\"");
}

static void test_an_address_without_a_port_is_wrong_usage(void **state)
{
    static const char *const wrong[] = {":80",   "[]:80",           "127.0.0.1:", "127.0.0.1",
                                        "[::1]", "127.0.0.1:65536", "::1",        "::1:80"};
    char line[100], text[100];

    (void)state;
    for (int i = 0; i < 8; i++) {
        snprintf(line, sizeof line, "-u %s", wrong[i]);
        snprintf(text, sizeof text, "--public-port can't be \"%s\"", wrong[i]);
        expect_wrong(line, text);
    }
}

static void test_an_address_has_63_letters_at_most(void **state)
{
    char line[100] = "-u ", address[65];

    (void)state;
    memset(address, 'a', sizeof address);
    address[63] = '\0';
    snprintf(line, sizeof line, "-u %s:80", address);
    assert_int_equal(parse(line), OPTIONS_OK);
    assert_string_equal(options.public.address, address);
    address[63] = 'a';
    address[64] = '\0';
    snprintf(line, sizeof line, "-u %s:80", address);
    expect_wrong(line, "--public-port can't be");
    snprintf(line, sizeof line, "-b %s", address);
    expect_wrong(line, "it takes an address of this machine (see --help)\n");
    expect_wrong("--bind=", "--bind can't be \"\": it takes an address of this machine");
}

static void test_times_are_seconds_up_to_a_day(void **state)
{
    static const char *const wrong[] = {"-1", "x", "1x", "1s", "nan", "inf", "-nan", "1e99", "86401", "+1"};
    char line[100];

    (void)state;
    assert_int_equal(parse("--heartbeat 0.01 --wait 86400 --drain .5"), OPTIONS_OK);
    assert_int_equal(options.heartbeat_ms, 10);
    assert_int_equal(options.wait_ms, 86400000);
    assert_int_equal(options.drain_ms, 500);
    for (int i = 0; i < 10; i++) {
        snprintf(line, sizeof line, "--heartbeat=%s", wrong[i]);
        expect_wrong(line, "--heartbeat can't be");
        snprintf(line, sizeof line, "--wait=%s", wrong[i]);
        expect_wrong(line, "--wait can't be");
        snprintf(line, sizeof line, "--drain=%s", wrong[i]);
        expect_wrong(line, "--drain can't be");
    }
    expect_wrong("--heartbeat 0",
                 "--heartbeat can't be \"0\": it takes a number of seconds, up to a day (see --help)\n");
    expect_wrong("--heartbeat=", "--heartbeat can't be");
}

static void test_numbers_have_their_limits(void **state)
{
    (void)state;
    expect_wrong("--spares -1", "--spares can't be");
    expect_wrong("--spares 1001",
                 "--spares can't be \"1001\": it takes a whole number up to 1000 (see --help)\n");
    expect_wrong("-n 0", "--count can't be \"0\": it takes a whole number from 1 (see --help)\n");
    expect_wrong("-n many", "--count can't be");
}

static void test_unknown_options_are_wrong_usage(void **state)
{
    (void)state;
    expect_wrong("--nonsense", "unknown option --nonsense");
    expect_wrong("-Z", "unknown option -Z");
    expect_wrong("-vZ", "unknown option -Z");
}

static void test_an_option_that_means_nothing_here_is_unknown(void **state)
{
    (void)state;
    assert_int_equal(parse_as(OPT_CONTROL_PORT, "", "--spares 3"), 2);
    expect_logged("unknown option --spares");
    later(2000);
    assert_int_equal(parse_as(OPT_CONTROL_PORT, "", "-u 3"), 2);
    expect_logged("unknown option -u");
    assert_int_equal(parse_as(OPT_CONTROL_PORT, "", "-c 3"), OPTIONS_OK);
}

static void test_a_missing_value_is_wrong_usage(void **state)
{
    (void)state;
    expect_wrong("-c", "-c needs an argument");
    expect_wrong("--wait", "--wait needs an argument");
}

static void test_a_value_that_is_not_wanted_is_wrong_usage(void **state)
{
    (void)state;
    assert_int_equal(parse("--verbose=3"), 2);
    assert_int_equal(times_logged("\n"), 1);
}

/* ---- what is not an option ---- */

static void test_arguments_are_taken_wherever_they_stand(void **state)
{
    (void)state;
    assert_int_equal(parse_as(ALL, "LOCAL [SERVER]", "8080 -v example.com"), OPTIONS_OK);
    assert_string_equal(options.arguments[0], "8080");
    assert_string_equal(options.arguments[1], "example.com");
    assert_int_equal(options.log_level, LOG_VERBOSE);
}

static void test_after_two_dashes_nothing_is_an_option(void **state)
{
    (void)state;
    assert_int_equal(parse_as(ALL, "[SERVER]", "-- -v"), OPTIONS_OK);
    assert_string_equal(options.arguments[0], "-v");
}

static void test_arguments_in_brackets_may_be_left_out(void **state)
{
    (void)state;
    assert_int_equal(parse_as(ALL, "LOCAL [SERVER]", "8080"), OPTIONS_OK);
    assert_null(options.arguments[1]);
    assert_int_equal(parse_as(ALL, "[SERVER]", ""), OPTIONS_OK);
    assert_null(options.arguments[0]);
}

static void test_others_may_not(void **state)
{
    (void)state;
    assert_int_equal(parse_as(ALL, "LOCAL [SERVER]", ""), 2);
    expect_logged("LOCAL is missing");
}

static void test_more_than_that_are_too_many(void **state)
{
    (void)state;
    assert_int_equal(parse_as(ALL, "", "one"), 2);
    expect_logged("unexpected argument \"one\"");
    later(2000);
    assert_int_equal(parse_as(ALL, "LOCAL [SERVER]", "one two three"), 2);
    expect_logged("unexpected argument \"three\"");
}

/* ---- help ---- */

static void test_help_shows_the_options_that_there_are(void **state)
{
    (void)state;
    const char *help = output_of("--help", OPT_CONTROL_PORT | OPT_WAIT, "LOCAL [SERVER]");
    assert_non_null(strstr(help, "usage: ./ngrok--d [options] LOCAL [SERVER]\nServes.\n"));
    assert_non_null(strstr(help, "\n  LOCAL "));
    assert_non_null(strstr(help, "\n  SERVER "));
    assert_null(strstr(help, "\n  TARGET "));
    assert_non_null(strstr(help, "  -c, --control-port PORT "));
    assert_non_null(strstr(help, "      --wait SECONDS "));
    assert_non_null(strstr(help, "  -h, --help "));
    assert_non_null(strstr(help, "  -V, --version "));
    assert_null(strstr(help, "--spares"));
    help = output_of("-h", ALL, "[TARGET]");
    assert_non_null(strstr(help, "\n  TARGET "));
    assert_null(strstr(help, "\n  LOCAL "));
    assert_non_null(strstr(help, "      --proxy-protocol "));
    assert_non_null(strstr(help, "      --congestion NAME "));
    assert_non_null(strstr(output_of("-h", ALL, ""), "usage: ./ngrok--d [options]\n"));
}

static void test_the_version_is_shown(void **state)
{
    (void)state;
    assert_non_null(strstr(output_of("--version", ALL, ""), "server of ngrok--"));
    assert_non_null(strstr(output_of("-V", ALL, ""), "server of ngrok--"));
}

/* ---- the secret ---- */

/* Parses --secret-file with a file of these bytes. */
static int parse_file(const char *bytes, size_t size)
{
    char path[] = "/tmp/test_options.XXXXXX", line[60];
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
    snprintf(line, sizeof line, "--secret-file %s", path);
    int status = parse(line);
    unlink(path);
    later(2000);
    return status;
}

static int parse_file_text(const char *text)
{
    return parse_file(text, strlen(text));
}

static void test_the_secret_is_the_line_in_the_file(void **state)
{
    static const char *const files[] = {"open sesame", "open sesame\n", "open sesame\r\n"};

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(parse_file_text(files[i]), OPTIONS_OK);
        assert_string_equal(options.secret, "open sesame");
    }
}

static void test_a_secret_has_100_bytes_at_most(void **state)
{
    char text[300];

    (void)state;
    memset(text, 's', sizeof text);
    assert_int_equal(parse_file(text, 100), OPTIONS_OK);
    assert_int_equal(strlen(options.secret), 100);
    assert_int_equal(parse_file(text, 101), 1);
    expect_logged("longer than 100 bytes");
    assert_int_equal(parse_file(text, 300), 1);
    expect_logged("longer than 100 bytes");
    text[100] = '\n';
    assert_int_equal(parse_file(text, 101), OPTIONS_OK);
}

static void test_what_is_no_secret_is_an_error_that_does_not_show_it(void **state)
{
    (void)state;
    assert_int_equal(parse_file_text(""), 1);
    expect_logged("there is no secret in /tmp/test_options.");
    assert_int_equal(parse_file_text("\n"), 1);
    expect_logged("there is no secret in /tmp/test_options.");
    assert_int_equal(parse_file_text("open\nsesame\n"), 1);
    expect_logged("is more than one line");
    assert_int_equal(times_logged("sesame"), 0);
    assert_int_equal(parse_file("open\0sesame", 11), 1);
    expect_logged("is not text");
    assert_int_equal(times_logged("sesame"), 0);
}

static void test_a_file_that_cannot_be_read_is_an_error(void **state)
{
    (void)state;
    assert_int_equal(parse("--secret-file /nonexistent"), 1);
    expect_logged("cannot read the secret from /nonexistent: No such file or directory");
    later(2000);
    assert_int_equal(parse("--secret-file /tmp"), 1);
    expect_logged("cannot read the secret from /tmp: Is a directory");
}

static void test_else_it_is_in_the_environment(void **state)
{
    (void)state;
    setenv("TUNNEL_SECRET", "open sesame", 1);
    assert_int_equal(parse(""), OPTIONS_OK);
    assert_string_equal(options.secret, "open sesame");
    assert_int_equal(parse_file_text("of the file\n"), OPTIONS_OK);
    assert_string_equal(options.secret, "of the file");
}

static void test_an_empty_or_wrong_secret_in_the_environment_is_an_error(void **state)
{
    (void)state;
    setenv("TUNNEL_SECRET", "", 1);
    assert_int_equal(parse(""), 1);
    expect_logged("there is no secret in TUNNEL_SECRET");
    setenv("TUNNEL_SECRET", "two\nlines", 1);
    assert_int_equal(parse(""), 1);
    expect_logged("the secret in TUNNEL_SECRET is more than one line");
}

static void test_a_program_without_secrets_does_not_look_for_one(void **state)
{
    (void)state;
    setenv("TUNNEL_SECRET", "open sesame", 1);
    assert_int_equal(parse_as(OPT_CONTROL_PORT, "", ""), OPTIONS_OK);
    assert_string_equal(options.secret, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        OPTIONS(test_without_options_everything_has_its_default),
        OPTIONS(test_each_option_has_a_long_form),
        OPTIONS(test_the_common_ones_have_a_letter),
        OPTIONS(test_port_0_may_be_asked_for),
        OPTIONS(test_no_spares_may_be_asked_for),
        OPTIONS(test_the_last_of_two_counts),
        OPTIONS(test_parsing_again_starts_from_the_defaults),
        OPTIONS(test_a_port_may_have_an_address),
        OPTIONS(test_without_one_it_is_for_all_addresses),
        OPTIONS(test_bind_is_for_those_that_have_none),
        OPTIONS(test_an_address_to_bind_may_stand_in_brackets),
        OPTIONS(test_who_does_not_listen_has_ports_without_addresses),
        OPTIONS(test_each_port_knows_its_option),
        OPTIONS(test_a_port_is_a_number_up_to_65535),
        OPTIONS(test_an_address_without_a_port_is_wrong_usage),
        OPTIONS(test_an_address_has_63_letters_at_most),
        OPTIONS(test_times_are_seconds_up_to_a_day),
        OPTIONS(test_numbers_have_their_limits),
        OPTIONS(test_unknown_options_are_wrong_usage),
        OPTIONS(test_an_option_that_means_nothing_here_is_unknown),
        OPTIONS(test_a_missing_value_is_wrong_usage),
        OPTIONS(test_a_value_that_is_not_wanted_is_wrong_usage),
        OPTIONS(test_arguments_are_taken_wherever_they_stand),
        OPTIONS(test_after_two_dashes_nothing_is_an_option),
        OPTIONS(test_arguments_in_brackets_may_be_left_out),
        OPTIONS(test_others_may_not),
        OPTIONS(test_more_than_that_are_too_many),
        OPTIONS(test_help_shows_the_options_that_there_are),
        OPTIONS(test_the_version_is_shown),
        OPTIONS(test_the_secret_is_the_line_in_the_file),
        OPTIONS(test_a_secret_has_100_bytes_at_most),
        OPTIONS(test_what_is_no_secret_is_an_error_that_does_not_show_it),
        OPTIONS(test_a_file_that_cannot_be_read_is_an_error),
        OPTIONS(test_else_it_is_in_the_environment),
        OPTIONS(test_an_empty_or_wrong_secret_in_the_environment_is_an_error),
        OPTIONS(test_a_program_without_secrets_does_not_look_for_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
