/* bucket: carries bytes from one socket to another. The same tests for each kind of it: make BUCKET=memory test-common. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../common/bucket.h"

enum { MEGA = 1 << 20, MOST_PIPES = 4 };

static struct buckets buckets;
static struct pair from, to;
static struct bucket *bucket;
static bool are_pipes; /* these keep one from the start */

static int begin(void **state)
{
    int status = unit_begin(state);

    from = pair_open();
    to = pair_open();
    buckets_init(&buckets, MOST_PIPES);
    are_pipes = buckets.kept > 0;
    bucket = bucket_borrow(&buckets);
    return status;
}

static int end(void **state)
{
    bucket_return(&buckets, bucket);
    buckets_clear(&buckets);
    close(from.ours);
    close(from.peer);
    close(to.ours);
    close(to.peer);
    return unit_end(state);
}

#define BUCKET(test)                                                                                         \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

static const char *pattern(void)
{
    static char bytes[MEGA];

    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)((i * 2654435761u) >> 13);
    return bytes;
}

static size_t bytes_at(int fd)
{
    static char bytes[MEGA];
    ssize_t count = recv(fd, bytes, sizeof bytes, MSG_PEEK);

    return count > 0 ? (size_t)count : 0;
}

/* size bytes wait to be taken, as long as the kernel has room for them. */
static void come(size_t size)
{
    tell_bytes(from.peer, pattern(), size);
    eventually(bytes_at(from.ours) == size);
}

static ssize_t fill(bool many)
{
    return bucket_fill(&buckets, bucket, from.ours, many);
}

/* These are the next bytes at the sink. */
static void expect_bytes(const char *bytes, size_t size)
{
    static char came[MEGA];
    size_t sum = 0;

    unit_expect("all bytes come", __FILE__, __LINE__);
    for (ssize_t count; sum < size; unit_turn())
        if ((count = recv(to.peer, came + sum, size - sum, 0)) > 0)
            sum += (size_t)count;
    assert_memory_equal(came, bytes, size);
}

/* Moves all that has come, in as many turns as that takes. */
static void move_all(size_t size, bool many)
{
    for (size_t sum = 0; sum < size;) {
        ssize_t count = fill(many);
        assert_true(count > 0);
        assert_false(bucket_is_empty(bucket));
        assert_int_equal(bucket_pour(bucket, to.ours, false), count);
        assert_true(bucket_is_empty(bucket));
        sum += (size_t)count;
    }
    expect_bytes(pattern(), size);
}

static void test_what_is_filled_in_pours_out(void **state)
{
    (void)state;
    assert_true(bucket_is_empty(bucket));
    come(10);
    move_all(10, false);
    come(50000);
    move_all(50000, false);
}

static void test_so_do_many_bytes(void **state)
{
    (void)state;
    come(50000);
    move_all(50000, true);
    come(10);
    move_all(10, true);
}

static void test_where_nothing_has_come_it_says_so_and_stays_empty(void **state)
{
    (void)state;
    for (int many = 0; many < 2; many++) {
        assert_int_equal(fill(many), -1);
        assert_int_equal(errno, EAGAIN);
        assert_true(bucket_is_empty(bucket));
    }
}

static void expect_the_end(bool many)
{
    finish(from.peer);
    eventually(fill(many) == 0);
    assert_true(bucket_is_empty(bucket));
}

static void test_the_end_of_the_stream_is_0(void **state)
{
    (void)state;
    expect_the_end(false);
}

static void test_so_it_is_among_many_bytes(void **state)
{
    (void)state;
    come(50000);
    move_all(50000, true);
    expect_the_end(true);
}

static void expect_the_reset(bool many)
{
    reset(from.peer);
    from.peer = unwatchable(); /* something to close */
    ssize_t count;
    eventually((count = fill(many)) >= 0 || errno != EAGAIN);
    assert_int_equal(count, -1);
    assert_int_equal(errno, ECONNRESET);
    assert_true(bucket_is_empty(bucket));
}

static void test_a_reset_is_an_error(void **state)
{
    (void)state;
    expect_the_reset(false);
}

static void test_so_it_is_among_many_bytes__and_its_error_is_not_lost(void **state)
{
    (void)state;
    come(50000);
    move_all(50000, true);
    expect_the_reset(true);
}

/* Takes away what fills it. */
static void empty_sink(size_t size)
{
    static char bytes[MEGA];

    unit_expect("what was sent comes", __FILE__, __LINE__);
    for (ssize_t count; size > 0; unit_turn())
        if ((count = recv(to.peer, bytes, size < MEGA ? size : MEGA, 0)) > 0)
            size -= (size_t)count;
}

static void wait_for_room(bool many)
{
    size_t size = fill_room(to.ours, to.peer);

    come(10000);
    assert_int_equal(fill(many), 10000);
    assert_int_equal(bucket_pour(bucket, to.ours, false), -1);
    assert_int_equal(errno, EAGAIN);
    assert_false(bucket_is_empty(bucket));
    empty_sink(size);
    eventually((bucket_pour(bucket, to.ours, false), bucket_is_empty(bucket)));
    expect_bytes(pattern(), 10000);
}

static void test_what_found_no_room_stays_until_there_is_some(void **state)
{
    (void)state;
    wait_for_room(false);
}

static void test_so_do_many_bytes_that_found_none(void **state)
{
    (void)state;
    wait_for_room(true);
}

/* send(2) and splice(2), for a kernel that has little room. */
static size_t room; /* 0: as much as it likes */

ssize_t send(int fd, const void *bytes, size_t size, int flags)
{
    return sendto(fd, bytes, room > 0 && size > room ? room : size, flags, NULL, 0);
}

ssize_t splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t size, unsigned flags)
{
    if (room > 0 && out == to.ours && size > room)
        size = room;
    return syscall(SYS_splice, in, in_offset, out, out_offset, size, flags);
}

static void pour_in_parts(bool many)
{
    come(10000);
    assert_int_equal(fill(many), 10000);
    room = 3000;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(bucket_pour(bucket, to.ours, false), 3000);
        assert_false(bucket_is_empty(bucket));
    }
    assert_int_equal(bucket_pour(bucket, to.ours, false), 1000);
    room = 0;
    assert_true(bucket_is_empty(bucket));
    expect_bytes(pattern(), 10000);
}

static void test_what_finds_room_for_a_part_is_poured_in_parts(void **state)
{
    (void)state;
    pour_in_parts(false);
}

static void test_so_are_many_bytes(void **state)
{
    (void)state;
    pour_in_parts(true);
}

static void test_a_sink_that_is_broken_is_an_error(void **state)
{
    (void)state;
    reset(to.peer);
    to.peer = unwatchable();
    come(10);
    assert_int_equal(fill(false), 10);
    eventually(bucket_pour(bucket, to.ours, false) < 0);
    assert_true(errno == ECONNRESET || errno == EPIPE);
}

static void return_with_bytes(bool many)
{
    come(10000);
    assert_int_equal(fill(many), 10000);
    bucket_return(&buckets, bucket);
    bucket = bucket_borrow(&buckets);
    assert_true(bucket_is_empty(bucket));
    come(10);
    assert_int_equal(fill(many), 10);
    assert_int_equal(bucket_pour(bucket, to.ours, false), 10);
    expect_bytes(pattern(), 10);
}

static void test_what_was_returned_with_bytes_in_it_is_empty_when_it_is_borrowed_again(void **state)
{
    (void)state;
    return_with_bytes(false);
}

static void test_so_it_is_with_many_bytes_in_it(void **state)
{
    (void)state;
    return_with_bytes(true);
}

static void test_no_bucket_may_be_returned(void **state)
{
    (void)state;
    bucket_return(&buckets, NULL);
}

static void test_without_memory_there_is_none(void **state)
{
    (void)state;
    refused.memory = true; /* the one that was there is borrowed already */
    assert_null(bucket_borrow(&buckets));
    assert_int_equal(errno, ENOMEM);
}

/* ---- those that are made of pipes ---- */

static void test_few_bytes_need_no_pipe(void **state)
{
    int before = open_descriptors();

    (void)state;
    come(50000);
    move_all(50000, false);
    assert_int_equal(buckets.pipes, 0);
    assert_int_equal(open_descriptors(), before);
}

/* The size of the largest pipe that this process has. */
static int largest_pipe(void)
{
    int largest = 0;

    for (int fd = 0; fd < 100; fd++) {
        int size = fcntl(fd, F_GETPIPE_SZ);
        largest = size > largest ? size : largest;
    }
    return largest;
}

static void test_a_pipe_is_as_large_as_may_be(void **state)
{
    (void)state;
    if (!are_pipes)
        skip();
    come(50000);
    move_all(50000, true);
    assert_int_equal(largest_pipe(), MEGA);
}

static void test_one_that_had_to_be_small_asks_again(void **state)
{
    (void)state;
    if (!are_pipes)
        skip();
    refused.pipe_size = true;
    come(50000);
    move_all(50000, true);
    assert_true(largest_pipe() < MEGA);
    come(50000);
    move_all(50000, true);
    assert_true(largest_pipe() < MEGA);
    refused.pipe_size = false;
    come(50000);
    move_all(50000, true);
    assert_int_equal(largest_pipe(), MEGA);
}

static void test_beyond_the_pipes_that_are_allowed_bytes_are_copied(void **state)
{
    enum { MANY = MOST_PIPES + 2 };
    struct bucket *others[MANY];

    (void)state;
    for (int i = 0; i < MANY; i++) {
        others[i] = bucket_borrow(&buckets);
        come(10000);
        assert_int_equal(bucket_fill(&buckets, others[i], from.ours, true), 10000);
    }
    assert_int_equal(buckets.pipes, are_pipes ? MOST_PIPES : 0);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(bucket_pour(others[i], to.ours, false), 10000);
        expect_bytes(pattern(), 10000);
        bucket_return(&buckets, others[i]);
    }
}

static void test_where_a_pipe_cannot_be_had_bytes_are_copied(void **state)
{
    (void)state;
    come(50000);
    forbid_descriptors();
    move_all(50000, true);
    allow_descriptors();
    assert_int_equal(buckets.pipes, 0);
}

static void test_a_few_are_kept_and_all_of_these_are_freed_in_the_end(void **state)
{
    enum { MANY = 40 };
    struct bucket *others[MANY];

    (void)state;
    for (int i = 0; i < MANY; i++)
        others[i] = bucket_borrow(&buckets);
    for (int i = 0; i < MANY; i++)
        bucket_return(&buckets, others[i]);
    assert_in_range(buckets.kept, 0, MANY / 2);
    buckets_clear(&buckets);
    assert_int_equal(buckets.kept, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BUCKET(test_what_is_filled_in_pours_out),
        BUCKET(test_so_do_many_bytes),
        BUCKET(test_where_nothing_has_come_it_says_so_and_stays_empty),
        BUCKET(test_the_end_of_the_stream_is_0),
        BUCKET(test_so_it_is_among_many_bytes),
        BUCKET(test_a_reset_is_an_error),
        BUCKET(test_so_it_is_among_many_bytes__and_its_error_is_not_lost),
        BUCKET(test_what_found_no_room_stays_until_there_is_some),
        BUCKET(test_so_do_many_bytes_that_found_none),
        BUCKET(test_what_finds_room_for_a_part_is_poured_in_parts),
        BUCKET(test_so_are_many_bytes),
        BUCKET(test_a_sink_that_is_broken_is_an_error),
        BUCKET(test_what_was_returned_with_bytes_in_it_is_empty_when_it_is_borrowed_again),
        BUCKET(test_so_it_is_with_many_bytes_in_it),
        BUCKET(test_no_bucket_may_be_returned),
        BUCKET(test_without_memory_there_is_none),
        BUCKET(test_few_bytes_need_no_pipe),
        BUCKET(test_a_pipe_is_as_large_as_may_be),
        BUCKET(test_one_that_had_to_be_small_asks_again),
        BUCKET(test_beyond_the_pipes_that_are_allowed_bytes_are_copied),
        BUCKET(test_where_a_pipe_cannot_be_had_bytes_are_copied),
        BUCKET(test_a_few_are_kept_and_all_of_these_are_freed_in_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
