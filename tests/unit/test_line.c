/* line: a connection that speaks lines. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../common/line.h"

/* One that listens to lines, and writes all that it hears into a row: "line|line|". */
struct listener {
    struct line_conn conn;
    int peer; /* the test's end */
    char heard[1024];
    int lines;
    char gone[100]; /* why */
    bool closes;    /* at the first line, and frees itself */
};

/* send(2), as by a kernel with little room. */
static size_t most_sent_at_once; /* 0: no limit */
static int times_sent;

ssize_t send(int fd, const void *bytes, size_t size, int flags)
{
    bool is_too_much = most_sent_at_once > 0 && size > most_sent_at_once;

    times_sent++;
    return sendto(fd, bytes, is_too_much ? most_sent_at_once : size, flags, NULL, 0);
}

static void on_line(void *owner, const char *line)
{
    struct listener *listener = owner;
    size_t length = strlen(listener->heard);

    snprintf(listener->heard + length, sizeof listener->heard - length, "%s|", line);
    listener->lines++;
    if (listener->closes)
        line_close(&listener->conn);
}

static void on_gone(void *owner, const char *why)
{
    struct listener *listener = owner;

    assert_string_equal(listener->gone, ""); /* it is told once */
    snprintf(listener->gone, sizeof listener->gone, "%s", why);
    line_close(&listener->conn);
}

static struct listener *listen_for(int silence_ms)
{
    struct listener *listener = calloc(1, sizeof *listener);
    struct pair pair = pair_open();

    assert_non_null(listener);
    listener->peer = pair.peer;
    assert_int_equal(line_open(&listener->conn, loop, pair.ours, silence_ms, on_line, on_gone, listener), 0);
    return listener;
}

static void hush(struct listener *listener)
{
    line_close(&listener->conn);
    close(listener->peer);
    free(listener);
}

/* ---- receiving ---- */

static void test_a_line_comes_without_its_newline(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell(listener->peer, "hello\n");
    eventually(listener->lines == 1);
    assert_string_equal(listener->heard, "hello|");
    hush(listener);
}

static void test_a_line_in_single_bytes_comes_once_and_whole(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    for (const char *c = "welcome"; *c != '\0'; c++) {
        tell_bytes(listener->peer, c, 1);
        expect_rest();
        assert_int_equal(listener->lines, 0);
    }
    tell(listener->peer, "\n");
    eventually(listener->lines == 1);
    assert_string_equal(listener->heard, "welcome|");
    hush(listener);
}

static void test_half_a_line_costs_nothing(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell(listener->peer, "wel");
    expect_rest();
    tell(listener->peer, "come\nand ha");
    expect_rest();
    assert_string_equal(listener->heard, "welcome|");
    tell(listener->peer, "lf\n");
    eventually(listener->lines == 2);
    assert_string_equal(listener->heard, "welcome|and half|");
    hush(listener);
}

static void test_lines_that_come_together_are_told_one_at_a_time_and_in_order(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell(listener->peer, "one\ntwo\nthree\n");
    eventually(listener->lines == 3);
    assert_string_equal(listener->heard, "one|two|three|");
    hush(listener);
}

static void test_and_in_one_turn(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell(listener->peer, "1\n2\n3\n4\n5\n6\n7\n8\n");
    unit_turn();
    assert_int_equal(listener->lines, 8);
    hush(listener);
}

static void test_who_says_many_leaves_others_their_turn(void **state)
{
    struct listener *listener = listen_for(0), *another = listen_for(0);
    char many[10000];

    (void)state;
    memset(many, '\n', sizeof many); /* empty lines */
    tell_bytes(listener->peer, many, sizeof many);
    tell(another->peer, "ping\n");
    unit_turn();
    assert_in_range(listener->lines, 2, LINE_AHEAD_BYTES);
    assert_int_equal(another->lines, 1);
    eventually(listener->lines == (int)sizeof many);
    hush(listener);
    hush(another);
}

static void test_an_empty_line_is_a_line(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell(listener->peer, "\n\n");
    eventually(listener->lines == 2);
    assert_string_equal(listener->heard, "||");
    hush(listener);
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

static void test_the_longest_line_has_127_bytes_with_its_newline(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell(listener->peer, long_line(126));
    tell(listener->peer, long_line(126));
    eventually(listener->lines == 2);
    assert_int_equal(strlen(listener->heard), 2 * 127);
    hush(listener);
}

static void test_one_byte_more_is_too_long(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell(listener->peer, long_line(127));
    eventually(listener->gone[0] != '\0');
    assert_string_equal(listener->gone, "said too long a line");
    assert_int_equal(listener->lines, 0);
    hush(listener);
}

static void test_a_line_that_grows_too_long_in_pieces_is_not_waited_for(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    for (int i = 0; i < 127; i++) {
        assert_string_equal(listener->gone, "");
        tell(listener->peer, "x");
        expect_rest();
    }
    eventually(listener->gone[0] != '\0');
    assert_string_equal(listener->gone, "said too long a line");
    hush(listener);
}

static void test_a_line_with_a_zero_byte_is_not_text(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell_bytes(listener->peer, "hello\0hidden\n", 13);
    eventually(listener->gone[0] != '\0');
    assert_string_equal(listener->gone, "said something that is not text");
    assert_int_equal(listener->lines, 0);
    hush(listener);
}

/* ---- the end ---- */

static void test_the_end_is_told_in_words(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    finish(listener->peer);
    eventually(listener->gone[0] != '\0');
    assert_string_equal(listener->gone, "closed the connection");
    hush(listener);
}

static void test_lines_ahead_of_the_end_are_told_first(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    tell(listener->peer, "one\ntwo\nand a half");
    finish(listener->peer);
    eventually(listener->gone[0] != '\0');
    assert_string_equal(listener->heard, "one|two|");
    hush(listener);
}

static void test_a_reset_is_told_in_words(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    reset(listener->peer);
    eventually(listener->gone[0] != '\0');
    assert_string_equal(listener->gone, "Connection reset by peer");
    listener->peer = unwatchable(); /* something to close */
    hush(listener);
}

static void test_it_may_be_closed_when_a_line_comes_and_tells_no_more(void **state)
{
    struct listener *listener = listen_for(60000);

    (void)state;
    listener->closes = true;
    tell(listener->peer, "one\ntwo\n");
    eventually(listener->lines > 0);
    later(60000);
    assert_string_equal(listener->heard, "one|");
    assert_string_equal(listener->gone, "");
    hush(listener);
}

static void test_closing_twice_or_what_was_never_open_does_nothing(void **state)
{
    struct line_conn never = {0};
    struct listener *listener = listen_for(1000);

    (void)state;
    line_close(&never);
    line_close(&listener->conn);
    line_close(&listener->conn);
    expect_end(listener->peer);
    later(2000);
    assert_string_equal(listener->gone, "");
    hush(listener);
}

static void test_what_cannot_be_watched_stays_with_the_caller(void **state)
{
    struct line_conn conn;
    int fd = unwatchable();

    (void)state;
    assert_int_equal(line_open(&conn, loop, fd, 1000, on_line, on_gone, NULL), -1);
    assert_int_equal(errno, EPERM);
    later(2000); /* and its silence is nobody's */
    assert_false(is_closed(fd));
    close(fd);
}

/* ---- silence ---- */

static const char too_long[] = "said nothing for too long (is --heartbeat the same on both sides?)";

static void test_one_that_says_nothing_for_too_long_is_gone(void **state)
{
    struct listener *listener = listen_for(60000);

    (void)state;
    later(50000);
    assert_string_equal(listener->gone, "");
    later(10000);
    assert_string_equal(listener->gone, too_long);
    hush(listener);
}

static void test_each_line_starts_its_patience_over(void **state)
{
    struct listener *listener = listen_for(60000);

    (void)state;
    for (int i = 1; i <= 3; i++) {
        later(40000);
        tell(listener->peer, "ping\n");
        eventually(listener->lines == i);
    }
    later(60000);
    assert_string_equal(listener->gone, too_long);
    hush(listener);
}

static void test_bytes_that_complete_no_line_do_not(void **state)
{
    struct listener *listener = listen_for(60000);

    (void)state;
    for (int i = 0; i < 2; i++) {
        later(25000);
        tell(listener->peer, "x");
        expect_rest();
        assert_string_equal(listener->gone, "");
    }
    later(10000);
    assert_string_equal(listener->gone, too_long);
    hush(listener);
}

static void test_with_0_it_may_be_silent_for_ever(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    later(1000000000);
    tell(listener->peer, "still here\n");
    eventually(listener->lines == 1);
    hush(listener);
}

static void test_a_silence_in_which_the_machine_slept_counts(void **state)
{
    struct listener *listener = listen_for(15000);

    (void)state;
    sleep_through(3600 * 1000);
    assert_string_equal(listener->gone, too_long);
    hush(listener);
}

/* ---- sending ---- */

static void test_a_line_is_sent_with_its_newline(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    assert_int_equal(line_send(&listener->conn, "welcome %s %d", "abc", 7), 0);
    assert_int_equal(line_send(&listener->conn, "ping"), 0);
    expect_text(listener->peer, "welcome abc 7\nping\n");
    hush(listener);
}

static void test_all_lines_of_a_turn_go_out_in_one_packet(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    times_sent = 0;
    for (int i = 0; i < 5; i++)
        assert_int_equal(line_send(&listener->conn, "create_proxy"), 0);
    expect_text(listener->peer, "create_proxy\ncreate_proxy\ncreate_proxy\ncreate_proxy\ncreate_proxy\n");
    assert_int_equal(times_sent, 1);
    hush(listener);
}

static void test_one_that_is_closed_in_the_same_turn_sends_nothing(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    assert_int_equal(line_send(&listener->conn, "pong"), 0);
    line_close(&listener->conn);
    expect_end(listener->peer);
    expect_rest();
    hush(listener);
}

static void test_too_long_a_line_is_not_sent(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    assert_int_equal(line_send(&listener->conn, "%127d", 1), -1);
    assert_int_equal(line_send(&listener->conn, "%1000d", 1), -1);
    assert_int_equal(line_send(&listener->conn, "%126d", 1), 0);
    assert_int_equal(line_send(&listener->conn, "next"), 0);
    char expected[200];
    snprintf(expected, sizeof expected, "%126d\nnext\n", 1);
    expect_text(listener->peer, expected);
    hush(listener);
}

static void test_where_there_is_no_room_a_line_is_not_sent_and_later_there_is_room_again(void **state)
{
    struct listener *listener = listen_for(0);
    static char bytes[65536];
    size_t size = fill_room(listener->conn.watch.fd, listener->peer);
    int kept;

    (void)state;
    assert_int_equal(line_send(&listener->conn, "kept"), 0);
    expect_rest(); /* waiting for room costs nothing */
    for (kept = 1; line_send(&listener->conn, "kept %60d", kept) == 0; kept++)
        ;
    assert_in_range(kept, 10, 100); /* then it is one too many */
    while (size > 0) {
        ssize_t count = recv(listener->peer, bytes, size < sizeof bytes ? size : sizeof bytes, 0);
        if (count > 0)
            size -= (size_t)count;
        else
            expect_rest();
    }
    expect_text(listener->peer, "kept\n");
    for (int i = 1; i < kept; i++) {
        snprintf(bytes, sizeof bytes, "kept %60d\n", i);
        expect_text(listener->peer, bytes);
    }
    assert_int_equal(line_send(&listener->conn, "after"), 0);
    expect_text(listener->peer, "after\n");
    expect_rest();
    hush(listener);
}

static void test_a_line_that_the_kernel_takes_in_pieces_arrives_whole(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    most_sent_at_once = 3;
    assert_int_equal(line_send(&listener->conn, "create_proxy"), 0);
    assert_int_equal(line_send(&listener->conn, "pong"), 0);
    expect_text(listener->peer, "create_proxy\npong\n");
    expect_rest();
    most_sent_at_once = 0;
    hush(listener);
}

static void test_one_that_is_closed_amid_a_line_sends_no_more_of_it(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    most_sent_at_once = 3;
    assert_int_equal(line_send(&listener->conn, "in pieces"), 0);
    unit_turn();
    most_sent_at_once = 0;
    line_close(&listener->conn);
    expect_text(listener->peer, "in ");
    expect_end(listener->peer);
    hush(listener);
}

static void test_lines_are_received_while_there_is_no_room_to_send(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    fill_room(listener->conn.watch.fd, listener->peer);
    assert_int_equal(line_send(&listener->conn, "pong"), 0);
    tell(listener->peer, "ping\n");
    eventually(listener->lines == 1);
    hush(listener);
}

static void test_that_the_peer_is_gone_is_told_even_if_there_was_no_room(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    fill_room(listener->conn.watch.fd, listener->peer);
    assert_int_equal(line_send(&listener->conn, "pong"), 0);
    reset(listener->peer);
    eventually(listener->gone[0] != '\0');
    listener->peer = unwatchable();
    hush(listener);
}

static void test_sending_to_one_that_is_gone_calls_nobody_back(void **state)
{
    struct listener *listener = listen_for(0);

    (void)state;
    reset(listener->peer);
    for (int i = 0; i < 3; i++)
        line_send(&listener->conn, "anybody?");
    assert_string_equal(listener->gone, "");
    eventually(listener->gone[0] != '\0');
    listener->peer = unwatchable();
    hush(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        UNIT(test_a_line_comes_without_its_newline),
        UNIT(test_a_line_in_single_bytes_comes_once_and_whole),
        UNIT(test_half_a_line_costs_nothing),
        UNIT(test_lines_that_come_together_are_told_one_at_a_time_and_in_order),
        UNIT(test_and_in_one_turn),
        UNIT(test_who_says_many_leaves_others_their_turn),
        UNIT(test_an_empty_line_is_a_line),
        UNIT(test_the_longest_line_has_127_bytes_with_its_newline),
        UNIT(test_one_byte_more_is_too_long),
        UNIT(test_a_line_that_grows_too_long_in_pieces_is_not_waited_for),
        UNIT(test_a_line_with_a_zero_byte_is_not_text),
        UNIT(test_the_end_is_told_in_words),
        UNIT(test_lines_ahead_of_the_end_are_told_first),
        UNIT(test_a_reset_is_told_in_words),
        UNIT(test_it_may_be_closed_when_a_line_comes_and_tells_no_more),
        UNIT(test_closing_twice_or_what_was_never_open_does_nothing),
        UNIT(test_what_cannot_be_watched_stays_with_the_caller),
        UNIT(test_one_that_says_nothing_for_too_long_is_gone),
        UNIT(test_each_line_starts_its_patience_over),
        UNIT(test_bytes_that_complete_no_line_do_not),
        UNIT(test_with_0_it_may_be_silent_for_ever),
        UNIT(test_a_silence_in_which_the_machine_slept_counts),
        UNIT(test_a_line_is_sent_with_its_newline),
        UNIT(test_all_lines_of_a_turn_go_out_in_one_packet),
        UNIT(test_one_that_is_closed_in_the_same_turn_sends_nothing),
        UNIT(test_too_long_a_line_is_not_sent),
        UNIT(test_where_there_is_no_room_a_line_is_not_sent_and_later_there_is_room_again),
        UNIT(test_a_line_that_the_kernel_takes_in_pieces_arrives_whole),
        UNIT(test_one_that_is_closed_amid_a_line_sends_no_more_of_it),
        UNIT(test_lines_are_received_while_there_is_no_room_to_send),
        UNIT(test_that_the_peer_is_gone_is_told_even_if_there_was_no_room),
        UNIT(test_sending_to_one_that_is_gone_calls_nobody_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
