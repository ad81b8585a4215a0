/* log: what a program has to say. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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

static void test_a_line_has_time_name_and_text_and_leaves_in_one_write(void **state)
{
    int hour, minute, second, ms, end = 0;

    (void)state;
    say("user %d left: %s", 7, "reset");
    assert_int_equal(
        sscanf(logged(), "%2d:%2d:%2d.%3d server: user 7 left: reset%n", &hour, &minute, &second, &ms, &end),
        4);
    assert_int_equal(end, strlen("12:34:56.789 server: user 7 left: reset"));
    assert_string_equal(logged() + end, "\n");
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
        LOGGING(test_a_line_has_time_name_and_text_and_leaves_in_one_write),
        LOGGING(test_each_level_says_what_it_is_to_say),
        LOGGING(test_a_complaint_that_keeps_coming_is_printed_once_a_second_with_the_count_of_the_others),
        LOGGING(test_other_complaints_are_not_held_back),
        LOGGING(test_there_may_be_many_kinds_of_complaints),
        LOGGING(test_those_that_came_last_are_remembered),
        LOGGING(test_what_is_said_twice_is_printed_twice),
        LOGGING(test_too_long_a_line_is_cut),
        LOGGING(test_a_long_complaint_still_has_room_for_the_count),
        LOGGING(test_errno_is_told_in_words),
        LOGGING(test_sizes_are_told_in_units_of_a_thousand),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
