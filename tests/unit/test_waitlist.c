/* waitlist: connections that wait for their turn. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../../common/waitlist.h"

enum { PATIENCE_MS = 60000 };

static struct waitlist list;
static char left[200]; /* "7 why|" of each that left */

static void on_left(void *owner, unsigned number, const char *why)
{
    size_t length = strlen(left);

    assert_ptr_equal(owner, &list);
    snprintf(left + length, sizeof left - length, "%u %s|", number, why);
}

static void list_begin(int patience_ms, bool silent)
{
    left[0] = '\0';
    waitlist_init(&list, loop, patience_ms, silent, on_left, &list);
}

/* One more waits. Returns the peer's end. */
static int push(unsigned number)
{
    struct pair pair = pair_open();

    assert_int_equal(waitlist_push(&list, pair.ours, number), 0);
    return pair.peer;
}

/* The first one's turn has come: it is the one with this number, and this is its peer. */
static int expect_first(unsigned number, int peer)
{
    unsigned popped;
    int fd = waitlist_pop(&list, &popped);

    assert_int_equal(popped, number);
    tell(peer, "it is me");
    expect_text(fd, "it is me");
    return fd;
}

static void leave(int fd, int peer)
{
    close(fd);
    close(peer);
}

static void test_first_come_is_first_served(void **state)
{
    int peers[4];

    (void)state;
    list_begin(PATIENCE_MS, false);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(list.count, i);
        peers[i] = push(10 + i);
    }
    for (unsigned i = 0; i < 4; i++) {
        leave(expect_first(10 + i, peers[i]), peers[i]);
        assert_int_equal(list.count, 3 - i);
    }
    assert_string_equal(left, "");
}

static void test_the_number_need_not_be_asked_for(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, false);
    int peer = push(1);
    leave(waitlist_pop(&list, NULL), peer);
    assert_int_equal(list.count, 0);
}

static void test_one_that_has_waited_too_long_leaves_and_is_reset(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, false);
    int peer = push(7);
    later(PATIENCE_MS - 10000);
    assert_string_equal(left, "");
    later(10000);
    assert_string_equal(left, "7 waited in vain|");
    assert_int_equal(list.count, 0);
    expect_reset(peer);
    close(peer);
}

static void test_each_has_its_own_patience(void **state)
{
    int peers[3];

    (void)state;
    list_begin(PATIENCE_MS, false);
    for (unsigned i = 0; i < 3; i++) {
        peers[i] = push(i);
        later(PATIENCE_MS / 3);
    }
    assert_string_equal(left, "0 waited in vain|");
    later(PATIENCE_MS / 3);
    assert_string_equal(left, "0 waited in vain|1 waited in vain|");
    later(PATIENCE_MS / 3);
    assert_string_equal(left, "0 waited in vain|1 waited in vain|2 waited in vain|");
    for (int i = 0; i < 3; i++)
        close(peers[i]);
}

static void test_those_that_came_together_lose_patience_together(void **state)
{
    int peers[3];

    (void)state;
    list_begin(PATIENCE_MS, false);
    for (unsigned i = 0; i < 3; i++)
        peers[i] = push(i);
    later(PATIENCE_MS + 1000);
    assert_string_equal(left, "0 waited in vain|1 waited in vain|2 waited in vain|");
    for (int i = 0; i < 3; i++)
        close(peers[i]);
}

static void test_when_the_first_is_served_the_next_ones_time_counts(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, false);
    int first = push(1);
    later(PATIENCE_MS / 2);
    int second = push(2);
    leave(expect_first(1, first), first);
    later(PATIENCE_MS / 2);
    assert_string_equal(left, "");
    later(PATIENCE_MS / 2);
    assert_string_equal(left, "2 waited in vain|");
    close(second);
}

static void test_with_0_they_wait_for_ever(void **state)
{
    (void)state;
    list_begin(0, false);
    int peer = push(1);
    later(1000000000);
    assert_string_equal(left, "");
    leave(expect_first(1, peer), peer);
}

static void test_one_that_is_reset_leaves_from_the_middle(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, false);
    int first = push(1), second = push(2), third = push(3);
    reset(second);
    eventually(list.count == 2);
    assert_string_equal(left, "2 reset while it waited|");
    leave(expect_first(1, first), first);
    leave(expect_first(3, third), third);
}

static void test_when_the_first_is_reset_the_next_ones_time_counts(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, false);
    int first = push(1);
    later(PATIENCE_MS / 2);
    int second = push(2);
    reset(first);
    eventually(list.count == 1);
    later(PATIENCE_MS / 2);
    assert_string_equal(left, "1 reset while it waited|");
    later(PATIENCE_MS / 2);
    assert_string_equal(left, "1 reset while it waited|2 waited in vain|");
    close(second);
}

static void test_one_that_has_sent_its_end_early_still_waits_at_no_cost(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, false);
    int peer = push(1);
    tell(peer, "a question");
    finish(peer);
    expect_rest();
    assert_string_equal(left, "");
    int fd = waitlist_pop(&list, NULL);
    expect_text(fd, "a question"); /* what it said is not lost */
    expect_end(fd);
    tell(fd, "an answer");
    expect_text(peer, "an answer");
    leave(fd, peer);
}

static void test_one_that_sent_its_end_and_then_a_reset_leaves(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, false);
    int peer = push(1);
    finish(peer);
    expect_rest();
    reset(peer);
    eventually(list.count == 0);
    assert_string_equal(left, "1 reset while it waited|");
}

static void test_a_silent_one_that_sends_its_end_leaves(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, true);
    int peer = push(1), other = push(2);
    finish(peer);
    eventually(list.count == 1);
    assert_string_equal(left, "1 closed while it waited|");
    expect_end(peer);
    close(peer);
    leave(expect_first(2, other), other);
}

static void test_a_silent_one_that_says_something_leaves(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, true);
    int peer = push(1);
    tell(peer, "x");
    eventually(list.count == 0);
    assert_string_equal(left, "1 closed while it waited|");
    close(peer);
}

static void test_one_that_was_served_is_not_missed_when_it_breaks(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, true);
    int peer = push(1);
    int fd = waitlist_pop(&list, NULL);
    reset(peer);
    expect_rest();
    later(PATIENCE_MS + 1000);
    assert_string_equal(left, "");
    assert_false(is_closed(fd));
    close(fd);
}

static void test_clearing_closes_all_without_a_word(void **state)
{
    (void)state;
    list_begin(PATIENCE_MS, false);
    int first = push(1), second = push(2);
    waitlist_clear(&list);
    assert_int_equal(list.count, 0);
    expect_end(first);
    expect_end(second);
    later(PATIENCE_MS + 1000);
    assert_string_equal(left, "");
    int third = push(3); /* and it is as good as new */
    leave(expect_first(3, third), third);
    close(first);
    close(second);
}

static void test_what_cannot_be_watched_stays_with_the_caller(void **state)
{
    int fd = unwatchable();

    (void)state;
    list_begin(PATIENCE_MS, false);
    assert_int_equal(waitlist_push(&list, fd, 1), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(list.count, 0);
    assert_false(is_closed(fd));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        UNIT(test_first_come_is_first_served),
        UNIT(test_the_number_need_not_be_asked_for),
        UNIT(test_one_that_has_waited_too_long_leaves_and_is_reset),
        UNIT(test_each_has_its_own_patience),
        UNIT(test_those_that_came_together_lose_patience_together),
        UNIT(test_when_the_first_is_served_the_next_ones_time_counts),
        UNIT(test_with_0_they_wait_for_ever),
        UNIT(test_one_that_is_reset_leaves_from_the_middle),
        UNIT(test_when_the_first_is_reset_the_next_ones_time_counts),
        UNIT(test_one_that_has_sent_its_end_early_still_waits_at_no_cost),
        UNIT(test_one_that_sent_its_end_and_then_a_reset_leaves),
        UNIT(test_a_silent_one_that_sends_its_end_leaves),
        UNIT(test_a_silent_one_that_says_something_leaves),
        UNIT(test_one_that_was_served_is_not_missed_when_it_breaks),
        UNIT(test_clearing_closes_all_without_a_word),
        UNIT(test_what_cannot_be_watched_stays_with_the_caller),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
