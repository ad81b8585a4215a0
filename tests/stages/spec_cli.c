/* The command line, the log and the exit status. */
#include "spec.h"

#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { SERVER = 1, CLIENT = 2 };

/* Every long option, with the stages in which server and client have it. */
static const struct {
    const char *name, *value;
    int server_from, server_to, client_from, client_to;
} options[] = {
    {"listen-port", "0", 0, 0, 0, 0},
    {"control-port", "0", 1, 3, 1, 3},
    {"public-port", "0", 2, 3, 9, 9},
    {"proxy-port", "0", 2, 3, 2, 3},
    {"bind", "::", 0, 3, 0, 0},
    {"heartbeat", "1", 1, 3, 1, 3},
    {"wait", "1", 2, 3, 9, 9},
    {"spares", "1", 3, 3, 9, 9},
    {"drain", "1", 3, 3, 3, 3},
    {"secret-file", "file", 3, 3, 3, 3},
    {"proxy-protocol", NULL, 9, 9, 3, 3},
    {"congestion", "reno", 3, 3, 3, 3},
    {"count", "1", 9, 9, 1, 1},
    {"verbose", NULL, 0, 3, 0, 3},
    {"quiet", NULL, 0, 3, 0, 3},
    {"help", NULL, 0, 3, 0, 3},
    {"version", NULL, 0, 3, 0, 3},
};

enum { OPTIONS = sizeof options / sizeof options[0] };

static bool is_for(int option, int who)
{
    return who == SERVER ? stage >= options[option].server_from && stage <= options[option].server_to
                         : stage >= options[option].client_from && stage <= options[option].client_to;
}

static const char *name_of(int who)
{
    return who == SERVER ? "server" : "client";
}

static int count_lines(const char *text)
{
    int count = 0;

    for (; *text != '\0'; text++)
        count += *text == '\n' || (text[1] == '\0' && *text != '\n');
    return count;
}

void test_help_names_the_options_of_this_stage_and_no_others(void)
{
    for (int who = SERVER; who <= CLIENT; who++)
        for (int letter = 0; letter < 2; letter++) {
            struct program *program = run(name_of(who), letter ? "-h" : "--help");

            expect_exit(program, 0);
            for (int i = 0; i < OPTIONS; i++) {
                char text[40];

                snprintf(text, sizeof text, "--%s", options[i].name);
                if (is_for(i, who) && strstr(output_of(program), text) == NULL)
                    unmet(program, "the help on standard output to name every option", "%s is not there",
                          text);
                if (!is_for(i, who) && strstr(output_of(program), text) != NULL)
                    unmet(program, "the help to name no option that means nothing here", "%s is there", text);
            }
        }
}

void test_version_is_one_line_and_exit_is_0(void)
{
    for (int who = SERVER; who <= CLIENT; who++)
        for (int letter = 0; letter < 2; letter++) {
            struct program *program = run(name_of(who), letter ? "-V" : "--version");

            expect_exit(program, 0);
            if (count_lines(output_of(program)) != 1 || strpbrk(output_of(program), "0123456789") == NULL)
                unmet(program, "one line with the version on standard output", "`%.200s` came",
                      output_of(program));
        }
}

/* Programs that were started with a command line that is wrong; they all run at once. */
struct wrong {
    struct program *program;
    const char *word; /* which the message must name */
};

static struct wrong wrongs[64];
static int wrong_count;

static void add_wrong(struct program *program, const char *word)
{
    assert_true(wrong_count < (int)(sizeof wrongs / sizeof wrongs[0]));
    wrongs[wrong_count++] = (struct wrong){program, word};
}

/* All of them: exit 2, and one line on standard error. */
static void expect_wrong_usage(void)
{
    int count = wrong_count;

    wrong_count = 0;
    for (int i = 0; i < count; i++) {
        struct program *program = wrongs[i].program;

        expect_exit(program, 2);
        if (count_lines(log_of(program)) != 1 || strstr(log_of(program), wrongs[i].word) == NULL)
            unmet(program, "wrong usage to be told in one line that names it", "%d lines came for \"%s\"",
                  count_lines(log_of(program)), wrongs[i].word);
    }
}

void test_wrong_usage_is_one_line_and_exit_is_2(void)
{
    static const char *const ports[] = {"65536", "-1", "http", "80x"};
    const char *port = stage == 0 ? "listen-port" : "control-port";
    const char *target = stage == 0 ? "127.0.0.1:1" : stage == 3 ? "1 localhost" : "localhost";

    for (int who = SERVER; who <= CLIENT; who++) {
        add_wrong(run(name_of(who), "--no-such-option"), "no-such-option");
        add_wrong(run(name_of(who), "-Z"), "Z");
        add_wrong(run(name_of(who), "%s one-too-many", who == CLIENT ? target : ""), "one-too-many");
        add_wrong(run(name_of(who), "--%s", port), port);
        for (int i = 0; i < 4; i++)
            add_wrong(run(name_of(who), "--%s %s", port, ports[i]), ports[i]);
    }
    add_wrong(run("client", stage == 3 ? "1 [::1" : "[::1"), "[::1");
    expect_wrong_usage();
}

void test_wrong_seconds_and_numbers_are_wrong_usage(void)
{
    static const char *const seconds[] = {"0", "-1", "soon", "1s"};

    for (int who = SERVER; who <= CLIENT; who++)
        for (int i = 0; i < 4; i++)
            add_wrong(run(name_of(who), "--heartbeat %s", seconds[i]), "heartbeat");
    if (stage == 1) {
        add_wrong(run("client", "-n some"), "some");
        add_wrong(run("client", "-n 5x"), "5x");
        add_wrong(run("client", "--count 0"), "count");
    }
    if (stage >= 2)
        add_wrong(run("server", "--wait long"), "long");
    if (stage == 3) {
        add_wrong(run("server", "--spares -1"), "spares");
        add_wrong(run("server", "--drain dry"), "dry");
    }
    expect_wrong_usage();
}

void test_an_option_of_another_stage_is_wrong_usage(void)
{
    for (int i = 0; i < OPTIONS; i++)
        for (int who = SERVER; who <= CLIENT; who++)
            if (!is_for(i, who))
                add_wrong(run(name_of(who), "--%s %s", options[i].name, options[i].value), options[i].name);
    expect_wrong_usage();
}

void test_a_given_port_is_listened_on(void)
{
    struct door ports[3];
    struct program *program;

    for (int i = 0; i < 3; i++)
        ports[i] = hold_port("a port");
    if (stage == 0) {
        program = run("server", "-p %d", ports[0].port);
        assert_int_equal(port_for(program, "connections"), ports[0].port);
        program = run("client", "--listen-port %d 127.0.0.1:%d", ports[1].port, ports[0].port);
        assert_int_equal(port_for(program, "connections"), ports[1].port);
        dial("the user", program, ports[1].port);
        return;
    }
    if (stage == 1) {
        program = run("server", "-c %d", ports[0].port);
    } else {
        program = run("server", "-c %d --public-port %d -x %d", ports[0].port, ports[1].port, ports[2].port);
        assert_int_equal(port_for(program, "users"), ports[1].port);
        assert_int_equal(port_for(program, "proxy connections"), ports[2].port);
    }
    assert_int_equal(port_for(program, "the client"), ports[0].port);
    for (int i = 0; i < (stage == 1 ? 1 : 3); i++)
        dial("someone", program, ports[i].port);
}

static void expect_taken(struct program *program, int port)
{
    char number[10];

    expect_exit(program, 1);
    snprintf(number, sizeof number, "%d", port);
    const char *line = strstr(log_of(program), number);
    /* What was listened on until then may have been logged; what went wrong is the last line, and the
     * only one of its kind. */
    if (line == NULL || strchr(line, '\n') == NULL || strchr(line, '\n')[1] != '\0')
        unmet(program, "one last line that names the port that is taken", "no such line came for port %d",
              port);
}

void test_a_port_that_is_taken_is_one_line_and_exit_is_1(void)
{
    struct door taken = open_door("a port that is taken");

    if (stage == 0) {
        expect_taken(run("server", "-p %d", taken.port), taken.port);
        expect_taken(run("client", "-p %d 127.0.0.1:1", taken.port), taken.port);
        return;
    }
    if (stage == 1) {
        expect_taken(run("server", "-c %d", taken.port), taken.port);
        return;
    }
    expect_taken(run("server", "-c %d -u 0 -x 0", taken.port), taken.port);
    expect_taken(run("server", "-c 0 -u %d -x 0", taken.port), taken.port);
    expect_taken(run("server", "-c 0 -u 0 -x %d", taken.port), taken.port);
}

void test_the_default_ports_are_those_of_the_book(void)
{
    /* An address of nobody: the program can't listen there, and says for which port. So no port is
     * really taken. */
    if (stage == 0) {
        expect_taken(run("server", "-b 192.0.2.1"), 54287);
        expect_taken(run("client", "-b 192.0.2.1 127.0.0.1:1"), 54286);
    } else {
        expect_taken(run("server", "-b 192.0.2.1"), 60623);
    }
}

void test_a_name_that_is_unknown_is_one_line_and_exit_is_1(void)
{
    const char *name = "no-such..name"; /* no resolver has to be asked about that */

    for (int i = 0; i < (stage == 3 ? 2 : 1); i++) {
        struct program *program = stage == 0   ? run("client", "-p 0 %s:1", name)
                                  : stage != 3 ? run("client", "%s", name)
                                  : i == 0     ? run("client", "1 %s", name)
                                               : run("client", "%s:1 127.0.0.1", name);

        expect_exit(program, 1); /* other things may be said meanwhile: nobody waits for the look-up */
        const char *named = strstr(log_of(program), name);
        if (named == NULL || count_lines(named) != 1)
            unmet(program, "one line that names the unknown name, the last one", "%d lines came",
                  count_lines(log_of(program)));
    }
}

void test_a_program_that_cannot_start_says_why_and_exit_is_1(void)
{
    static const char *const name[] = {"server", "client"};

    for (int who = 0; who < 2; who++) {
        struct program *program = run_limited(4, 4, name[who],
                                              who == 0     ? ""
                                              : stage == 3 ? "1 127.0.0.1"
                                                           : "127.0.0.1:1");

        expect_exit(program, 1);
        if (log_of(program)[0] == '\0')
            unmet(program, "a log line that says why", "none came");
    }
}

void test_all_addresses_are_listened_on_ipv6_and_ipv4(void)
{
    struct program *program = stage == 0 ? run("server", "-p 0") : start_server("").program;
    int port = port_for(program, stage == 0 ? "connections" : "the client");

    dial_address("someone by IPv4", program, "127.0.0.1", port);
    if (has_ipv6())
        dial_address("someone by IPv6", program, "::1", port);
}

void test_bind_names_the_one_address_to_listen_on(void)
{
    struct program *program =
        stage == 0 ? run("server", "-p 0 -b 127.0.0.1") : start_server("--bind 127.0.0.1").program;
    int port = port_for(program, stage == 0 ? "connections" : "the client");

    dial_address("someone at the address", program, "127.0.0.1", port);
    expect_refused(program, "127.0.0.2", port, "nobody to listen at another address");
    if (has_ipv6())
        expect_refused(program, "::1", port, "nobody to listen at another address");
}

/* Something of everything happens to a server and a client. */
static void live(struct program **server, struct program **client, const char *word)
{
    if (stage == 0) {
        *server = run("server", "-p 0 %s", word);
        *client = run("client", "-p 0 %s 127.0.0.1:%d", word, port_for(*server, "connections"));
        struct peer user = dial("the user", *client, port_for(*client, "connections"));
        say(&user, "x");
        expect_bytes(&user, "x");
        finish(&user);
        expect_end(&user);
        return;
    }
    char options_text[100];
    snprintf(options_text, sizeof options_text, "%s --heartbeat 1.5", word);
    struct server under_test = start_server(options_text);
    struct peer peer = open_control(&under_test);
    expect_pong(&peer);
    leave(&peer);
    await_turn(&under_test);
    *server = under_test.program;

    struct client other = start_welcome_client(options_text);
    answer_ping(&other);
    leave(&other.server);
    *client = other.program;
    expect_hello(&other);
}

/* Whether all of the text fits the shape, which is a regular expression; else line is the first that doesn't. */
static bool all_lines_fit(const char *text, const char *shape, char line[500])
{
    regex_t compiled;
    bool fit = true;

    assert_int_equal(regcomp(&compiled, shape, REG_EXTENDED | REG_NOSUB), 0);
    while (fit && sscanf(text, "%499[^\n]", line) == 1) {
        fit = regexec(&compiled, line, 0, NULL, 0) == 0;
        text += strcspn(text, "\n");
        text += *text == '\n';
    }
    regfree(&compiled);
    return fit;
}

void test_every_log_line_has_its_time_and_program_in_front(void)
{
#define DATE_AND_TIME "^[0-9]{4}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]\\.[0-9]{3} "
    static const char *const shape[] = {DATE_AND_TIME "server: [^ ].*$", DATE_AND_TIME "client: [^ ].*$"};
    struct program *programs[2];
    char line[500];

    live(&programs[0], &programs[1], "-v");
    for (int i = 0; i < 2; i++) {
        if (log_of(programs[i])[0] == '\0')
            unmet(programs[i], "something to be logged", "nothing was");
        if (!all_lines_fit(log_of(programs[i]), shape[i], line))
            unmet(programs[i], "every log line in a pipe to be `YYYY-MM-DD HH:MM:SS.mmm PROGRAM: text`",
                  "`%s` came", line);
    }
}

/* How many lines server and client log in a short life. */
static int lines_of_a_life(const char *option)
{
    struct program *programs[2];
    int lines = 0;

    live(&programs[0], &programs[1], option);
    for (int i = 0; i < 2; i++) {
        send_signal(programs[i], SIGTERM);
        expect_exit(programs[i], 0);
        lines += count_lines(log_of(programs[i]));
    }
    return lines;
}

void test_verbose_logs_more_and_quiet_logs_nothing_while_all_is_well(void)
{
    struct door held = hold_port("a port");
    int normal = lines_of_a_life(""), verbose = lines_of_a_life("--verbose");
    struct program *quiet;

    if (stage > 0 && verbose <= normal) /* where there is more to tell */
        unmet(NULL, "--verbose to log more lines than without", "%d came, without it %d", verbose, normal);

    quiet = run("server",
                stage == 0   ? "-q -p %d"
                : stage == 1 ? "-q -c %d"
                             : "-q -u 0 -x 0 -c %d",
                held.port);
    dial_when_open("someone", quiet, held.port);
    send_signal(quiet, SIGTERM);
    expect_exit(quiet, 0);
    if (log_of(quiet)[0] != '\0')
        unmet(quiet, "--quiet to log nothing while all is well", "it did");
}

void test_sigint_and_sigterm_stop_both_with_exit_0(void)
{
    for (int i = 0; i < 2; i++) {
        struct program *server, *client;

        live(&server, &client, "");
        send_signal(server, i == 0 ? SIGINT : SIGTERM);
        send_signal(client, i == 0 ? SIGINT : SIGTERM);
        expect_exit(server, 0);
        expect_exit(client, 0);
    }
}

void test_a_server_that_was_killed_gets_its_ports_again_at_once(void)
{
    struct door held = hold_port("a port");
    const char *format = stage == 0 ? "-p %d" : stage == 1 ? "-c %d" : "-u 0 -x 0 -c %d";
    const char *whom = stage == 0 ? "connections" : "the client";

    for (int i = 0; i < 3; i++) {
        struct program *program = run("server", format, held.port);

        port_for(program, whom);
        struct peer peer = dial("someone", program, held.port);
        say(&peer, stage == 0 ? "x" : "hello\n"); /* a connection that is there when the server ends */
        comes_within(&peer, patience());
        kill_program(program);
    }
}
