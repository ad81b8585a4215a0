/* sock: what one TCP connection is set to, and what it tells of itself. */
#include "unit.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../common/os.h"
#include "../../common/sock.h"

/* send(2), which finds room for so many bytes. */
static size_t room = SIZE_MAX;

ssize_t send(int fd, const void *bytes, size_t size, int flags)
{
    return syscall(SYS_sendto, fd, bytes, size < room ? size : room, flags, NULL, 0);
}

/* The peer that connects there is called ADDRESS:PORT. */
static void expect_name(int listening, const char *address, const char *format)
{
    char expected[40];
    int peer = connecting_to(address, port_of(listening)), ours = -1;

    eventually((ours = accept(listening, NULL, NULL)) >= 0);
    snprintf(expected, sizeof expected, format, port_of(peer));
    assert_string_equal(sock_peer(ours).text, expected);
    close(ours);
    close(peer);
}

static void test_a_peer_is_named_by_address_and_port(void **state)
{
    int listening = listening_on(has_ipv6() ? "::" : "0.0.0.0", 0, 5);

    (void)state;
    expect_name(listening, "127.0.0.1", "127.0.0.1:%d"); /* to an IPv6 socket it comes as ::ffff:127.0.0.1 */
    if (has_ipv6())
        expect_name(listening, "::1", "[::1]:%d");
    close(listening);
}

static void test_a_peer_that_is_gone_has_no_address(void **state)
{
    struct pair pair = pair_open();
    char byte;

    (void)state;
    reset(pair.peer);
    eventually(recv(pair.ours, &byte, 1, 0) < 0 && errno == ECONNRESET);
    assert_string_equal(sock_peer(pair.ours).text, "an unknown address");
    close(pair.ours);
}

static void test_nor_have_a_unix_socket_and_its_peer(void **state)
{
    int ends[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_string_equal(sock_peer(ends[0]).address, "unknown");
    assert_string_equal(sock_peer(ends[0]).text, "an unknown address");
    assert_int_equal(sock_port(ends[0]), -1);
    close(ends[0]);
    close(ends[1]);
}

static void test_a_line_is_said_whole(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    assert_int_equal(sock_send_line(pair.ours, "proxy %s", "1234"), 0);
    expect_text(pair.peer, "proxy 1234\n");
    close(pair.ours);
    close(pair.peer);
}

static void test_a_line_that_there_is_no_room_for_is_an_error(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    fill_room(pair.ours, pair.peer);
    assert_int_equal(sock_send_line(pair.ours, "start"), -1);
    assert_int_equal(errno, EAGAIN);
    close(pair.ours);
    close(pair.peer);
}

static void test_so_is_one_that_there_is_not_enough_room_for(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    room = 3;
    errno = 0;
    assert_int_equal(sock_send_line(pair.ours, "start"), -1);
    room = SIZE_MAX;
    assert_int_equal(errno, EAGAIN);
    close(pair.ours);
    close(pair.peer);
}

static void test_what_the_peers_kernel_has_not_got_yet_is_unsent(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    assert_int_equal(os_unacknowledged(pair.ours), 0);
    fill_room(pair.ours, pair.peer);
    assert_true(os_unacknowledged(pair.ours) > 0);
    char bytes[65536];
    eventually((recv(pair.peer, bytes, sizeof bytes, 0), os_unacknowledged(pair.ours) == 0));
    close(pair.ours);
    close(pair.peer);
}

static void test_a_sockets_error_is_told_once(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    assert_int_equal(sock_error(pair.ours), 0);
    reset(pair.peer);
    int error = 0;
    eventually((error = sock_error(pair.ours)) != 0);
    assert_int_equal(error, ECONNRESET);
    assert_int_equal(sock_error(pair.ours), 0);
    close(pair.ours);
}

static void test_closing_can_be_made_a_reset(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    sock_reset_on_close(pair.ours);
    expect_rest();
    expect_nothing_yet(pair.peer);
    close(pair.ours);
    expect_reset(pair.peer);
    close(pair.peer);
}

static void test_what_is_too_long_for_a_line_is_not_said(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    assert_int_equal(sock_send_line(pair.ours, "%300s", "too long"), -1);
    assert_int_equal(errno, EMSGSIZE);
    assert_int_equal(sock_send_line(pair.ours, "%s", "start"), 0);
    expect_text(pair.peer, "start\n");
    close(pair.ours);
    close(pair.peer);
}

static void test_who_is_refused_hears_why_even_if_it_went_on_talking(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    for (int i = 0; i < 50; i++)
        tell(pair.peer, "and so on and so on and so on and so on\n");
    sock_refuse(pair.ours, "busy");
    expect_text(pair.peer, "busy\n");
    expect_end(pair.peer);
    assert_int_equal(sock_error(pair.peer), 0); /* no reset, that could have overtaken the line */
    assert_true(is_closed(pair.ours));
    close(pair.peer);
}

static void test_keepalive_times_are_rounded_up_to_seconds(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    sock_keepalive(pair.ours, 1001);
    assert_int_equal(option_of(pair.ours, IPPROTO_TCP, TCP_KEEPIDLE), 2);
    assert_int_equal(option_of(pair.ours, IPPROTO_TCP, TCP_KEEPINTVL), 2);
    assert_int_equal(option_of(pair.ours, IPPROTO_TCP, TCP_KEEPCNT), 3);
    close(pair.ours);
    close(pair.peer);
}

static void test_it_is_known_whether_the_peer_was_heard_lately(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    assert_true(sock_heard_lately(pair.ours, 300000));
    eventually(!sock_heard_lately(pair.ours, 0));
    eventually((tell(pair.peer, "x"), sock_heard_lately(pair.ours, 0)));
    close(pair.ours);
    close(pair.peer);
    assert_false(sock_heard_lately(pair.ours, 300000)); /* not a socket any more */
}

/* Somebody comes from that address. */
static struct pair comes_from(const char *address, int listening)
{
    struct sockaddr_storage where;
    socklen_t size = make_address("127.0.0.1", port_of(listening), &where);
    struct pair pair = {.peer = bound_to(address, 0), .ours = -1};

    assert_true(connect(pair.peer, (struct sockaddr *)&where, size) == 0 || errno == EINPROGRESS);
    eventually((pair.ours = accept(listening, NULL, NULL)) >= 0);
    return pair;
}

static void test_of_a_crowd_it_is_known_who_holds_more_than_half(void **state)
{
    static const char *const from[] = {"127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.4",
                                       "127.0.0.2", "127.0.0.2", "127.0.0.3"};
    enum { PAIRS = sizeof from / sizeof from[0] };
    int listening = listening_on("0.0.0.0", 0, 10);
    struct pair pairs[PAIRS];

    (void)state;
    assert_int_equal(sock_crowd(port_of(listening)).count, 0); /* who listens is no connection */
    for (int i = 0; i < PAIRS; i++)
        pairs[i] = comes_from(from[i], listening);
    struct crowd crowd = sock_crowd(port_of(listening));
    assert_string_equal(crowd.peer.address, "127.0.0.2");
    assert_int_equal(crowd.count, 4);
    for (int i = 0; i < PAIRS; i++) {
        close(pairs[i].ours);
        close(pairs[i].peer);
    }
    close(listening);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        UNIT(test_a_peer_is_named_by_address_and_port),
        UNIT(test_a_peer_that_is_gone_has_no_address),
        UNIT(test_nor_have_a_unix_socket_and_its_peer),
        UNIT(test_a_line_is_said_whole),
        UNIT(test_a_line_that_there_is_no_room_for_is_an_error),
        UNIT(test_so_is_one_that_there_is_not_enough_room_for),
        UNIT(test_what_the_peers_kernel_has_not_got_yet_is_unsent),
        UNIT(test_a_sockets_error_is_told_once),
        UNIT(test_closing_can_be_made_a_reset),
        UNIT(test_what_is_too_long_for_a_line_is_not_said),
        UNIT(test_who_is_refused_hears_why_even_if_it_went_on_talking),
        UNIT(test_keepalive_times_are_rounded_up_to_seconds),
        UNIT(test_it_is_known_whether_the_peer_was_heard_lately),
        UNIT(test_of_a_crowd_it_is_known_who_holds_more_than_half),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
