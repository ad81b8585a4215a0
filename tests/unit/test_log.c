/* log: what a program has to say. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "../../common/log.h"

static int begin(void **state)
{
    int status = unit_begin(state);

    log_open("server", LOG_NORMAL);
    return status;
}

#define LOGGING(test)                                                                                        \
    {                                                                                                        \
#test, test, begin, unit_end, NULL                                                                   \
    }

static void test_a_line_leaves_in_one_write(void **state)
{
    (void)state;
    say("user %d left: %s", 7, "reset");
    expect_logged("server: user 7 left: reset\n");
    assert_int_equal(writes_to_log(), 1);
}

static void expect_levels(enum log_level level, const char *first, const char *second, const char *third)
{
    log_open("client", level);
    log_forget();
    say("said");
    assert_int_equal(times_logged("client: said\n"), *first - '0');
    say_more("said more");
    assert_int_equal(times_logged("client: said more\n"), *second - '0');
    complain("complained at level %d", (int)level);
    assert_int_equal(times_logged("client: complained"), *third - '0');
    later(2000);
}

static void test_each_level_says_what_it_is_to_say(void **state)
{
    (void)state;
    expect_levels(LOG_QUIET, "0", "0", "1");
    expect_levels(LOG_NORMAL, "1", "0", "1");
    expect_levels(LOG_VERBOSE, "1", "1", "1");
}

static void complain_of(int number)
{
    complain("cannot do %d", number);
}

static void
test_a_complaint_that_keeps_coming_is_printed_once_a_second_with_the_count_of_the_others(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++)
        complain_of(i);
    assert_int_equal(writes_to_log(), 1);
    expect_logged("server: cannot do 0\n");
    later(10000);
    complain_of(100);
    assert_int_equal(writes_to_log(), 2);
    expect_logged("server: cannot do 100 (and 99 more like this)\n");
    later(10000);
    complain_of(101); /* the count starts over */
    expect_logged("server: cannot do 101\n");
}

static void expect_count_at_exit(void)
{
    _exit(times_logged("server: (and 3 more complaints like those above)\n") == 1 && writes_to_log() == 4
              ? 0
              : 1);
}

/* Four are held back, one of them is in a count. */
static void test_complaints_that_are_in_no_count_yet_are_counted_when_the_program_ends(void **state)
{
    int status;

    (void)state;
    pid_t child = fork();
    if (child == 0) {
        atexit(expect_count_at_exit); /* after what the log has for that moment */
        log_open("server", LOG_QUIET);
        complain_of(1);
        complain_of(2);
        later(2000);
        for (int i = 3; i < 6; i++)
            complain_of(i);
        for (int i = 0; i < 2; i++)
            complain("other complaints");
        exit(2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_other_complaints_are_not_held_back(void **state)
{
    static const char *const formats[] = {"one %d", "two %d", "three %d", "four %d"};

    (void)state;
    for (int i = 0; i < 4; i++)
        complain(formats[i], i);
    assert_int_equal(writes_to_log(), 4);
}

static void test_there_may_be_many_kinds_of_complaints(void **state)
{
    static char formats[40][20];

    (void)state;
    for (int i = 0; i < 40; i++) {
        snprintf(formats[i], sizeof formats[i], "kind %d%%s", i);
        complain(formats[i], "");
        complain(formats[i], " again");
    }
    assert_int_equal(writes_to_log(), 40);
    assert_int_equal(times_logged("again"), 0);
}

static void test_those_that_came_last_are_remembered(void **state)
{
    static char formats[10][20];

    (void)state;
    for (int i = 0; i < 20; i++) {
        snprintf(formats[i % 10], sizeof formats[0], "kind %d%%s", i % 10);
        complain(formats[i % 10], "");
    }
    assert_int_equal(writes_to_log(), 10);
}

static void test_what_is_said_twice_is_printed_twice(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        say("the same");
    assert_int_equal(times_logged("the same"), 2);
}

static void test_too_long_a_line_is_cut(void **state)
{
    (void)state;
    say("%2000d", 1);
    size_t length = strlen(logged());
    assert_in_range(length, 400, 512);
    assert_int_equal(logged()[length - 1], '\n');
    assert_int_equal(writes_to_log(), 1);
}

static void test_a_long_complaint_still_has_room_for_the_count(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            later(10000);
        complain("%2000d", 1);
    }
    expect_logged(" (and 1 more like this)\n");
}

/* --- Where it goes --- */

/* A program's log goes in at one end, and whoever reads it sits at the other. */
struct way {
    int in, out;
};

static struct way open_pipe(void)
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    return (struct way){.in = ends[1], .out = ends[0]};
}

static struct way open_socket(void)
{
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    return (struct way){.in = ends[1], .out = ends[0]};
}

static struct way open_terminal(void)
{
    struct way way = {.out = posix_openpt(O_RDWR | O_NOCTTY)};

    assert_true(way.out >= 0 && grantpt(way.out) == 0 && unlockpt(way.out) == 0);
    way.in = open(ptsname(way.out), O_RDWR | O_NOCTTY);
    assert_true(way.in >= 0);
    return way;
}

/* A file that has no name any more. */
static struct way open_file(void)
{
    char name[] = "/tmp/test_log.XXXXXX";
    struct way way = {.in = mkstemp(name)};

    way.out = open(name, O_RDONLY);
    assert_true(way.in >= 0 && way.out >= 0);
    unlink(name);
    return way;
}

static void close_way(const struct way *way)
{
    close(way->in);
    close(way->out);
}

/* Says so many lines there, of one length. */
static void say_lines(int fd, int count, int width)
{
    log_goes_to(fd);
    log_open("server", LOG_NORMAL);
    for (int i = 0; i < count; i++)
        say("line %*d.", width, i);
    log_comes_back();
}

/* The next lines, so many; a terminal's "\r\n" is "\n". */
static const char *next_lines(const struct way *way, int count)
{
    static char text[2000];
    size_t length = 0;

    while (count > 0) {
        struct pollfd output = {.fd = way->out, .events = POLLIN};

        if (poll(&output, 1, 10000) != 1 || read(way->out, text + length, 1) != 1)
            fail_msg("%d lines more were expected after \"%.*s\"", count, (int)length, text);
        count -= text[length] == '\n';
        length += length < sizeof text - 1 && text[length] != '\r';
    }
    text[length] = '\0';
    return text;
}

static void expect_text_is(const char *text, const char *shape)
{
    for (size_t i = 0; i <= strlen(shape); i++)
        if (shape[i] == '#' ? text[i] < '0' || text[i] > '9' : text[i] != shape[i])
            fail_msg("expected \"%s\" (# is a digit), but there is \"%s\"", shape, text);
}

static void test_in_a_file_or_a_pipe_a_line_has_the_date_too(void **state)
{
    struct way ways[] = {open_pipe(), open_socket(), open_file()};

    (void)state;
    for (int i = 0; i < 3; i++) {
        say_lines(ways[i].in, 1, 0);
        expect_text_is(next_lines(&ways[i], 1), "####-##-## ##:##:##.### server: line 0.\n");
        close_way(&ways[i]);
    }
}

static void test_on_a_terminal_a_line_has_the_time_alone(void **state)
{
    struct way way = open_terminal();

    (void)state;
    say_lines(way.in, 1, 0);
    expect_text_is(next_lines(&way, 1), "##:##:##.### server: line 0.\n");
    close_way(&way);
}

static void test_in_the_journal_a_line_has_no_time(void **state)
{
    struct way journal = open_socket(), other = open_socket();
    struct stat stream;
    char name[50];

    (void)state;
    fstat(journal.in, &stream);
    snprintf(name, sizeof name, "%ju:%ju", (uintmax_t)stream.st_dev, (uintmax_t)stream.st_ino);
    setenv("JOURNAL_STREAM", name, 1);
    say_lines(journal.in, 1, 0);
    say_lines(other.in, 1, 0);
    unsetenv("JOURNAL_STREAM");
    assert_string_equal(next_lines(&journal, 1), "server: line 0.\n");
    expect_text_is(next_lines(&other, 1), "####-##-## ##:##:##.### server: line 0.\n");
    close_way(&journal);
    close_way(&other);
}

static int start_without_standard_streams(void)
{
    int fd;

    for (fd = 0; fd <= STDERR_FILENO; fd++)
        close(fd);
    log_open("server", LOG_NORMAL);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd <= STDERR_FILENO || write(STDOUT_FILENO, "x", 1) != 1 || read(STDIN_FILENO, &fd, 1) != 0;
}

static void test_no_connection_gets_the_number_of_a_standard_stream(void **state)
{
    (void)state;
    assert_int_equal(with_descriptors(64, start_without_standard_streams), 0);
}

/* --- Where nobody reads it --- */

/* There is room now, or a better place: the next line goes there, and before it one that says how many are missing, and
 * why. */
static void expect_missing(const struct way *way, int count, const char *reason)
{
    const char *date = isatty(way->in) ? "" : "####-##-## ";
    char expected[200];

    say_lines(way->in, 2, 0);
    snprintf(expected, sizeof expected,
             "%s##:##:##.### server: (%d line%s missing here: %s)\n"
             "%s##:##:##.### server: line 0.\n%s##:##:##.### server: line 1.\n",
             date, count, count == 1 ? " is" : "s are", reason, date, date);
    expect_text_is(next_lines(way, 3), expected);
}

/* What becomes of many lines. */
struct account {
    int said, whole, missing, torn;
};

static void add_line(struct account *account, const char *line)
{
    const char *count = strstr(line, "server: ("), last = line[strlen(line) - 1];

    if (count != NULL && last == ')')
        account->missing += atoi(count + strlen("server: ("));
    else if (last == '.')
        account->whole++;
    else
        account->torn++;
}

/* Says more lines than there is room for. Then somebody reads, until two lines that were said later have arrived. */
static struct account overfill(const struct way *way, int width)
{
    static char text[500000];
    struct account account = {.said = 3000};
    struct pollfd output = {.fd = way->out, .events = POLLIN};
    size_t length = 0;

    say_lines(way->in, account.said, width);
    text[0] = '\0';
    while (strstr(text, ": line 1.") == NULL && length < sizeof text - 1) {
        while (poll(&output, 1, 20) == 1 && length < sizeof text - 1)
            length += (size_t)read(way->out, text + length, sizeof text - 1 - length);
        text[length] = '\0';
        later(1000);
        say_lines(way->in, 2, 0);
        account.said += 2;
    }
    for (char *rest = NULL, *line = strtok_r(text, "\r\n", &rest); line != NULL;
         line = strtok_r(NULL, "\r\n", &rest))
        add_line(&account, line);
    next_lines(way, 2); /* those of the last turn, which were said too late */
    account.said -= 2;
    return account;
}

/* One that is torn is among the missing; if all that it lacked was its newline, it looks whole besides. */
static void expect_all_accounted_for(const struct account *account)
{
    assert_in_range(account->whole + account->missing, account->said, account->said + 1);
}

static void test_lines_that_nobody_reads_are_lost_and_counted(void **state)
{
    struct way ways[] = {open_pipe(), open_socket(), open_terminal()};

    (void)state;
    for (int i = 0; i < 3; i++) {
        int flags = fcntl(ways[i].in, F_GETFL);
        struct account account = overfill(&ways[i], 90);

        assert_true(account.whole >= 20 && account.missing >= 20);
        expect_all_accounted_for(&account);
        assert_int_equal(fcntl(ways[i].in, F_GETFL), flags); /* it is others' stderr, too */
        close_way(&ways[i]);
    }
}

static void test_a_terminal_may_be_stopped(void **state)
{
    struct way way = open_terminal();

    (void)state;
    tcflow(way.in, TCOOFF);
    say_lines(way.in, 1, 0);
    tcflow(way.in, TCOON);
    expect_missing(&way, 1, "nobody read them");
    close_way(&way);
}

/* Linux tells that there is room as long as there is any: so some lines are torn. */
static void test_a_terminal_with_room_for_half_a_line_is_not_waited_for(void **state)
{
    int torn = 0;
    sigset_t alarm;

    (void)state;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    sigprocmask(SIG_BLOCK, &alarm, NULL); /* as some shells start programs */
    for (int width = 100; width < 110; width++) {
        struct way way = open_terminal();
        struct account account = overfill(&way, width);

        torn += account.torn + account.whole + account.missing - account.said;
        expect_all_accounted_for(&account);
        close_way(&way);
    }
    assert_true(torn > 0);
}

static volatile sig_atomic_t alarms;

static void count_alarm(int number)
{
    (void)number;
    alarms++;
}

/* Whoever reads slowly makes room again and again, and the log fills it. */
static void test_a_slow_terminal_is_waited_for_once_a_second_at_most(void **state)
{
    struct way way = open_terminal();
    struct sigaction action = {.sa_handler = count_alarm};
    struct pollfd output = {.fd = way.out, .events = POLLIN};
    char text[4096];
    time_t began = time(NULL);

    (void)state;
    alarms = 0;
    log_goes_to(way.in);
    log_open("server", LOG_NORMAL);
    sigaction(SIGALRM, &action, NULL);
    for (int i = 0; i < 30 * 60; i++) {
        if (i % 60 == 0 && i > 600 && poll(&output, 1, 10) == 1)
            assert_true(read(way.out, text, sizeof text) > 0);
        say("line %90d.", i);
    }
    log_comes_back();
    assert_in_range(alarms, 1, 3 * (time(NULL) - began + 2));
    struct account account = overfill(&way, 0); /* so that none is missing in the next test */
    assert_true(account.whole > 0);
    close_way(&way);
}

/* Lets files have so many bytes and no more. Returns what they could have before. */
static rlim_t limit_files(rlim_t bytes)
{
    struct rlimit limit;

    getrlimit(RLIMIT_FSIZE, &limit);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
    return before;
}

static void test_a_file_that_may_not_grow_costs_lines_and_no_more(void **state)
{
    struct way way = open_file();

    (void)state;
    rlim_t before = limit_files(100);
    say_lines(way.in, 20, 30); /* one that fits, one that is torn */
    limit_files(before);
    say_lines(way.in, 1, 0);
    next_lines(&way, 2);
    expect_text_is(next_lines(&way, 2),
                   "####-##-## ##:##:##.### server: (19 lines are missing here: File too large)\n"
                   "####-##-## ##:##:##.### server: line 0.\n");
    close_way(&way);
}

static void test_a_full_disk_costs_lines_and_no_more(void **state)
{
    struct way way = open_file();
    int full = open("/dev/full", O_WRONLY);

    (void)state;
    if (full < 0)
        skip();
    say_lines(full, 12, 0);
    expect_missing(&way, 12, "No space left on device");
    close(full);
    close_way(&way);
}

static void test_a_reader_that_is_gone_costs_lines_and_no_more(void **state)
{
    struct way way = open_pipe(), other = open_pipe();

    (void)state;
    close(way.out);
    say_lines(way.in, 2, 0);
    expect_missing(&other, 2, "Broken pipe");
    close(way.in);
    close_way(&other);
}

static void test_errno_is_told_in_words(void **state)
{
    (void)state;
    errno = EADDRINUSE;
    assert_string_equal(errno_text(), "Address already in use");
}

static void test_sizes_are_told_in_units_of_a_thousand(void **state)
{
    (void)state;
    assert_string_equal(size_text(0).text, "0 B");
    assert_string_equal(size_text(412).text, "412 B");
    assert_string_equal(size_text(999).text, "999 B");
    assert_string_equal(size_text(1000).text, "1.0 kB");
    assert_string_equal(size_text(1234).text, "1.2 kB");
    assert_string_equal(size_text(999949).text, "999.9 kB");
    assert_string_equal(size_text(999950).text, "1.0 MB");
    assert_string_equal(size_text(1200000).text, "1.2 MB");
    assert_string_equal(size_text(64ULL << 30).text, "68.7 GB");
    assert_string_equal(size_text(UINT64_MAX).text, "18.4 EB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOGGING(test_a_line_leaves_in_one_write),
        LOGGING(test_each_level_says_what_it_is_to_say),
        LOGGING(test_a_complaint_that_keeps_coming_is_printed_once_a_second_with_the_count_of_the_others),
        LOGGING(test_complaints_that_are_in_no_count_yet_are_counted_when_the_program_ends),
        LOGGING(test_other_complaints_are_not_held_back),
        LOGGING(test_there_may_be_many_kinds_of_complaints),
        LOGGING(test_those_that_came_last_are_remembered),
        LOGGING(test_what_is_said_twice_is_printed_twice),
        LOGGING(test_too_long_a_line_is_cut),
        LOGGING(test_a_long_complaint_still_has_room_for_the_count),
        LOGGING(test_in_a_file_or_a_pipe_a_line_has_the_date_too),
        LOGGING(test_on_a_terminal_a_line_has_the_time_alone),
        LOGGING(test_in_the_journal_a_line_has_no_time),
        LOGGING(test_no_connection_gets_the_number_of_a_standard_stream),
        LOGGING(test_lines_that_nobody_reads_are_lost_and_counted),
        LOGGING(test_a_terminal_may_be_stopped),
        LOGGING(test_a_terminal_with_room_for_half_a_line_is_not_waited_for),
        LOGGING(test_a_slow_terminal_is_waited_for_once_a_second_at_most),
        LOGGING(test_a_file_that_may_not_grow_costs_lines_and_no_more),
        LOGGING(test_a_full_disk_costs_lines_and_no_more),
        LOGGING(test_a_reader_that_is_gone_costs_lines_and_no_more),
        LOGGING(test_errno_is_told_in_words),
        LOGGING(test_sizes_are_told_in_units_of_a_thousand),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
