/* newcomers: connections that have not said yet who they are. */
#include "unit.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../common/limits.h"
#include "../../common/newcomers.h"

static struct newcomers newcomers;
static char heard[200];
static int heard_fd; /* the last one's */

static void on_line(void *owner, int fd, const char *line)
{
    size_t length = strlen(heard);

    assert_ptr_equal(owner, &newcomers);
    snprintf(heard + length, sizeof heard - length, "%s|", line);
    heard_fd = fd;
}

static int begin(void **state)
{
    int status = unit_begin(state);

    heard[0] = '\0';
    newcomers_init(&newcomers, loop);
    return status;
}

static int end(void **state)
{
    newcomers_clear(&newcomers);
    return unit_end(state);
}

#define NEWCOMERS(test)                                                                                      \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

/* Somebody comes. Returns the peer's end. */
static int knock(void)
{
    struct pair pair = pair_open();

    newcomers_add(&newcomers, pair.ours, "the control port", on_line, &newcomers);
    return pair.peer;
}

/* Closed, with or without bytes that were not read. */
static bool is_turned_away(int peer)
{
    char byte;

    return recv(peer, &byte, 1, MSG_DONTWAIT) == 0;
}

static void test_who_says_its_first_line_is_handed_on_with_all_that_follows(void **state)
{
    int peer = knock();

    (void)state;
    assert_int_equal(newcomers.count, 1);
    tell(peer, "hello\nping\n");
    eventually(heard[0] != '\0');
    assert_string_equal(heard, "hello|");
    assert_int_equal(newcomers.count, 0);
    expect_text(heard_fd, "ping\n");
    later(FIRST_LINE_MS + 1000); /* it is no newcomer any more */
    tell(heard_fd, "welcome\n");
    expect_text(peer, "welcome\n");
    assert_string_equal(logged(), "");
    close(heard_fd);
    close(peer);
}

static void test_each_is_heard_by_itself(void **state)
{
    int first = knock(), second = knock();

    (void)state;
    tell(second, "hello");
    tell(first, "proxy\n");
    eventually(heard[0] != '\0');
    close(heard_fd);
    tell(second, "\n");
    eventually(newcomers.count == 0);
    close(heard_fd);
    assert_string_equal(heard, "proxy|hello|");
    close(first);
    close(second);
}

static void test_who_says_nothing_in_time_is_turned_away_and_logged_as_a_stranger(void **state)
{
    int peer = knock();
    char expected[100];

    (void)state;
    snprintf(expected, sizeof expected,
             "a stranger on the control port, 127.0.0.1:%d: said nothing for too long\n", port_of(peer));
    later(FIRST_LINE_MS - 3000);
    assert_int_equal(newcomers.count, 1);
    later(3000);
    assert_int_equal(newcomers.count, 0);
    expect_end(peer);
    expect_logged(expected);
    close(peer);
}

static void test_bytes_without_a_line_win_no_time(void **state)
{
    int peer = knock();

    (void)state;
    later(FIRST_LINE_MS - 3000);
    tell(peer, "hel");
    expect_rest();
    later(3000);
    eventually(is_turned_away(peer));
    close(peer);
}

static void test_who_says_too_long_a_line_is_turned_away(void **state)
{
    char line[500];
    int peer = knock();

    (void)state;
    memset(line, 'x', sizeof line);
    tell_bytes(peer, line, sizeof line);
    eventually(newcomers.count == 0);
    expect_logged("said too long a line");
    assert_int_equal(times_logged("xxx"), 0); /* its bytes are not for the log */
    assert_string_equal(heard, "");
    close(peer);
}

static void test_who_goes_without_a_word_is_forgotten(void **state)
{
    int finished = knock(), broken = knock();

    (void)state;
    finish(finished);
    reset(broken);
    eventually(newcomers.count == 0);
    expect_logged("closed the connection");
    close(finished);
}

static void test_when_there_are_too_many_the_one_that_came_first_goes(void **state)
{
    int peers[5];

    (void)state;
    newcomers.most = 3;
    for (int i = 0; i < 5; i++)
        peers[i] = knock();
    assert_int_equal(newcomers.count, 3);
    expect_end(peers[0]);
    expect_end(peers[1]);
    expect_logged("made room for another");
    for (int i = 2; i < 5; i++) {
        tell(peers[i], "hello\n");
        eventually(newcomers.count == 4 - i);
        close(heard_fd);
    }
    assert_string_equal(heard, "hello|hello|hello|");
    for (int i = 0; i < 5; i++)
        close(peers[i]);
}

static void test_unless_its_line_has_come_by_then(void **state)
{
    int peers[3];

    (void)state;
    newcomers.most = 2;
    for (int i = 0; i < 2; i++)
        peers[i] = knock();
    tell(peers[0], "hello\n");
    peers[2] = knock(); /* before the loop had a turn */
    assert_string_equal(heard, "hello|");
    assert_int_equal(newcomers.count, 2);
    assert_string_equal(logged(), "");
    tell(heard_fd, "welcome\n");
    expect_text(peers[0], "welcome\n");
    close(heard_fd);
    for (int i = 0; i < 3; i++)
        close(peers[i]);
}

static void test_a_flood_of_strangers_is_no_flood_of_lines(void **state)
{
    enum { STRANGERS = 100 };
    int peers[STRANGERS];

    (void)state;
    newcomers.most = 10;
    for (int i = 0; i < STRANGERS; i++)
        peers[i] = knock();
    for (int i = 0; i < STRANGERS; i++)
        close(peers[i]);
    eventually(newcomers.count == 0);
    assert_in_range(writes_to_log(), 1, STRANGERS / 10);
}

static void test_clearing_closes_all(void **state)
{
    int first = knock(), second = knock();

    (void)state;
    newcomers_clear(&newcomers);
    assert_int_equal(newcomers.count, 0);
    expect_end(first);
    expect_end(second);
    later(FIRST_LINE_MS + 1000);
    assert_string_equal(logged(), "");
    close(first);
    close(second);
}

static void test_what_cannot_be_watched_is_closed_and_logged(void **state)
{
    int fd = unwatchable();

    (void)state;
    newcomers_add(&newcomers, fd, "the proxy port", on_line, &newcomers);
    assert_true(is_closed(fd));
    assert_int_equal(newcomers.count, 0);
    expect_logged("cannot hold a connection to the proxy port: Operation not permitted");
}

static int most_with_few_descriptors(void)
{
    struct loop *own = loop_new();

    newcomers_init(&newcomers, own);
    return newcomers.most;
}

static void test_where_descriptors_are_scarce_there_are_fewer_of_them(void **state)
{
    (void)state;
    assert_in_range(with_descriptors(100, most_with_few_descriptors), 1, 25);
}

static void test_with_hardly_any_descriptors_there_is_still_one(void **state)
{
    (void)state;
    assert_int_equal(with_descriptors(12, most_with_few_descriptors), 1);
}

static void test_there_are_never_more_than_newcomers_max(void **state)
{
    (void)state;
    if (limits_connections() < 4 * NEWCOMERS_MAX)
        skip(); /* fewer still */
    assert_int_equal(newcomers.most, NEWCOMERS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        NEWCOMERS(test_who_says_its_first_line_is_handed_on_with_all_that_follows),
        NEWCOMERS(test_each_is_heard_by_itself),
        NEWCOMERS(test_who_says_nothing_in_time_is_turned_away_and_logged_as_a_stranger),
        NEWCOMERS(test_bytes_without_a_line_win_no_time),
        NEWCOMERS(test_who_says_too_long_a_line_is_turned_away),
        NEWCOMERS(test_who_goes_without_a_word_is_forgotten),
        NEWCOMERS(test_when_there_are_too_many_the_one_that_came_first_goes),
        NEWCOMERS(test_unless_its_line_has_come_by_then),
        NEWCOMERS(test_a_flood_of_strangers_is_no_flood_of_lines),
        NEWCOMERS(test_clearing_closes_all),
        NEWCOMERS(test_what_cannot_be_watched_is_closed_and_logged),
        NEWCOMERS(test_where_descriptors_are_scarce_there_are_fewer_of_them),
        NEWCOMERS(test_with_hardly_any_descriptors_there_is_still_one),
        NEWCOMERS(test_there_are_never_more_than_newcomers_max),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
