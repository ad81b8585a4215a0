/* first_line: the first line of a connection, which is then handed on. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../../common/first_line.h"

/* One whose first line is awaited. */
static struct first_line first;
static int peer;        /* its other end */
static char heard[200]; /* "line|" */
static int handed_on;   /* the descriptor, or -1 */
static char gone[100];  /* why */

static void on_line(void *owner, int fd, const char *line)
{
    size_t length = strlen(heard);

    assert_ptr_equal(owner, &first);
    snprintf(heard + length, sizeof heard - length, "%s|", line);
    handed_on = fd;
}

static void on_gone(void *owner, const char *why)
{
    assert_ptr_equal(owner, &first);
    assert_string_equal(gone, ""); /* it is told once */
    snprintf(gone, sizeof gone, "%s", why);
    first_line_close(&first);
}

static void await(int patience_ms)
{
    struct pair pair = pair_open();

    heard[0] = gone[0] = '\0';
    handed_on = -1;
    peer = pair.peer;
    assert_int_equal(first_line_await(&first, loop, pair.ours, patience_ms, on_line, on_gone, &first), 0);
}

/* Whoever has the descriptor now gives it back. */
static void leave(void)
{
    first_line_close(&first);
    if (handed_on >= 0)
        close(handed_on);
    close(peer);
}

static void expect_gone(const char *why)
{
    eventually(gone[0] != '\0');
    assert_string_equal(gone, why);
    assert_string_equal(heard, "");
    leave();
}

/* length letters, then "\n". */
static const char *long_line(int length)
{
    static char line[1024];

    memset(line, 'x', sizeof line);
    line[length] = '\n';
    line[length + 1] = '\0';
    return line;
}

/* ---- what comes ---- */

static void test_the_line_comes_without_its_newline_and_with_the_descriptor(void **state)
{
    (void)state;
    await(0);
    tell(peer, "hello\n");
    eventually(handed_on >= 0);
    assert_string_equal(heard, "hello|");
    tell(handed_on, "welcome\n"); /* it works both ways */
    expect_text(peer, "welcome\n");
    leave();
}

static void test_what_follows_the_line_is_left_to_whoever_gets_the_descriptor(void **state)
{
    (void)state;
    await(1000);
    tell(peer, "proxy 1234\nGET / HTTP/1.1\nHost: x\n\n");
    eventually(handed_on >= 0);
    assert_string_equal(heard, "proxy 1234|");
    expect_text(handed_on, "GET / HTTP/1.1\nHost: x\n\n");
    later(2000); /* nobody waits for its lines any more */
    tell(peer, "more\n");
    expect_text(handed_on, "more\n");
    assert_string_equal(gone, "");
    leave();
}

static void test_so_is_what_follows_a_line_that_came_in_pieces(void **state)
{
    (void)state;
    await(0);
    tell(peer, "sta");
    expect_rest();
    tell(peer, "rt\nand \n on");
    eventually(handed_on >= 0);
    assert_string_equal(heard, "start|");
    expect_text(handed_on, "and \n on");
    leave();
}

static void test_so_is_an_end_that_follows_the_line(void **state)
{
    (void)state;
    await(0);
    tell(peer, "start\n");
    finish(peer);
    eventually(handed_on >= 0);
    expect_end(handed_on);
    leave();
}

static void test_half_a_line_costs_nothing(void **state)
{
    (void)state;
    await(0);
    for (const char *c = "welcome"; *c != '\0'; c++) {
        tell_bytes(peer, c, 1);
        expect_rest();
        assert_int_equal(handed_on, -1);
    }
    tell(peer, "\n");
    eventually(handed_on >= 0);
    assert_string_equal(heard, "welcome|");
    leave();
}

static void test_an_empty_line_is_a_line(void **state)
{
    (void)state;
    await(0);
    tell(peer, "\n\n");
    eventually(handed_on >= 0);
    assert_string_equal(heard, "|");
    expect_text(handed_on, "\n");
    leave();
}

static void test_the_longest_line_has_127_bytes_with_its_newline(void **state)
{
    (void)state;
    await(0);
    tell(peer, long_line(126));
    tell(peer, "next\n");
    eventually(handed_on >= 0);
    assert_int_equal(strlen(heard), 127);
    expect_text(handed_on, "next\n");
    leave();
}

static void test_one_byte_more_is_too_long(void **state)
{
    (void)state;
    await(0);
    tell(peer, long_line(127));
    expect_gone("said too long a line");
}

static void test_a_line_that_grows_too_long_in_pieces_is_not_waited_for(void **state)
{
    (void)state;
    await(0);
    for (int i = 0; i < 127; i++) {
        assert_string_equal(gone, "");
        tell(peer, "x");
        expect_rest();
    }
    expect_gone("said too long a line");
}

static void test_a_line_with_a_zero_byte_is_not_text(void **state)
{
    (void)state;
    await(0);
    tell_bytes(peer, "hello\0hidden\n", 13);
    expect_gone("said something that is not text");
}

/* ---- looking before the loop does ---- */

static void test_a_line_that_is_there_can_be_had_before_the_loop_tells(void **state)
{
    (void)state;
    await(0);
    tell(peer, "hello\n");
    first_line_poll(&first);
    assert_string_equal(heard, "hello|");
    expect_rest(); /* and is not told again */
    leave();
}

static void test_looking_at_one_that_has_said_nothing_does_nothing(void **state)
{
    (void)state;
    await(1000);
    first_line_poll(&first);
    assert_int_equal(handed_on, -1);
    assert_string_equal(gone, "");
    tell(peer, "hello\n");
    eventually(handed_on >= 0);
    leave();
}

static void test_looking_at_one_that_is_gone_tells_why(void **state)
{
    (void)state;
    await(0);
    finish(peer);
    first_line_poll(&first);
    expect_gone("closed the connection");
}

/* ---- the end ---- */

static void test_the_end_is_told_in_words(void **state)
{
    (void)state;
    await(0);
    tell(peer, "half a li");
    finish(peer);
    expect_gone("closed the connection");
}

static void test_a_reset_is_told_in_words(void **state)
{
    (void)state;
    await(0);
    reset(peer);
    peer = unwatchable(); /* something to close */
    expect_gone("Connection reset by peer");
}

static void test_one_that_says_nothing_in_time_is_gone(void **state)
{
    (void)state;
    await(60000);
    later(50000);
    assert_string_equal(gone, "");
    later(10000);
    expect_gone("said nothing for too long");
}

static void test_bytes_that_complete_no_line_win_no_time(void **state)
{
    (void)state;
    await(60000);
    for (int i = 0; i < 2; i++) {
        later(25000);
        tell(peer, "x");
        expect_rest();
        assert_string_equal(gone, "");
    }
    later(10000);
    expect_gone("said nothing for too long");
}

static void test_with_0_it_may_take_for_ever(void **state)
{
    (void)state;
    await(0);
    later(1000000000);
    tell(peer, "still here\n");
    eventually(handed_on >= 0);
    leave();
}

static void test_closing_twice_or_what_was_never_open_does_nothing(void **state)
{
    struct first_line never = {0};

    (void)state;
    first_line_close(&never);
    await(1000);
    first_line_close(&first);
    first_line_close(&first);
    expect_end(peer);
    later(2000);
    assert_string_equal(gone, "");
    leave();
}

static void test_a_descriptor_that_was_handed_on_is_not_closed_with_the_rest(void **state)
{
    (void)state;
    await(1000);
    tell(peer, "hello\n");
    eventually(handed_on >= 0);
    first_line_close(&first);
    assert_false(is_closed(handed_on));
    leave();
}

static void test_what_cannot_be_watched_stays_with_the_caller(void **state)
{
    int fd = unwatchable();

    (void)state;
    assert_int_equal(first_line_await(&first, loop, fd, 1000, on_line, on_gone, &first), -1);
    assert_int_equal(errno, EPERM);
    later(2000); /* and its silence is nobody's */
    assert_false(is_closed(fd));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        UNIT(test_the_line_comes_without_its_newline_and_with_the_descriptor),
        UNIT(test_what_follows_the_line_is_left_to_whoever_gets_the_descriptor),
        UNIT(test_so_is_what_follows_a_line_that_came_in_pieces),
        UNIT(test_so_is_an_end_that_follows_the_line),
        UNIT(test_half_a_line_costs_nothing),
        UNIT(test_an_empty_line_is_a_line),
        UNIT(test_the_longest_line_has_127_bytes_with_its_newline),
        UNIT(test_one_byte_more_is_too_long),
        UNIT(test_a_line_that_grows_too_long_in_pieces_is_not_waited_for),
        UNIT(test_a_line_with_a_zero_byte_is_not_text),
        UNIT(test_a_line_that_is_there_can_be_had_before_the_loop_tells),
        UNIT(test_looking_at_one_that_has_said_nothing_does_nothing),
        UNIT(test_looking_at_one_that_is_gone_tells_why),
        UNIT(test_the_end_is_told_in_words),
        UNIT(test_a_reset_is_told_in_words),
        UNIT(test_one_that_says_nothing_in_time_is_gone),
        UNIT(test_bytes_that_complete_no_line_win_no_time),
        UNIT(test_with_0_it_may_take_for_ever),
        UNIT(test_closing_twice_or_what_was_never_open_does_nothing),
        UNIT(test_a_descriptor_that_was_handed_on_is_not_closed_with_the_rest),
        UNIT(test_what_cannot_be_watched_stays_with_the_caller),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
