/* loop: watches, timers, signals. */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- watches ---- */

/* An object that watches a descriptor and remembers what it was told. */
struct watcher {
    struct watch watch;
    int calls;
    unsigned ready;
    bool reads;              /* takes a byte each time */
    bool closes;             /* when freed, its descriptor too */
    struct watcher **victim; /* when this one is called, the one that this points to is stopped and freed */
    int replacement; /* and this descriptor gets the number of the victim's, for a new watch in its place */
};

static struct watcher *watcher_new(int fd, unsigned interest);

static void watcher_free(struct watcher *watcher)
{
    if (watcher->closes)
        watch_close(loop, &watcher->watch);
    else
        watch_stop(loop, &watcher->watch);
    free(watcher);
}

static void on_ready(void *owner, unsigned ready)
{
    struct watcher *watcher = owner;
    struct watcher **victim = watcher->victim;
    int replacement = watcher->replacement;
    char byte;

    watcher->calls++;
    watcher->ready = ready;
    if (watcher->reads)
        assert_int_equal(recv(watcher->watch.fd, &byte, 1, 0), 1);
    if (victim == NULL || *victim == NULL)
        return;
    int fd = (*victim)->watch.fd;
    watcher_free(*victim); /* may be this one */
    *victim = NULL;
    if (replacement != 0) {
        assert_int_equal(dup2(replacement, fd), fd);
        *victim = watcher_new(fd, WATCH_READ);
    }
}

static struct watcher *watcher_new(int fd, unsigned interest)
{
    struct watcher *watcher = calloc(1, sizeof *watcher);

    assert_non_null(watcher);
    assert_int_equal(watch_start(loop, &watcher->watch, fd, interest, on_ready, watcher), 0);
    return watcher;
}

static void pair_close(struct pair pair)
{
    close(pair.ours);
    close(pair.peer);
}

static void test_a_watch_tells_when_there_is_something_to_read(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ);

    (void)state;
    expect_rest();
    assert_int_equal(watcher->calls, 0);
    tell(pair.peer, "x");
    eventually(watcher->calls > 0);
    assert_int_equal(watcher->ready, WATCH_READ);
    watcher_free(watcher);
    pair_close(pair);
}

static void test_it_tells_again_in_each_turn_until_that_is_read(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ);

    (void)state;
    tell(pair.peer, "xyz");
    eventually(watcher->calls >= 5);
    watcher->calls = 0;
    watcher->reads = true;
    expect_rest();
    assert_int_equal(watcher->calls, 3);
    watcher_free(watcher);
    pair_close(pair);
}

static void test_a_watch_tells_when_there_is_room_to_write(void **state)
{
    static const char block[65536];
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_WRITE);
    char sink[65536];

    (void)state;
    eventually(watcher->calls > 0);
    assert_int_equal(watcher->ready, WATCH_WRITE);
    while (send(pair.ours, block, sizeof block, MSG_NOSIGNAL) > 0)
        ;
    expect_rest();
    watcher->calls = 0;
    eventually((recv(pair.peer, sink, sizeof sink, 0), watcher->calls > 0));
    watcher_free(watcher);
    pair_close(pair);
}

static void test_a_watch_of_both_tells_both_at_once(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ | WATCH_WRITE);

    (void)state;
    tell(pair.peer, "x");
    eventually(watcher->ready == (WATCH_READ | WATCH_WRITE));
    watcher_free(watcher);
    pair_close(pair);
}

static void test_a_watch_of_nothing_tells_of_a_reset_alone(void **state)
{
    struct pair pair = pair_open(), other = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, 0), *sentinel = watcher_new(other.ours, WATCH_READ);

    (void)state;
    tell(pair.peer, "x");
    finish(pair.peer);
    tell(other.peer, "x");
    eventually(sentinel->calls > 3);
    assert_int_equal(watcher->calls, 0);
    reset(pair.peer);
    eventually(watcher->calls > 0);
    assert_int_equal(watcher->ready, WATCH_GONE);
    watcher_free(watcher);
    watcher_free(sentinel);
    close(pair.ours);
    pair_close(other);
}

static void test_a_watch_of_nothing_tells_when_both_directions_are_over(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, 0);

    (void)state;
    finish(pair.ours);
    expect_rest();
    assert_int_equal(watcher->calls, 0);
    finish(pair.peer);
    eventually(watcher->calls > 0);
    assert_int_equal(watcher->ready, WATCH_GONE);
    watcher_free(watcher);
    pair_close(pair);
}

static void test_the_end_of_a_stream_is_something_to_read(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ);

    (void)state;
    finish(pair.peer);
    eventually(watcher->calls > 0);
    assert_true(watcher->ready & WATCH_READ);
    watcher_free(watcher);
    pair_close(pair);
}

static void test_that_the_end_is_near_is_told_with_the_bytes_ahead_of_it(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ);

    (void)state;
    tell(pair.peer, "xy");
    eventually(watcher->calls > 0);
    assert_int_equal(watcher->ready, WATCH_READ);
    finish(pair.peer);
    watcher->reads = true;
    eventually(!LAST_IS_TOLD || watcher->ready == (WATCH_READ | WATCH_LAST));
    watcher_free(watcher);
    pair_close(pair);
}

static void test_a_changed_watch_tells_what_is_asked_for_now(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_WRITE);

    (void)state;
    eventually(watcher->calls > 0);
    assert_int_equal(watch_change(loop, &watcher->watch, WATCH_READ), 0);
    watcher->calls = 0;
    expect_rest();
    assert_int_equal(watcher->calls, 0);
    tell(pair.peer, "x");
    eventually(watcher->ready == WATCH_READ);
    watcher_free(watcher);
    pair_close(pair);
}

static void test_a_stopped_watch_tells_nothing_until_it_is_changed(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ);

    (void)state;
    watch_stop(loop, &watcher->watch);
    watch_stop(loop, &watcher->watch); /* twice does no harm */
    assert_false(watcher->watch.active);
    tell(pair.peer, "x");
    expect_rest();
    assert_int_equal(watcher->calls, 0);
    assert_int_equal(watch_change(loop, &watcher->watch, WATCH_READ), 0);
    eventually(watcher->calls > 0);
    watcher_free(watcher);
    pair_close(pair);
}

static void test_a_descriptor_can_be_handed_from_one_watch_to_another(void **state)
{
    struct pair pair = pair_open();
    struct watcher *first = watcher_new(pair.ours, WATCH_READ | WATCH_WRITE);

    (void)state;
    watcher_free(first);
    struct watcher *second = watcher_new(pair.ours, WATCH_READ);
    expect_rest();
    assert_int_equal(second->calls, 0);
    tell(pair.peer, "x");
    eventually(second->calls > 0);
    assert_int_equal(second->ready, WATCH_READ);
    watcher_free(second);
    pair_close(pair);
}

static void test_a_number_that_is_closed_and_given_out_again_can_be_watched_at_once(void **state)
{
    struct pair old = pair_open(), fresh = pair_open();
    struct watcher *first = watcher_new(old.ours, WATCH_READ);

    (void)state;
    watcher_free(first);
    assert_int_equal(dup2(fresh.ours, old.ours), old.ours); /* closes the old one */
    struct watcher *second = watcher_new(old.ours, WATCH_READ);
    tell(fresh.peer, "x");
    eventually(second->calls > 0);
    watcher_free(second);
    pair_close(old);
    pair_close(fresh);
}

static void test_any_number_may_be_stopped_between_two_turns(void **state)
{
    enum { MANY = 150 };
    static struct pair pairs[MANY];
    static struct watcher *watchers[MANY];

    (void)state;
    for (int i = 0; i < MANY; i++) {
        pairs[i] = pair_open();
        watchers[i] = watcher_new(pairs[i].ours, WATCH_READ);
        tell(pairs[i].peer, "x");
    }
    for (int i = 0; i < MANY; i++)
        watcher_free(watchers[i]);
    expect_rest(); /* were one still watched, its byte would keep the loop turning */
    for (int i = 0; i < MANY; i++)
        pair_close(pairs[i]);
}

static void test_watch_close_stops_the_watch_and_closes_the_descriptor(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ);

    (void)state;
    watch_close(loop, &watcher->watch);
    assert_false(watcher->watch.active);
    assert_true(is_closed(pair.ours));
    expect_end(pair.peer);
    free(watcher);
    close(pair.peer);
}

static void test_a_watch_that_is_all_zeros_is_a_stopped_one(void **state)
{
    struct watch watch = {0};

    (void)state;
    watch_stop(loop, &watch);
    assert_false(watch.active);
}

/* Two that are ready in one batch; each, if it comes first, puts an end to the other. */
static void two_rivals(struct watcher *rivals[2], struct pair pairs[2])
{
    for (int i = 0; i < 2; i++) {
        pairs[i] = pair_open();
        tell(pairs[i].peer, "x");
    }
    for (int i = 0; i < 2; i++) {
        rivals[i] = watcher_new(pairs[i].ours, WATCH_READ);
        rivals[i]->victim = &rivals[1 - i];
    }
}

static void test_a_callback_may_stop_and_free_another_of_the_same_batch(void **state)
{
    struct watcher *rivals[2];
    struct pair pairs[2];

    (void)state;
    two_rivals(rivals, pairs);
    unit_turn();
    assert_true((rivals[0] == NULL) != (rivals[1] == NULL));
    struct watcher *survivor = rivals[0] != NULL ? rivals[0] : rivals[1];
    assert_int_equal(survivor->calls, 1);
    watcher_free(survivor);
    pair_close(pairs[0]);
    pair_close(pairs[1]);
}

static void test_a_callback_may_close_and_free_another_of_the_same_batch(void **state)
{
    struct watcher *rivals[2];
    struct pair pairs[2];

    (void)state;
    two_rivals(rivals, pairs);
    for (int i = 0; i < 2; i++)
        rivals[i]->closes = true;
    unit_turn();
    assert_true((rivals[0] == NULL) != (rivals[1] == NULL));
    struct watcher *survivor = rivals[0] != NULL ? rivals[0] : rivals[1];
    assert_int_equal(survivor->calls, 1);
    watcher_free(survivor);
    for (int i = 0; i < 2; i++) {
        assert_true(is_closed(pairs[i].ours));
        close(pairs[i].peer);
    }
}

static void test_a_new_watch_of_a_number_that_was_closed_is_not_told_what_the_old_one_missed(void **state)
{
    struct watcher *rivals[2];
    struct pair pairs[2], fresh = pair_open();

    (void)state;
    two_rivals(rivals, pairs);
    for (int i = 0; i < 2; i++)
        rivals[i]->replacement = fresh.ours;
    unit_turn();
    assert_int_equal(rivals[0]->calls + rivals[1]->calls, 1); /* the survivor's; the new one had none */
    for (int i = 0; i < 2; i++)
        rivals[i]->victim = NULL;
    tell(fresh.peer, "x");
    eventually(rivals[0]->calls > 1 && rivals[1]->calls > 0);
    for (int i = 0; i < 2; i++) {
        watcher_free(rivals[i]);
        pair_close(pairs[i]);
    }
    pair_close(fresh);
}

static bool is_freed(struct watcher *const *watcher)
{
    return *watcher == NULL;
}

static void test_a_callback_may_stop_and_free_itself(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ);

    (void)state;
    watcher->victim = &watcher;
    tell(pair.peer, "x");
    eventually(is_freed(&watcher));
    expect_rest(); /* were it still watched, its byte would keep the loop turning */
    pair_close(pair);
}

static void test_all_are_served_however_many_are_ready_at_once(void **state)
{
    enum { MANY = 150 };
    static struct pair pairs[MANY];
    static struct watcher *watchers[MANY];
    int served = 0;

    (void)state;
    for (int i = 0; i < MANY; i++) {
        pairs[i] = pair_open();
        watchers[i] = watcher_new(pairs[i].ours, WATCH_READ);
        watchers[i]->reads = true;
    }
    for (int i = 0; i < MANY; i++)
        tell(pairs[i].peer, "x");
    expect_rest();
    for (int i = 0; i < MANY; i++) {
        served += watchers[i]->calls;
        watcher_free(watchers[i]);
        pair_close(pairs[i]);
    }
    assert_int_equal(served, MANY);
}

static void test_nobody_is_told_twice_before_all_others_were_told(void **state)
{
    enum { MANY = 150 };
    static struct pair pairs[MANY];
    static struct watcher *watchers[MANY];
    int least = 0;

    (void)state;
    for (int i = 0; i < MANY; i++) {
        pairs[i] = pair_open();
        watchers[i] = watcher_new(pairs[i].ours, WATCH_READ);
    }
    for (int i = 0; i < MANY; i++)
        tell(pairs[i].peer, "x"); /* which nobody reads */
    unit_expect("all are told", __FILE__, __LINE__);
    for (int turns = 0; least == 0; turns++) {
        assert_in_range(turns, 0, 10);
        unit_turn();
        least = watchers[0]->calls;
        for (int i = 0; i < MANY; i++)
            least = watchers[i]->calls < least ? watchers[i]->calls : least;
    }
    for (int i = 0; i < MANY; i++) {
        assert_in_range(watchers[i]->calls, 1, 2);
        watcher_free(watchers[i]);
        pair_close(pairs[i]);
    }
}

static void test_what_cannot_be_watched_is_refused_with_errno(void **state)
{
    struct watch watch;
    int fd = unwatchable();

    (void)state;
    assert_int_equal(watch_start(loop, &watch, fd, WATCH_READ, on_ready, NULL), -1);
    assert_int_equal(errno, EPERM);
    assert_false(watch.active);
    watch_stop(loop, &watch);
    close(fd);
}

/* ---- timers ---- */

/* A timer that writes its letter into a row when it is due. */
struct clock {
    struct timer timer;
    char letter;
    int again_ms;       /* starts itself again, once, if not 0 */
    struct clock *stop; /* another one, to be stopped when this is due */
};

static char row[32];

static void on_due(void *owner)
{
    struct clock *clock = owner;
    size_t length = 0;

    while (row[length] != '\0')
        length++;
    row[length] = clock->letter;
    row[length + 1] = '\0';
    if (clock->stop != NULL)
        timer_stop(&clock->stop->timer);
    if (clock->again_ms > 0)
        timer_start(loop, &clock->timer, clock->again_ms, on_due, clock);
    clock->again_ms = 0;
}

static void clock_start(struct clock *clock, char letter, int ms)
{
    row[0] = '\0';
    clock->letter = letter;
    timer_start(loop, &clock->timer, ms, on_due, clock);
}

static void test_timers_are_due_in_the_order_of_their_times(void **state)
{
    struct clock a = {0}, b = {0}, c = {0}, d = {0};

    (void)state;
    clock_start(&c, 'c', 30000);
    clock_start(&a, 'a', 10000);
    clock_start(&d, 'd', 40000);
    clock_start(&b, 'b', 20000);
    later(10000);
    assert_string_equal(row, "a");
    later(25000);
    assert_string_equal(row, "abc");
    later(60000);
    assert_string_equal(row, "abcd");
}

static void test_timers_for_the_same_time_are_due_in_the_order_of_their_start(void **state)
{
    struct clock clocks[5] = {0};

    (void)state;
    for (int i = 0; i < 5; i++)
        clock_start(&clocks[i], (char)('a' + i), 1000);
    later(1000);
    assert_string_equal(row, "abcde");
}

static void test_a_timer_is_not_due_early(void **state)
{
    struct clock clock = {0};

    (void)state;
    unit_turn();
    clock_start(&clock, 'x', 60000);
    later(50000);
    assert_string_equal(row, "");
    assert_true(timer_is_running(&clock.timer));
    later(10000);
    assert_string_equal(row, "x");
    assert_false(timer_is_running(&clock.timer));
}

static void test_the_loop_wakes_up_for_a_timer_alone(void **state)
{
    struct clock clock = {0};
    uint64_t start_ms = loop_now_ms(loop);

    (void)state;
    clock_start(&clock, 'x', 30);
    eventually(row[0] == 'x');
    assert_true(loop_now_ms(loop) >= start_ms + 30);
}

static void test_a_timer_is_due_once(void **state)
{
    struct clock clock = {0};

    (void)state;
    clock_start(&clock, 'x', 10);
    later(10);
    later(1000);
    assert_string_equal(row, "x");
}

static void test_a_timer_of_0_ms_comes_in_this_turn_after_the_events(void **state)
{
    struct pair pair = pair_open();
    struct watcher *watcher = watcher_new(pair.ours, WATCH_READ);
    struct clock clock = {0};

    (void)state;
    tell(pair.peer, "x");
    clock_start(&clock, 't', 0);
    unit_turn();
    assert_string_equal(row, "t");
    assert_int_equal(watcher->calls, 1);
    watcher_free(watcher);
    pair_close(pair);
}

static void test_a_timer_that_is_started_again_starts_over(void **state)
{
    struct clock clock = {0};

    (void)state;
    clock_start(&clock, 'x', 60000);
    later(50000);
    clock_start(&clock, 'y', 60000);
    later(50000);
    assert_string_equal(row, "");
    later(10000);
    assert_string_equal(row, "y");
}

static int slow_turns;

static void on_slow(void *owner)
{
    slow_turns++;
    timer_start(loop, owner, 1000, on_slow, owner);
    take_time(800);
}

static void on_too_slow(void *owner)
{
    slow_turns++;
    timer_start(loop, owner, 1000, on_too_slow, owner);
    take_time(1500);
    assert_true(slow_turns < 10);
}

static void test_what_a_turn_takes_does_not_make_timers_late(void **state)
{
    struct timer timer = {0};

    (void)state;
    timer_start(loop, &timer, 0, on_slow, &timer);
    unit_turn();
    assert_in_range(last_wait_ms(), 0, 200);
    timer_stop(&timer);
}

static void test_a_timer_that_takes_longer_than_its_own_time_lets_others_have_a_turn(void **state)
{
    struct timer timer = {0};

    (void)state;
    slow_turns = 0;
    timer_start(loop, &timer, 0, on_too_slow, &timer);
    unit_turn();
    assert_int_equal(slow_turns, 1);
    unit_turn();
    assert_int_equal(slow_turns, 2);
    timer_stop(&timer);
}

static void test_a_timer_may_start_itself_again(void **state)
{
    struct clock clock = {.again_ms = 500};

    (void)state;
    clock_start(&clock, 'x', 500);
    later(500);
    assert_string_equal(row, "x");
    later(500);
    assert_string_equal(row, "xx");
}

static void test_a_timer_may_stop_one_that_is_due_with_it(void **state)
{
    struct clock a = {0}, b = {0}, c = {0};

    (void)state;
    a.stop = &b;
    clock_start(&a, 'a', 10);
    clock_start(&b, 'b', 10);
    clock_start(&c, 'c', 10);
    later(10);
    assert_string_equal(row, "ac");
    timer_stop(&b.timer); /* a stopped one, again */
    assert_false(timer_is_running(&b.timer));
}

static void test_the_loops_clock_stands_still_during_a_turn_and_never_goes_back(void **state)
{
    uint64_t before = loop_now_ms(loop);

    (void)state;
    later(5000);
    uint64_t after = loop_now_ms(loop);
    assert_in_range(after - before, 5000, 5000 + 60000);
    assert_int_equal(loop_now_ms(loop), after);
}

/* ---- signals, and the end ---- */

static int stops;

static void on_stop(void *owner)
{
    (void)owner;
    stops++;
    kill(getpid(), SIGTERM);
}

static void test_sigint_and_sigterm_end_the_loop_with_status_0(void **state)
{
    (void)state;
    kill(getpid(), SIGINT);
    assert_int_equal(loop_run(loop), 0);
    kill(getpid(), SIGTERM);
    assert_int_equal(loop_run(loop), 0);
}

static void test_the_first_signal_calls_on_stop_and_the_second_ends_the_loop(void **state)
{
    (void)state;
    stops = 0;
    loop_on_stop(loop, on_stop, NULL);
    kill(getpid(), SIGINT);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(stops, 1);
}

static void on_time_to_stop(void *owner)
{
    loop_stop(loop, *(int *)owner);
}

static void test_loop_run_returns_the_status_given_to_loop_stop(void **state)
{
    struct timer timer = {0};
    int status = 7;

    (void)state;
    timer_start(loop, &timer, 0, on_time_to_stop, &status);
    assert_int_equal(loop_run(loop), 7);
}

static void test_after_loop_stop_nobody_is_called_any_more(void **state)
{
    struct timer timer = {0};
    struct clock clock = {0};
    int status = 0;

    (void)state;
    timer_start(loop, &timer, 0, on_time_to_stop, &status);
    clock_start(&clock, 'x', 0);
    loop_run(loop);
    assert_string_equal(row, "");
}

static void on_last_call(void *owner, unsigned ready)
{
    (void)ready;
    ++*(int *)owner;
    loop_stop(loop, 3);
}

static void test_nor_is_the_rest_of_the_batch(void **state)
{
    struct pair pairs[3];
    struct watch watches[3];
    int calls = 0;

    (void)state;
    for (int i = 0; i < 3; i++) {
        pairs[i] = pair_open();
        tell(pairs[i].peer, "x");
        watch_start(loop, &watches[i], pairs[i].ours, WATCH_READ, on_last_call, &calls);
    }
    assert_int_equal(loop_run(loop), 3);
    assert_int_equal(calls, 1);
    for (int i = 0; i < 3; i++) {
        watch_stop(loop, &watches[i]);
        pair_close(pairs[i]);
    }
}

static void test_writing_to_a_lost_peer_raises_no_signal(void **state)
{
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    assert_int_equal(write(ends[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    close(ends[1]);
}

static void test_a_loop_that_cannot_wait_gives_up_with_status_1(void **state)
{
    (void)state;
    refused.waiting = EBADF;
    assert_int_equal(loop_run(loop), 1);
    expect_logged("cannot wait for events: Bad file descriptor");
}

static void stop_with_status_3(void *owner)
{
    loop_stop(owner, 3);
}

static void test_a_signal_amid_waiting_is_no_failure_however_often(void **state)
{
    struct timer timer = {0};

    (void)state;
    refused.waiting = EINTR;
    timer_start(loop, &timer, 20, stop_with_status_3, loop); /* after some thousands of them */
    assert_int_equal(loop_run(loop), 3);
    assert_string_equal(logged(), "");
}

static void test_time_in_which_the_machine_slept_counts(void **state)
{
    struct clock clock = {0};
    uint64_t before_ms = loop_now_ms(loop);

    (void)state;
    clock_start(&clock, 'x', 15000);
    sleep_through(3600 * 1000);
    assert_true(loop_now_ms(loop) >= before_ms + 3600 * 1000);
    assert_string_equal(row, "x");
}

/* ---- descriptors ---- */

static int no_loop(void)
{
    return loop_new() == NULL && times_logged("cannot start: Too many open files") == 1 ? 0 : 1;
}

static void test_without_descriptors_there_is_no_loop_and_the_log_says_why(void **state)
{
    (void)state;
    assert_int_equal(with_descriptors(4, no_loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        UNIT(test_a_watch_tells_when_there_is_something_to_read),
        UNIT(test_it_tells_again_in_each_turn_until_that_is_read),
        UNIT(test_a_watch_tells_when_there_is_room_to_write),
        UNIT(test_a_watch_of_both_tells_both_at_once),
        UNIT(test_a_watch_of_nothing_tells_of_a_reset_alone),
        UNIT(test_a_watch_of_nothing_tells_when_both_directions_are_over),
        UNIT(test_the_end_of_a_stream_is_something_to_read),
        UNIT(test_that_the_end_is_near_is_told_with_the_bytes_ahead_of_it),
        UNIT(test_a_changed_watch_tells_what_is_asked_for_now),
        UNIT(test_a_stopped_watch_tells_nothing_until_it_is_changed),
        UNIT(test_a_descriptor_can_be_handed_from_one_watch_to_another),
        UNIT(test_a_number_that_is_closed_and_given_out_again_can_be_watched_at_once),
        UNIT(test_any_number_may_be_stopped_between_two_turns),
        UNIT(test_watch_close_stops_the_watch_and_closes_the_descriptor),
        UNIT(test_a_watch_that_is_all_zeros_is_a_stopped_one),
        UNIT(test_a_callback_may_stop_and_free_another_of_the_same_batch),
        UNIT(test_a_callback_may_close_and_free_another_of_the_same_batch),
        UNIT(test_a_new_watch_of_a_number_that_was_closed_is_not_told_what_the_old_one_missed),
        UNIT(test_a_callback_may_stop_and_free_itself),
        UNIT(test_all_are_served_however_many_are_ready_at_once),
        UNIT(test_nobody_is_told_twice_before_all_others_were_told),
        UNIT(test_what_cannot_be_watched_is_refused_with_errno),
        UNIT(test_timers_are_due_in_the_order_of_their_times),
        UNIT(test_timers_for_the_same_time_are_due_in_the_order_of_their_start),
        UNIT(test_a_timer_is_not_due_early),
        UNIT(test_the_loop_wakes_up_for_a_timer_alone),
        UNIT(test_a_timer_is_due_once),
        UNIT(test_a_timer_of_0_ms_comes_in_this_turn_after_the_events),
        UNIT(test_a_timer_that_is_started_again_starts_over),
        UNIT(test_what_a_turn_takes_does_not_make_timers_late),
        UNIT(test_a_timer_that_takes_longer_than_its_own_time_lets_others_have_a_turn),
        UNIT(test_a_timer_may_start_itself_again),
        UNIT(test_a_timer_may_stop_one_that_is_due_with_it),
        UNIT(test_the_loops_clock_stands_still_during_a_turn_and_never_goes_back),
        UNIT(test_sigint_and_sigterm_end_the_loop_with_status_0),
        UNIT(test_the_first_signal_calls_on_stop_and_the_second_ends_the_loop),
        UNIT(test_loop_run_returns_the_status_given_to_loop_stop),
        UNIT(test_after_loop_stop_nobody_is_called_any_more),
        UNIT(test_nor_is_the_rest_of_the_batch),
        UNIT(test_writing_to_a_lost_peer_raises_no_signal),
        UNIT(test_a_loop_that_cannot_wait_gives_up_with_status_1),
        UNIT(test_a_signal_amid_waiting_is_no_failure_however_often),
        UNIT(test_time_in_which_the_machine_slept_counts),
        UNIT(test_without_descriptors_there_is_no_loop_and_the_log_says_why),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
