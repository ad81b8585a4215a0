/* pump: the bytes of one direction. */
#include "unit.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../common/pump.h"

static struct buckets buckets;
static struct pump pump;
static struct pair from, to; /* "ours" are what the pump moves between */

static int begin(void **state)
{
    int status = unit_begin(state);

    buckets_init(&buckets, 4);
    pump = (struct pump){0};
    from = pair_open();
    to = pair_open();
    return status;
}

static int end(void **state)
{
    pump_end(&pump, &buckets);
    buckets_clear(&buckets);
    close(from.ours);
    close(from.peer);
    close(to.ours);
    close(to.peer);
    return unit_end(state);
}

#define PUMP(test)                                                                                           \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

static enum pumped turn(void)
{
    return pump_turn(&pump, &buckets, from.ours, to.ours, false);
}

/* How many bytes can be read there. */
static int bytes_at(int fd)
{
    static char bytes[1 << 20];
    ssize_t count = recv(fd, bytes, sizeof bytes, MSG_PEEK);

    return count > 0 ? (int)count : 0;
}

static void empty_sink(size_t size)
{
    static char bytes[65536];

    unit_expect("what was sent comes", __FILE__, __LINE__);
    while (size > 0) {
        ssize_t count = recv(to.peer, bytes, size < sizeof bytes ? size : sizeof bytes, 0);
        if (count > 0)
            size -= (size_t)count;
        else
            unit_turn();
    }
}

static void test_a_turn_moves_what_has_come(void **state)
{
    (void)state;
    tell(from.peer, "some bytes");
    eventually(bytes_at(from.ours) == 10);
    assert_int_equal(turn(), GOES_ON);
    expect_text(to.peer, "some bytes");
    assert_int_equal(pump.state, FILLING);
    assert_int_equal(pump.moved, 10);
    assert_null(pump.bucket); /* it has one only while bytes are in flight */
}

static void test_a_turn_without_bytes_does_nothing(void **state)
{
    (void)state;
    assert_int_equal(turn(), GOES_ON);
    assert_int_equal(pump.state, FILLING);
    assert_null(pump.bucket);
    assert_int_equal(pump.moved, 0);
}

static void test_the_sources_end_is_told(void **state)
{
    (void)state;
    tell(from.peer, "last");
    finish(from.peer);
    eventually(bytes_at(from.ours) == 4);
    assert_int_equal(turn(), GOES_ON);
    eventually(turn() == SOURCE_ENDED);
    expect_text(to.peer, "last");
    pump_end(&pump, &buckets);
    assert_int_equal(pump.state, ENDED);
    assert_int_equal(pump.moved, 4);
}

static void test_a_reset_of_the_source_is_told(void **state)
{
    enum pumped result;

    (void)state;
    reset(from.peer);
    from.peer = unwatchable(); /* something to close */
    eventually((result = turn()) != GOES_ON);
    assert_int_equal(result, SOURCE_BROKEN);
}

static void test_where_there_is_no_room_it_drains_and_reads_no_more(void **state)
{
    size_t size = fill_room(to.ours, to.peer);

    (void)state;
    tell(from.peer, "first");
    eventually(bytes_at(from.ours) == 5);
    assert_int_equal(turn(), GOES_ON);
    assert_int_equal(pump.state, DRAINING);
    assert_non_null(pump.bucket);
    assert_int_equal(pump.moved, 0);
    tell(from.peer, "second");
    eventually(bytes_at(from.ours) == 6);
    assert_int_equal(turn(), GOES_ON);
    assert_int_equal(bytes_at(from.ours), 6);
    empty_sink(size);
    eventually((turn(), pump.moved == 5));
    assert_int_equal(pump.state, FILLING);
    expect_text(to.peer, "first");
    assert_int_equal(turn(), GOES_ON);
    expect_text(to.peer, "second");
    assert_int_equal(pump.moved, 11);
}

static void test_an_end_behind_bytes_that_found_no_room_waits_for_them(void **state)
{
    size_t size = fill_room(to.ours, to.peer);

    (void)state;
    tell(from.peer, "last");
    finish(from.peer);
    eventually(bytes_at(from.ours) == 4);
    for (int i = 0; i < 3; i++)
        assert_int_equal(turn(), GOES_ON);
    empty_sink(size);
    eventually(turn() == SOURCE_ENDED);
    expect_text(to.peer, "last");
}

static void test_a_sink_that_is_broken_is_told(void **state)
{
    enum pumped result;

    (void)state;
    reset(to.peer);
    to.peer = unwatchable();
    eventually((tell(from.peer, "x"), (result = turn()) != GOES_ON));
    assert_int_equal(result, SINK_BROKEN);
    pump_end(&pump, &buckets);
    assert_null(pump.bucket);
    assert_int_equal(pump.state, ENDED);
}

static void test_an_ended_one_moves_nothing(void **state)
{
    (void)state;
    tell(from.peer, "too late");
    eventually(bytes_at(from.ours) == 8);
    pump_end(&pump, &buckets);
    assert_int_equal(turn(), GOES_ON);
    assert_int_equal(bytes_at(from.ours), 8);
    assert_int_equal(pump.state, ENDED);
}

static void test_without_memory_that_is_told(void **state)
{
    struct bucket *kept = buckets.kept > 0 ? bucket_borrow(&buckets) : NULL;

    (void)state;
    refused.memory = true;
    tell(from.peer, "x");
    eventually(bytes_at(from.ours) == 1);
    assert_int_equal(turn(), NO_MEMORY);
    assert_int_equal(errno, ENOMEM);
    refused.memory = false;
    assert_int_equal(turn(), GOES_ON); /* nothing was lost by it */
    expect_text(to.peer, "x");
    bucket_return(&buckets, kept);
}

static void test_it_remembers_whether_bytes_come_in_bulk(void **state)
{
    static const char bulk[MANY_BYTES];

    (void)state;
    tell_bytes(from.peer, bulk, sizeof bulk);
    eventually(bytes_at(from.ours) == MANY_BYTES);
    assert_int_equal(turn(), GOES_ON);
    assert_true(pump.many);
    tell_bytes(from.peer, bulk, sizeof bulk - 1);
    eventually(bytes_at(from.ours) == MANY_BYTES - 1);
    assert_int_equal(turn(), GOES_ON);
    assert_false(pump.many);
}

static void test_one_whose_bytes_no_longer_arrive_is_stuck(void **state)
{
    (void)state;
    pump.moved = 1000;
    assert_false(pump_is_stuck(&pump, 400, 3)); /* 600 have arrived */
    for (int i = 0; i < 2; i++)
        assert_false(pump_is_stuck(&pump, 400, 3));
    assert_true(pump_is_stuck(&pump, 400, 3));
}

static void test_one_whose_bytes_arrive_slowly_is_not(void **state)
{
    (void)state;
    pump.moved = 1000;
    for (unsigned under_way = 1000; under_way > 0; under_way--)
        for (int i = 0; i < 3; i++)
            assert_false(pump_is_stuck(&pump, under_way, 3));
}

static void test_nor_is_one_that_still_moves_bytes(void **state)
{
    (void)state;
    for (int i = 0; i < 1000; i++) {
        pump.moved += 3000000000; /* beyond 32 bits soon */
        assert_false(pump_is_stuck(&pump, 1000, 1));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PUMP(test_a_turn_moves_what_has_come),
        PUMP(test_a_turn_without_bytes_does_nothing),
        PUMP(test_the_sources_end_is_told),
        PUMP(test_a_reset_of_the_source_is_told),
        PUMP(test_where_there_is_no_room_it_drains_and_reads_no_more),
        PUMP(test_an_end_behind_bytes_that_found_no_room_waits_for_them),
        PUMP(test_a_sink_that_is_broken_is_told),
        PUMP(test_an_ended_one_moves_nothing),
        PUMP(test_without_memory_that_is_told),
        PUMP(test_it_remembers_whether_bytes_come_in_bulk),
        PUMP(test_one_whose_bytes_no_longer_arrive_is_stuck),
        PUMP(test_one_whose_bytes_arrive_slowly_is_not),
        PUMP(test_nor_is_one_that_still_moves_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
