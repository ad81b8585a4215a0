/* relay: two connections joined. Most tests run twice: with pipes, and where there is no descriptor for a pipe. */
#include "unit.h"

#include <errno.h>
#include <linux/tcp.h> /* not netinet/tcp.h, which lacks tcpi_segs_in */
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../common/limits.h"
#include "../../common/os.h"
#include "../../common/relay.h"
#include "../../common/sock.h"

enum { MEGA = 1 << 20 };

/* ---- the kernel: splice(2) and send(2) ---- */

static int splice_error; /* 0, or: splice(2) is refused with it */
static size_t went_out;  /* bytes; what goes out in one turn of the loop */
static int in_vain;      /* writes for which there was no room */
static size_t room;      /* the kernel has room for so many bytes at once; 0: for as many as it likes */
static int
    resets_at_write; /* if not -1: who resets its connection at the next write to it, which takes some of the bytes,
                               and the error from the socket too, and does not tell */

static bool is_socket(int fd)
{
    int type = 0;
    socklen_t size = sizeof type;

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
}

static size_t size_of_write(size_t size)
{
    if (resets_at_write >= 0 && size > 1)
        return size / 2;
    return room > 0 && size > room ? room : size;
}

static ssize_t after_write(int fd, ssize_t count)
{
    went_out += count > 0 ? (size_t)count : 0;
    in_vain += count < 0 && errno == EAGAIN;
    if (count > 0 && resets_at_write >= 0) {
        reset(resets_at_write);
        resets_at_write = -1;
        assert_int_equal(sock_error(fd), ECONNRESET);
    }
    return count;
}

ssize_t splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t size, unsigned flags)
{
    bool is_write = is_socket(out); /* else it is into a pipe */
    size_t most = is_write ? size_of_write(size) : size;

    if (splice_error != 0) {
        errno = splice_error;
        return -1;
    }
    ssize_t count = syscall(SYS_splice, in, in_offset, out, out_offset, most, flags);
    return is_write ? after_write(out, count) : count;
}

ssize_t send(int fd, const void *bytes, size_t size, int flags)
{
    return after_write(fd, sendto(fd, bytes, size_of_write(size), flags, NULL, 0));
}

static int no_way_to =
    -1; /* whose packets a router has sent back lately, for a moment: an error, told once */

int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    if (fd == no_way_to && level == SOL_SOCKET && name == SO_ERROR) {
        *(int *)value = EHOSTUNREACH;
        no_way_to = -1;
        return 0;
    }
    return (int)syscall(SYS_getsockopt, fd, level, name, value, size);
}

/* ---- the relays, and what they report ---- */

static struct relays relays;
static bool without_pipes;
static struct relay_report report; /* the last one */
static int reports;

static void on_done(void *owner, const struct relay_report *what)
{
    assert_ptr_equal(owner, &relays);
    report = *what;
    reports++;
}

static int begin(void **state)
{
    if (unit_begin(state) != 0)
        return -1;
    without_pipes = false;
    splice_error = 0;
    room = 0;
    in_vain = 0;
    resets_at_write = -1;
    reports = 0;
    relays_init(&relays, loop, on_done, &relays);
    return 0;
}

static int begin_without_pipes(void **state)
{
    int status = begin(state);

    without_pipes = true;
    return status;
}

static int end(void **state)
{
    relays_close(&relays);
    return unit_end(state);
}

/* Entries in the list of tests. */
#define RELAY(test)                                                                                          \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }
#define RELAY_BOTH_WAYS(test)                                                                                \
    RELAY(test),                                                                                             \
    {                                                                                                        \
#test "__without_pipes", test, begin_without_pipes, end, NULL                                        \
    }

/* A joined pair, seen from outside. Left is end 0, right is end 1; the relay's own descriptors are beside them. */
struct joined {
    int left, right;
    int inner_left, inner_right;
};

static struct joined join(unsigned number)
{
    allow_descriptors();
    struct pair left = pair_open(), right = pair_open();

    assert_int_equal(relay_join(&relays, left.ours, right.ours, number), 0);
    if (without_pipes)
        forbid_descriptors();
    return (struct joined){left.peer, right.peer, left.ours, right.ours};
}

/* The same pair, seen from the other side. */
static struct joined mirrored(struct joined pair)
{
    return (struct joined){pair.right, pair.left, pair.inner_right, pair.inner_left};
}

/* The same with less room for bytes in the kernel; more than a packet of the loopback device, which is 64 kB. */
static struct joined narrow(struct joined pair)
{
    int fds[] = {pair.left, pair.right, pair.inner_left, pair.inner_right}, bytes = 100000;

    for (int i = 0; i < 4; i++) {
        setsockopt(fds[i], SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    return pair;
}

static void leave(struct joined pair)
{
    close(pair.left);
    close(pair.right);
}

/* ---- traffic ---- */

enum { PERIOD = 65521 }; /* a prime: no buffer of any common size hides a shift */

static const unsigned char *pattern(uint64_t offset)
{
    static unsigned char bytes[PERIOD + MEGA];

    if (bytes[1] == 0)
        for (unsigned i = 0; i < sizeof bytes; i++)
            bytes[i] = (unsigned char)((i % PERIOD * 2654435761u) >> 13);
    return bytes + offset % PERIOD;
}

/* Bytes from one end to the other, checked on arrival. */
struct flow {
    int from, to;
    uint64_t size; /* in all */
    uint64_t sent, came;
    size_t most; /* that are read at once; 0: all that there are */
    bool is_over;
    int error; /* 0: none, an orderly end */
};

/* Sends as much as there is room for. Returns whether that was anything. */
static bool send_some(struct flow *flow)
{
    uint64_t before = flow->sent;

    while (flow->sent < flow->size) {
        uint64_t left = flow->size - flow->sent;
        ssize_t count =
            send(flow->from, pattern(flow->sent), left < MEGA ? (size_t)left : MEGA, MSG_NOSIGNAL);
        if (count < 0) {
            flow->error = errno == EAGAIN ? flow->error : errno;
            break;
        }
        flow->sent += (uint64_t)count;
    }
    return flow->sent > before;
}

static void take_some(struct flow *flow)
{
    static unsigned char bytes[MEGA];
    size_t most = flow->most != 0 ? flow->most : sizeof bytes;
    ssize_t count = recv(flow->to, bytes, most, 0);

    if (count > 0) {
        assert_memory_equal(bytes, pattern(flow->came), (size_t)count);
        flow->came += (uint64_t)count;
    } else if (count == 0 || errno != EAGAIN) {
        flow->is_over = true;
        flow->error = count == 0 ? flow->error : errno;
    }
}

/* Takes what comes until the end of it, be it an end or a reset. */
static bool takes_all(struct flow *flow)
{
    take_some(flow);
    return flow->is_over;
}

/* Sends all, and takes all of it. */
static bool flows(struct flow *flow)
{
    send_some(flow);
    take_some(flow);
    return flow->came == flow->size;
}

/* Has `from` send size bytes until the relay's kernel has them all. `to` takes only those that it must for that: when nothing
 * has moved for a while. */
static struct flow fill(int from, int to, uint64_t size)
{
    struct flow flow = {.from = from, .to = to, .size = size, .most = 65536};
    int idle_ms = 0;

    unit_expect("all is sent", __FILE__, __LINE__);
    while (flow.sent < size || os_unacknowledged(from) > 0) {
        if (send_some(&flow) || unit_turn()) {
            idle_ms = 0;
        } else if (++idle_ms == 20) {
            take_some(&flow);
            unit_expect("all is sent", __FILE__, __LINE__);
            idle_ms = 0;
        }
    }
    return flow;
}

/* Sends until nobody takes any more. */
static struct flow stuff(int from, int to)
{
    struct flow flow = {.from = from, .to = to, .size = UINT64_MAX};

    while (send_some(&flow))
        expect_rest();
    flow.size = flow.sent;
    return flow;
}

/* ---- bytes ---- */

static void test_what_each_side_says_arrives_at_the_other(void **state)
{
    struct joined pair = join(1);

    (void)state;
    tell(pair.left, "question");
    expect_text(pair.right, "question");
    tell(pair.right, "answer");
    expect_text(pair.left, "answer");
    leave(pair);
    eventually(reports == 1);
}

static void test_one_byte_or_a_few_thousand_are_as_good_as_millions(void **state)
{
    struct joined pair = join(1);

    (void)state;
    for (uint64_t size = 1; size < 200000; size = size * 7 / 2 + 1) {
        struct flow up = {.from = pair.left, .to = pair.right, .size = size};
        struct flow down = {.from = pair.right, .to = pair.left, .size = size};

        eventually(((int)flows(&up) & (int)flows(&down)) != 0);
    }
    leave(pair);
    eventually(reports == 1);
}

/* Small messages into a side that takes none are the ones that are copied, and must wait like others. */
static void test_small_messages_wait_in_order_for_a_side_that_does_not_read(void **state)
{
    struct joined pair = narrow(join(1));
    struct flow flow = {.from = pair.left, .to = pair.right};

    (void)state;
    unit_expect("nobody takes any more", __FILE__, __LINE__);
    for (bool more = true; more; unit_turn()) {
        flow.size += 1000;
        more = send_some(&flow) || (expect_rest(), send_some(&flow));
    }
    flow.size = flow.sent;
    assert_in_range(flow.size, 10000, 32 * MEGA);
    eventually(flows(&flow));
    leave(pair);
    eventually(reports == 1);
    assert_int_equal(report.up, flow.size);
}

static void test_64_megabytes_each_way_at_once_arrive_unchanged(void **state)
{
    uint64_t size = is_under_valgrind() ? 2 * MEGA : 64 * MEGA; /* each of which takes seconds there */
    struct joined pair = join(1);
    struct flow up = {.from = pair.left, .to = pair.right, .size = size};
    struct flow down = {.from = pair.right, .to = pair.left, .size = size + 1};

    (void)state;
    for (uint64_t part = 1; part <= 16; part++) /* each has its own deadline */
        eventually((flows(&up), flows(&down), up.came >= size * part / 16 && down.came >= size * part / 16));
    eventually(flows(&down));
    leave(pair);
    eventually(reports == 1);
    assert_int_equal(report.up, up.size);
    assert_int_equal(report.down, down.size);
}

static void test_a_side_that_does_not_read_stops_the_other_and_costs_nothing(void **state)
{
    struct joined pair = join(1);
    struct flow flow = stuff(pair.left, pair.right);

    (void)state;
    assert_in_range(flow.size, 1, 32 * MEGA); /* what kernel and pipe hold, no more */
    expect_rest();
    eventually(flows(&flow));
    leave(pair);
    eventually(reports == 1);
}

static void test_a_side_that_does_not_read_does_not_stop_its_own_words(void **state)
{
    struct joined pair = join(1);
    struct flow flow = stuff(pair.left, pair.right);

    (void)state;
    tell(pair.right, "I am still here");
    expect_text(pair.left, "I am still here");
    eventually(flows(&flow));
    leave(pair);
    eventually(reports == 1);
}

static void test_a_side_that_does_not_read_does_not_stop_other_pairs(void **state)
{
    struct joined stuck = narrow(join(1)), lively = join(2);
    struct flow stuck_flow = stuff(stuck.left, stuck.right);
    struct flow flow = {.from = lively.left, .to = lively.right, .size = 4 * MEGA};

    (void)state;
    eventually(flows(&flow));
    eventually(flows(&stuck_flow));
    leave(stuck);
    leave(lively);
    eventually(reports == 2);
}

static void test_a_slow_reader_gets_everything(void **state)
{
    struct joined pair = join(1);
    struct flow flow = {.from = pair.left, .to = pair.right, .size = 3 * MEGA, .most = 20000};

    (void)state;
    eventually(flows(&flow));
    leave(pair);
    eventually(reports == 1);
}

/* Small messages are copied, one at a time. */
static void test_small_messages_that_pile_up_arrive_whole(void **state)
{
    struct joined pair = narrow(join(1));
    struct flow flow = {.from = pair.left, .to = pair.right};

    (void)state;
    unit_expect("the sink is full", __FILE__, __LINE__);
    do {
        flow.size += 1000;
        send_some(&flow);
    } while (unit_turn());
    assert_in_range(flow.size, 100000, 4 * MEGA);
    eventually(flows(&flow));
    leave(pair);
    eventually(reports == 1);
    assert_int_equal(report.up, flow.size);
}

static void test_a_small_message_that_fits_in_part_arrives_whole(void **state)
{
    struct joined pair = join(1);

    (void)state;
    tell(pair.left, "a small message");
    room = 3;
    unit_turn();
    expect_text(pair.right, "a s");
    room = 0;
    expect_text(pair.right, "mall message");
    tell(pair.left, "and another");
    expect_text(pair.right, "and another");
    leave(pair);
    eventually(reports == 1);
    assert_int_equal(report.up, strlen("a small messageand another"));
}

/* ---- the end of one direction ---- */

static void half_close(struct joined pair)
{
    tell(pair.left, "that is all");
    finish(pair.left);
    expect_text(pair.right, "that is all");
    expect_end(pair.right);
    expect_rest();
    expect_nothing_yet(pair.left);
    assert_int_equal(reports, 0);
    for (int i = 0; i < 3; i++) {
        tell(pair.right, "an answer in parts");
        expect_text(pair.left, "an answer in parts");
    }
    finish(pair.right);
    expect_end(pair.left);
    eventually(reports == 1);
    leave(pair);
}

static void test_the_lefts_end_is_passed_on_while_the_right_goes_on(void **state)
{
    (void)state;
    half_close(join(1));
}

static void test_the_rights_end_is_passed_on_while_the_left_goes_on(void **state)
{
    (void)state;
    half_close(mirrored(join(1)));
}

static void test_an_end_comes_only_after_all_bytes_ahead_of_it(void **state)
{
    struct joined pair = join(1);
    struct flow flow = fill(pair.left, pair.right, 3 * MEGA);

    (void)state;
    finish(pair.left);
    expect_rest();
    eventually(takes_all(&flow));
    assert_int_equal(flow.came, flow.size);
    assert_int_equal(flow.error, 0);
    leave(pair);
    eventually(reports == 1);
}

/* Whether fd gets ready for this within ms milliseconds, without a turn of the loop. */
static bool comes(int fd, short event, int ms)
{
    struct pollfd wanted = {.fd = fd, .events = event};

    allow_descriptors(); /* poll(2) insists */
    bool came = poll(&wanted, 1, ms) == 1 && (wanted.revents & event);
    if (without_pipes)
        forbid_descriptors();
    return came;
}

static void test_bytes_do_not_wait_for_more(void **state)
{
    struct joined pair = join(1);

    (void)state;
    tell(pair.left, "hello");
    assert_true(comes(pair.inner_left, POLLIN, 1000));
    unit_turn();
    assert_true(comes(pair.right, POLLIN, 100)); /* what waits for more waits for 200 ms */
    expect_text(pair.right, "hello");
    leave(pair);
    eventually(reports == 1);
}

/* Segments that have come to the socket so far, with or without bytes. */
static int segments_received(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;

    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    return (int)info.tcpi_segs_in;
}

static void test_the_end_goes_out_with_the_last_bytes_in_one_segment(void **state)
{
    struct joined pair = join(1);
    int before = segments_received(pair.right);

    (void)state;
    tell(pair.left, "bye");
    finish(pair.left);
    assert_true(comes(pair.inner_left, POLLRDHUP, 1000));
    unit_turn();
    if (!LAST_IS_TOLD)
        unit_turn(); /* then it is found when there is nothing more to read */
    assert_true(comes(pair.right, POLLRDHUP, 1000));
    if (LAST_WAITS)
        assert_int_equal(segments_received(pair.right) - before, 1);
    expect_text(pair.right, "bye");
    expect_end(pair.right);
    leave(pair);
    eventually(reports == 1);
}

static void test_but_bytes_that_are_not_the_last_do_not_wait(void **state)
{
    struct joined pair = join(1);

    (void)state;
    tell(pair.left, "hello");
    assert_true(comes(pair.inner_left, POLLIN, 1000));
    unit_turn();
    assert_true(comes(pair.right, POLLIN, 100)); /* what waits for more waits for 200 ms */
    expect_text(pair.right, "hello");
    leave(pair);
    eventually(reports == 1);
}

static void test_both_may_end_before_anything_is_read(void **state)
{
    struct joined pair = join(1);
    struct flow up = fill(pair.left, pair.right, MEGA / 2), down = fill(pair.right, pair.left, MEGA / 2);

    (void)state;
    finish(pair.left);
    finish(pair.right);
    eventually(((int)takes_all(&up) & (int)takes_all(&down)) != 0);
    assert_true(up.came == up.size && up.error == 0);
    assert_true(down.came == down.size && down.error == 0);
    leave(pair);
    eventually(reports == 1);
}

/* ---- resets ---- */

static void pass_on_reset(struct joined pair)
{
    tell(pair.left, "so far");
    expect_text(pair.right, "so far");
    reset(pair.left);
    expect_reset(pair.right);
    eventually(reports == 1);
    close(pair.right);
}

static void test_the_lefts_reset_is_passed_on_as_a_reset(void **state)
{
    (void)state;
    pass_on_reset(join(1));
}

static void test_the_rights_reset_is_passed_on_as_a_reset(void **state)
{
    (void)state;
    pass_on_reset(mirrored(join(1)));
}

static void reset_behind_bytes(struct joined pair)
{
    struct flow flow = fill(pair.left, pair.right, MEGA);

    assert_true(flow.came < flow.size - MEGA / 8); /* there is much on the way */
    reset(pair.left);
    expect_rest();
    eventually(takes_all(&flow));
    assert_int_equal(flow.came, flow.size);
    assert_int_equal(flow.error, ECONNRESET);
    eventually(reports == 1);
    close(pair.right);
}

static void test_the_lefts_reset_comes_only_after_all_bytes_ahead_of_it(void **state)
{
    (void)state;
    reset_behind_bytes(join(1));
}

static void test_the_rights_reset_comes_only_after_all_bytes_ahead_of_it(void **state)
{
    (void)state;
    reset_behind_bytes(mirrored(join(1)));
}

/* Then reading says that it was an orderly end; but there is more to write. */
static void test_a_reset_whose_error_a_write_has_taken_is_passed_on(void **state)
{
    struct joined pair = join(1);

    (void)state;
    tell_bytes(pair.right, pattern(0), 60000);
    resets_at_write = pair.left;
    eventually(resets_at_write < 0);
    expect_reset(pair.right);
    eventually(reports == 1);
    close(pair.right);
}

static void test_a_reset_after_the_own_end_is_passed_on(void **state)
{
    struct joined pair = join(1);

    (void)state;
    finish(pair.left);
    expect_end(pair.right);
    reset(pair.left);
    eventually(reports == 1); /* the app is not left waiting for a user that gave up */
    assert_true(send(pair.right, "x", 1, MSG_NOSIGNAL) < 0);
    close(pair.right);
}

static void test_a_reset_after_the_others_end_is_passed_on(void **state)
{
    struct joined pair = join(1);

    (void)state;
    finish(pair.right);
    expect_end(pair.left);
    reset(pair.left);
    expect_reset(pair.right);
    eventually(reports == 1);
    close(pair.right);
}

static void test_a_reset_reaches_a_side_whose_words_nobody_reads(void **state)
{
    struct joined pair = narrow(join(1));

    (void)state;
    stuff(pair.right, pair.left);
    reset(pair.left);
    expect_reset(pair.right);
    eventually(reports == 1);
    close(pair.right);
}

static void test_both_may_reset_at_once(void **state)
{
    struct joined pair = narrow(join(1));

    (void)state;
    stuff(pair.left, pair.right);
    stuff(pair.right, pair.left);
    reset(pair.left);
    reset(pair.right);
    eventually(reports == 1);
    assert_int_equal(relays.count, 0);
}

static void test_both_may_reset_at_once_after_their_ends(void **state)
{
    struct joined pair = narrow(join(1));

    (void)state;
    stuff(pair.left, pair.right);
    stuff(pair.right, pair.left);
    finish(pair.left);
    finish(pair.right);
    expect_rest();
    reset(pair.left);
    reset(pair.right);
    eventually(reports == 1);
}

/* All that it sent is on its way already, to one that does not read; and nobody writes to it. */
static void test_the_reset_of_an_end_that_nobody_listens_to_is_noticed(void **state)
{
    struct joined pair = narrow(join(1));
    struct flow flow = fill(pair.left, pair.right, MEGA);

    (void)state;
    expect_rest();
    assert_true(list_is_empty(&relays.leaving.members));
    reset(pair.left);
    eventually(!list_is_empty(&relays.leaving.members)); /* without a byte taken at the other side */
    expect_rest();
    eventually(takes_all(&flow));
    assert_int_equal(flow.came, flow.size);
    assert_int_equal(flow.error, ECONNRESET);
    eventually(reports == 1);
    close(pair.right);
}

/* An app that answers early: says no to an upload that it doesn't read, and closes; its kernel then sends a reset. */
static void early_answer(struct joined pair, uint64_t size)
{
    struct flow upload = {.from = pair.left, .to = pair.right, .size = 1ULL << 40};

    while (send_some(&upload))
        expect_rest();
    struct flow answer = fill(pair.right, pair.left, size);
    close(pair.right); /* with bytes unread */
    expect_rest();
    send_some(&upload); /* the user is still at it */
    answer.most = 20000;
    eventually(takes_all(&answer));
    assert_int_equal(answer.came, size);
    assert_true(answer.error == ECONNRESET ||
                upload.error == ECONNRESET); /* told once, to whom comes first */
    eventually(reports == 1);
    close(pair.left);
}

static void test_an_answer_of_3_mb_that_comes_before_the_question_is_over_arrives_whole(void **state)
{
    (void)state;
    early_answer(join(1), 3 * MEGA);
}

static void test_a_short_answer_that_comes_before_the_question_is_over_arrives_whole(void **state)
{
    (void)state;
    early_answer(join(1), 100);
}

static void test_so_does_an_early_answer_from_left_to_right(void **state)
{
    (void)state;
    early_answer(mirrored(join(1)), 3 * MEGA);
}

static void test_a_peer_that_never_takes_the_rest_is_given_up_after_a_minute(void **state)
{
    struct joined pair = narrow(join(1));

    (void)state;
    fill(pair.left, pair.right, MEGA);
    uint64_t began_ms = loop_now_ms(loop);
    reset(pair.left);
    expect_rest();
    while (reports == 0 && loop_now_ms(loop) < began_ms + 200000)
        later(10);
    assert_in_range(loop_now_ms(loop) - began_ms, 60000, 199999); /* since the last byte got through */
    assert_int_equal(relays.count, 0);
    close(pair.right);
}

/* Takes something, or sees that it is over. */
static void bite(struct flow *flow)
{
    uint64_t before = flow->came;

    unit_expect("something comes", __FILE__, __LINE__);
    for (take_some(flow); flow->came == before && !flow->is_over; take_some(flow))
        unit_turn(); /* the kernel's clock is the real one: it may need a moment to open the window */
}

/* Where the kernel tells of room at once, there is nothing to test. */
static void skip_if_told_early(struct joined pair)
{
    if (os_tells_of_room_late(pair.inner_right))
        return;
    leave(pair);
    eventually(reports == 1);
    skip();
}

/* Takes bytes until there is room at fd, but so little that the kernel does not tell of it. */
static void make_a_little_room(struct flow *flow, int fd)
{
    int before = os_unacknowledged(fd);
    struct pollfd told = {.fd = fd, .events = POLLOUT};

    unit_expect("a little room", __FILE__, __LINE__);
    while (os_unacknowledged(fd) == before)
        bite(flow);
    assert_int_equal(poll(&told, 1, 0), 0);
}

static void test_a_sink_that_takes_something_is_asked_for_room_before_the_kernel_tells(void **state)
{
    struct joined pair = join(1);
    struct pollfd told = {.fd = pair.inner_right, .events = POLLOUT};
    int window = 100000; /* so many bytes are under way at once, at most */

    (void)state;
    setsockopt(pair.right, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
    skip_if_told_early(pair);
    relays.asked.every_ms =
        3600 * 1000; /* the kernel takes its own time to make room: this test is the clock */
    struct flow flow = stuff(pair.left, pair.right);
    flow.most = 65536;
    assert_false(list_is_empty(&relays.asked.members));
    relays.asked.look_at(relays.asked.members.next);
    assert_true(list_is_empty(&relays.asked.members)); /* it took nothing */
    while (poll(&told, 1, 0) == 0)
        bite(&flow);
    eventually(!list_is_empty(&relays.asked.members));
    for (int i = 0; i < 10; i++) {
        expect_rest(); /* full again, of what has come meanwhile */
        make_a_little_room(&flow, pair.inner_right);
        went_out = 0;
        assert_false(list_is_empty(&relays.asked.members));
        relays.asked.look_at(relays.asked.members.next);
        assert_true(went_out > 0);
    }
    leave(pair);
    eventually(reports == 1);
}

static void test_a_reader_that_has_stopped_is_left_alone(void **state)
{
    struct joined pair = join(1);

    (void)state;
    skip_if_told_early(pair);
    stuff(pair.left, pair.right);
    eventually(list_is_empty(&relays.asked.members));
    int asked = in_vain;
    for (int i = 0; i < 100; i++)
        later(10);
    assert_in_range(in_vain - asked, 0, 5); /* the kernel may find some room later, without a byte read */
    reset(pair.left);
    close(pair.right);
    eventually(reports == 1);
}

/* Takes bytes until some more have arrived at the other end of fd, as far as the kernel there knows. */
static void take_until_some_arrive(struct flow *flow, int fd)
{
    int before = os_unacknowledged(fd);

    while (reports == 0 && os_unacknowledged(fd) >= before)
        bite(flow);
}

/* Looks at a pair that is leaving come every 50 ms, and 1,200 of them in vain are too many. */
static void test_a_slow_reader_gets_all_that_came_before_the_reset(void **state)
{
    struct joined pair = narrow(join(1));
    struct flow flow = fill(pair.left, pair.right, 3 * MEGA);
    int looks = 0;

    (void)state;
    flow.most = 65536;
    reset(pair.left);
    while (reports == 0) {
        for (int i = 0; i < 1000 && reports == 0; i++, looks++)
            later(50);
        take_until_some_arrive(&flow, pair.inner_right);
    }
    while (!flow.is_over)
        bite(&flow);
    assert_int_equal(flow.came, flow.size);
    assert_int_equal(flow.error, ECONNRESET);
    assert_in_range(looks, 1300, 30000);
    close(pair.right);
}

static void test_a_router_that_knows_no_way_for_a_moment_breaks_nothing(void **state)
{
    struct joined pair = narrow(join(1));
    struct flow flow = fill(pair.left, pair.right, MEGA);

    (void)state;
    reset(pair.left);
    expect_rest();
    no_way_to = pair.inner_right;
    later(50);
    assert_int_equal(no_way_to, -1); /* it was told */
    eventually(takes_all(&flow));
    assert_int_equal(flow.came, flow.size);
    assert_int_equal(flow.error, ECONNRESET);
    close(pair.right);
}

/* ---- urgent data ---- */

static void send_urgent(int fd)
{
    assert_int_equal(send(fd, "!", 1, MSG_OOB), 1);
}

static void test_an_urgent_byte_is_a_byte_like_the_others(void **state)
{
    struct joined pair = join(1);

    (void)state;
    tell(pair.left, "before");
    send_urgent(pair.left);
    tell(pair.left, "after");
    finish(pair.left);
    expect_text(pair.right, "before!after");
    expect_end(pair.right);
    expect_rest();
    leave(pair);
}

/* All is there at the first turn, so that splice(2) meets a mark with bytes behind it. */
static void test_an_urgent_byte_amid_many_holds_nothing_up(void **state)
{
    static char bytes[4 * 4097], came[sizeof bytes];
    struct pair left = pair_open(), right = pair_open();
    size_t count = 0;

    (void)state;
    memset(bytes, 'x', sizeof bytes);
    for (size_t at = 0; at < sizeof bytes; at += 4097) {
        tell_bytes(left.peer, bytes + at, 4096);
        bytes[at + 4096] = '!';
        send_urgent(left.peer);
    }
    eventually(os_unacknowledged(left.peer) == 0);
    assert_int_equal(relay_join(&relays, left.ours, right.ours, 1), 0);
    for (ssize_t more; count < sizeof came; count += (size_t)more) {
        expect_rest(); /* nor does it spin */
        more = recv(right.peer, came + count, sizeof came - count, 0);
        assert_true(more > 0);
    }
    assert_memory_equal(came, bytes, sizeof bytes);
    finish(left.peer);
    finish(right.peer);
    eventually(reports == 1);
    close(left.peer);
    close(right.peer);
}

/* ---- fairness ---- */

static void test_a_turn_moves_at_most_one_mebibyte_in_each_direction(void **state)
{
    struct joined pair = join(1);
    struct flow flow = {.from = pair.left, .to = pair.right, .size = 64 * MEGA};
    size_t most = 0;

    (void)state;
    while (!flows(&flow)) {
        /* Until there is much to move, and much room for it. */
        unit_expect("a turn", __FILE__, __LINE__);
        went_out = 0;
        unit_turn();
        most = went_out > most ? went_out : most;
    }
    assert_in_range(most, 1, MEGA);
    leave(pair);
    eventually(reports == 1);
}

static void test_a_small_message_does_not_wait_behind_a_flood(void **state)
{
    struct joined flood = join(1), small = join(2);
    struct flow flow = {.from = flood.left, .to = flood.right, .size = 32 * MEGA};
    int messages = 0, turns = 0;

    (void)state;
    tell(small.left, "x");
    while (!flows(&flow)) {
        char byte;

        unit_expect("a turn", __FILE__, __LINE__);
        unit_turn();
        turns++;
        if (recv(small.right, &byte, 1, 0) == 1) {
            messages++;
            tell(small.left, "x");
        }
    }
    assert_in_range(messages, turns / 4, turns);
    leave(flood);
    leave(small);
    eventually(reports == 2);
}

/* ---- pipes and descriptors ---- */

/* Those that are made of pipes keep one from the start. */
static bool are_pipes(void)
{
    return relays.buckets.kept > 0;
}

static void test_an_idle_pair_costs_its_two_descriptors_and_no_pipe(void **state)
{
    int before = open_descriptors();
    struct joined pair = join(1);
    struct flow flow = {.from = pair.left, .to = pair.right, .size = MEGA};

    (void)state;
    assert_int_equal(open_descriptors() - before, 4); /* two are the test's */
    tell(pair.left, "x");
    expect_text(pair.right, "x");
    expect_rest();
    assert_int_equal(relays.buckets.pipes, 0);
    assert_int_equal(open_descriptors() - before, 4);
    eventually(flows(&flow));
    expect_rest();
    assert_true(relays.buckets.pipes <= relays.buckets.kept);
    assert_int_equal(open_descriptors() - before, 4 + 2 * relays.buckets.pipes);
    leave(pair);
    eventually(reports == 1);
    assert_int_equal(open_descriptors() - before, 2 * relays.buckets.pipes);
}

static void test_pipes_go_back_into_a_small_pool(void **state)
{
    enum { PAIRS = 24 };
    struct joined pairs[PAIRS];
    struct flow flows_of[PAIRS];

    (void)state;
    if (!are_pipes())
        skip();
    for (unsigned i = 0; i < PAIRS; i++) {
        pairs[i] = narrow(join(i));
        flows_of[i] = stuff(pairs[i].left, pairs[i].right);
    }
    assert_int_equal(relays.buckets.pipes, PAIRS);
    assert_int_equal(relays.buckets.kept, 0);
    for (int i = 0; i < PAIRS; i++)
        eventually(flows(&flows_of[i]));
    expect_rest();
    assert_true(relays.buckets.pipes <= relays.buckets.kept);
    assert_in_range(relays.buckets.kept, 1, PAIRS - 1);
    for (int i = 0; i < PAIRS; i++)
        leave(pairs[i]);
    eventually(reports == PAIRS);
}

static void test_a_pipe_with_bytes_left_in_it_is_never_used_again(void **state)
{
    (void)state;
    if (!are_pipes())
        skip();
    struct joined first = narrow(join(1));
    stuff(first.left, first.right);
    assert_int_equal(relays.buckets.pipes, 1);
    reset(first.right);
    eventually(reports == 1);
    assert_int_equal(relays.buckets.pipes, 0);
    struct joined second = join(2);
    tell(second.left, "clean");
    expect_text(second.right, "clean");
    expect_rest();
    expect_nothing_yet(second.right);
    close(first.left);
    leave(second);
    eventually(reports == 2);
}

static void test_more_pairs_than_pipes_are_served_all_the_same(void **state)
{
    enum { PAIRS = 6 };
    struct joined pairs[PAIRS];
    struct flow flows_of[PAIRS];

    (void)state;
    if (!are_pipes())
        skip();
    relays.buckets.most_pipes = 2;
    for (unsigned i = 0; i < PAIRS; i++) {
        pairs[i] = narrow(join(i));
        flows_of[i] = stuff(pairs[i].left, pairs[i].right);
    }
    assert_int_equal(relays.buckets.pipes, 2);
    expect_rest();
    for (int i = PAIRS - 1; i >= 0; i--) {
        flows_of[i].size += 2 * MEGA;
        eventually(flows(&flows_of[i]));
        leave(pairs[i]);
    }
    eventually(reports == PAIRS);
}

static void test_without_descriptors_there_are_no_pipes(void **state)
{
    struct joined pair = narrow(join(1));

    (void)state;
    stuff(pair.left, pair.right);
    assert_int_equal(relays.buckets.pipes, 0);
    leave(pair);
    eventually(reports == 1);
}

static void test_the_pipes_take_no_more_descriptors_than_are_set_aside(void **state)
{
    (void)state;
    assert_int_equal(relays.buckets.most_pipes, limits_pipes());
}

static void expect_copied(int error)
{
    struct joined pair = join(1);
    struct flow up = {.from = pair.left, .to = pair.right, .size = 5 * MEGA};
    struct flow down = {.from = pair.right, .to = pair.left, .size = 100000};

    splice_error = error;
    eventually(((int)flows(&up) & (int)flows(&down)) != 0);
    finish(pair.left);
    expect_end(pair.right);
    leave(pair);
    eventually(reports == 1);
    assert_int_equal(report.up, up.size);
}

static void test_where_there_is_no_splice_bytes_are_copied(void **state)
{
    (void)state;
    expect_copied(ENOSYS);
}

static void test_where_splice_is_forbidden_bytes_are_copied(void **state)
{
    (void)state;
    expect_copied(EPERM);
}

/* ---- memory ---- */

static void test_without_memory_one_pair_is_lost_and_the_log_says_so(void **state)
{
    struct joined stuck = narrow(join(1)), lost = join(2);
    struct flow flow = stuff(stuck.left, stuck.right); /* has the bucket that is kept, if one is */

    (void)state;
    refused.memory = true;
    tell(lost.left, "x");
    eventually(reports == 1);
    refused.memory = false;
    assert_int_equal(report.number, 2);
    expect_logged("lost the pair of connections 2: out of memory");
    expect_reset(lost.left);
    expect_reset(lost.right);
    eventually(flows(&flow));
    leave(stuck);
    leave(lost);
    eventually(reports == 2);
    assert_int_equal(report.up, flow.size);
}

static void test_with_no_memory_at_all_one_pair_at_a_time_goes_on(void **state)
{
    (void)state;
    if (!are_pipes())
        skip();
    struct joined first = join(1), second = join(2);
    refused.memory = true;
    for (int i = 0; i < 3; i++) {
        tell(first.left, "question");
        expect_text(first.right, "question");
        tell(second.right, "answer");
        expect_text(second.left, "answer");
    }
    leave(first);
    leave(second);
    eventually(reports == 2);
}

/* ---- what becomes of a pair ---- */

static void test_a_report_has_number_bytes_and_time(void **state)
{
    struct joined pair = join(4711);

    (void)state;
    tell(pair.left, "12345");
    expect_text(pair.right, "12345");
    tell(pair.right, "123");
    expect_text(pair.left, "123");
    later(70000);
    int inner_left = pair.inner_left, inner_right = pair.inner_right;
    leave(pair);
    eventually(reports == 1);
    assert_int_equal(report.number, 4711);
    assert_int_equal(report.up, 5);
    assert_int_equal(report.down, 3);
    assert_in_range(report.time_ms, 70000, 70000 + 60000);
    assert_true(is_closed(inner_left) && is_closed(inner_right));
}

static void test_a_report_reads_well_in_the_log(void **state)
{
    (void)state;
    relay_say_done("user", &(struct relay_report){7, 412, 1200000, 340});
    expect_logged(": user 7 done: 412 B up, 1.2 MB down, 0.3 s\n");
}

static void test_relays_count_their_pairs(void **state)
{
    struct joined first = join(1), second = join(2);

    (void)state;
    assert_int_equal(relays.count, 2);
    leave(first);
    eventually(relays.count == 1);
    leave(second);
    eventually(relays.count == 0);
}

static void test_closing_all_resets_both_ends_of_each_without_a_report(void **state)
{
    struct joined idle = join(1), stuck = narrow(join(2)), leaving = join(3);

    (void)state;
    stuff(stuck.left, stuck.right);
    fill(leaving.left, leaving.right, MEGA);
    reset(leaving.left);
    expect_rest();
    relays_close(&relays);
    assert_int_equal(relays.count, 0);
    assert_int_equal(relays.buckets.pipes, 0);
    expect_reset(idle.left); /* it was no orderly end: what was under way may be half a file */
    expect_reset(idle.right);
    assert_true(is_closed(stuck.inner_left) && is_closed(leaving.inner_right));
    later(1000);
    assert_int_equal(reports, 0);
    leave(idle);
    leave(stuck);
    close(leaving.right);
}

static void test_what_cannot_be_joined_is_closed_and_logged(void **state)
{
    struct pair left = pair_open(), right = pair_open();
    int nothing = unwatchable();

    (void)state;
    assert_int_equal(relay_join(&relays, left.ours, nothing, 1), -1);
    assert_true(is_closed(left.ours) && is_closed(nothing));
    expect_end(left.peer);
    nothing = unwatchable();
    assert_int_equal(relay_join(&relays, nothing, right.ours, 1), -1);
    assert_true(is_closed(right.ours) && is_closed(nothing));
    nothing = unwatchable();
    assert_int_equal(relay_echo(&relays, nothing, 1), -1);
    assert_true(is_closed(nothing));
    expect_logged("cannot join two connections: Operation not permitted");
    assert_int_equal(relays.count, 0);
    close(left.peer);
    close(right.peer);
}

/* ---- the echo ---- */

static int echo(unsigned number)
{
    allow_descriptors();
    struct pair pair = pair_open();

    assert_int_equal(relay_echo(&relays, pair.ours, number), 0);
    if (without_pipes)
        forbid_descriptors();
    return pair.peer;
}

static void test_an_echo_returns_what_it_hears_then_the_end(void **state)
{
    int peer = echo(9);
    struct flow flow = {.from = peer, .to = peer, .size = 8 * MEGA};

    (void)state;
    eventually(flows(&flow));
    finish(peer);
    expect_end(peer);
    eventually(reports == 1);
    assert_int_equal(report.number, 9);
    assert_int_equal(report.up, 8 * MEGA);
    assert_int_equal(report.down, 8 * MEGA);
    close(peer);
}

static void test_an_echo_that_nobody_reads_waits_without_cost(void **state)
{
    int peer = echo(1);
    struct flow flow = stuff(peer, peer);

    (void)state;
    finish(peer);
    eventually(takes_all(&flow));
    assert_int_equal(flow.came, flow.size);
    assert_int_equal(flow.error, 0);
    eventually(reports == 1);
    close(peer);
}

static void test_an_echo_of_one_that_resets_is_over(void **state)
{
    int idle = echo(1), stuck = echo(2);

    (void)state;
    stuff(stuck, stuck);
    reset(idle);
    reset(stuck);
    eventually(reports == 2);
    assert_int_equal(relays.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RELAY_BOTH_WAYS(test_what_each_side_says_arrives_at_the_other),
        RELAY_BOTH_WAYS(test_one_byte_or_a_few_thousand_are_as_good_as_millions),
        RELAY_BOTH_WAYS(test_small_messages_wait_in_order_for_a_side_that_does_not_read),
        RELAY_BOTH_WAYS(test_64_megabytes_each_way_at_once_arrive_unchanged),
        RELAY_BOTH_WAYS(test_a_side_that_does_not_read_stops_the_other_and_costs_nothing),
        RELAY_BOTH_WAYS(test_a_side_that_does_not_read_does_not_stop_its_own_words),
        RELAY_BOTH_WAYS(test_a_side_that_does_not_read_does_not_stop_other_pairs),
        RELAY_BOTH_WAYS(test_a_slow_reader_gets_everything),
        RELAY_BOTH_WAYS(test_small_messages_that_pile_up_arrive_whole),
        RELAY_BOTH_WAYS(test_a_small_message_that_fits_in_part_arrives_whole),
        RELAY_BOTH_WAYS(test_the_lefts_end_is_passed_on_while_the_right_goes_on),
        RELAY_BOTH_WAYS(test_the_rights_end_is_passed_on_while_the_left_goes_on),
        RELAY_BOTH_WAYS(test_an_end_comes_only_after_all_bytes_ahead_of_it),
        RELAY_BOTH_WAYS(test_bytes_do_not_wait_for_more),
        RELAY_BOTH_WAYS(test_the_end_goes_out_with_the_last_bytes_in_one_segment),
        RELAY_BOTH_WAYS(test_but_bytes_that_are_not_the_last_do_not_wait),
        RELAY_BOTH_WAYS(test_both_may_end_before_anything_is_read),
        RELAY_BOTH_WAYS(test_the_lefts_reset_is_passed_on_as_a_reset),
        RELAY_BOTH_WAYS(test_the_rights_reset_is_passed_on_as_a_reset),
        RELAY_BOTH_WAYS(test_the_lefts_reset_comes_only_after_all_bytes_ahead_of_it),
        RELAY_BOTH_WAYS(test_the_rights_reset_comes_only_after_all_bytes_ahead_of_it),
        RELAY_BOTH_WAYS(test_a_reset_whose_error_a_write_has_taken_is_passed_on),
        RELAY_BOTH_WAYS(test_a_reset_after_the_own_end_is_passed_on),
        RELAY_BOTH_WAYS(test_a_reset_after_the_others_end_is_passed_on),
        RELAY_BOTH_WAYS(test_a_reset_reaches_a_side_whose_words_nobody_reads),
        RELAY_BOTH_WAYS(test_both_may_reset_at_once),
        RELAY_BOTH_WAYS(test_both_may_reset_at_once_after_their_ends),
        RELAY_BOTH_WAYS(test_the_reset_of_an_end_that_nobody_listens_to_is_noticed),
        RELAY_BOTH_WAYS(test_an_answer_of_3_mb_that_comes_before_the_question_is_over_arrives_whole),
        RELAY_BOTH_WAYS(test_a_short_answer_that_comes_before_the_question_is_over_arrives_whole),
        RELAY_BOTH_WAYS(test_so_does_an_early_answer_from_left_to_right),
        RELAY_BOTH_WAYS(test_a_peer_that_never_takes_the_rest_is_given_up_after_a_minute),
        RELAY_BOTH_WAYS(test_a_sink_that_takes_something_is_asked_for_room_before_the_kernel_tells),
        RELAY_BOTH_WAYS(test_a_reader_that_has_stopped_is_left_alone),
        RELAY_BOTH_WAYS(test_a_slow_reader_gets_all_that_came_before_the_reset),
        RELAY(test_a_router_that_knows_no_way_for_a_moment_breaks_nothing),
        RELAY_BOTH_WAYS(test_an_urgent_byte_is_a_byte_like_the_others),
        RELAY_BOTH_WAYS(test_an_urgent_byte_amid_many_holds_nothing_up),
        RELAY_BOTH_WAYS(test_a_turn_moves_at_most_one_mebibyte_in_each_direction),
        RELAY_BOTH_WAYS(test_a_small_message_does_not_wait_behind_a_flood),
        RELAY(test_an_idle_pair_costs_its_two_descriptors_and_no_pipe),
        RELAY(test_pipes_go_back_into_a_small_pool),
        RELAY(test_a_pipe_with_bytes_left_in_it_is_never_used_again),
        RELAY(test_more_pairs_than_pipes_are_served_all_the_same),
        {"test_without_descriptors_there_are_no_pipes", test_without_descriptors_there_are_no_pipes,
         begin_without_pipes, end, NULL},
        RELAY(test_the_pipes_take_no_more_descriptors_than_are_set_aside),
        RELAY(test_where_there_is_no_splice_bytes_are_copied),
        RELAY(test_where_splice_is_forbidden_bytes_are_copied),
        RELAY_BOTH_WAYS(test_without_memory_one_pair_is_lost_and_the_log_says_so),
        RELAY(test_with_no_memory_at_all_one_pair_at_a_time_goes_on),
        RELAY(test_a_report_has_number_bytes_and_time),
        RELAY(test_a_report_reads_well_in_the_log),
        RELAY(test_relays_count_their_pairs),
        RELAY_BOTH_WAYS(test_closing_all_resets_both_ends_of_each_without_a_report),
        RELAY(test_what_cannot_be_joined_is_closed_and_logged),
        RELAY_BOTH_WAYS(test_an_echo_returns_what_it_hears_then_the_end),
        RELAY_BOTH_WAYS(test_an_echo_that_nobody_reads_waits_without_cost),
        RELAY_BOTH_WAYS(test_an_echo_of_one_that_resets_is_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
