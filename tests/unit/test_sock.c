/* sock: TCP sockets set up as a tunnel needs them, and ports to listen on. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../common/sock.h"

/* socket(2) and bind(2), as on a machine where IPv6 is not built in, or switched off. */
static bool ipv6_is_missing, ipv6_is_off;

int socket(int domain, int type, int protocol)
{
    if (domain == AF_INET6 && ipv6_is_missing) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    return (int)syscall(SYS_socket, domain, type, protocol);
}

/* Under another name here, since the C library declares it with a type of its own for addresses. */
int bind_stand_in(int fd, const struct sockaddr *address, socklen_t size) __asm__("bind");

int bind_stand_in(int fd, const struct sockaddr *address, socklen_t size)
{
    if (address->sa_family == AF_INET6 && ipv6_is_off) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    return (int)syscall(SYS_bind, fd, address, size);
}

/* getsockname(2), for a system that is out of memory. */
static bool port_is_unknown;
int getsockname_stand_in(int fd, struct sockaddr *address, socklen_t *size) __asm__("getsockname");

int getsockname_stand_in(int fd, struct sockaddr *address, socklen_t *size)
{
    if (port_is_unknown) {
        errno = ENOBUFS;
        return -1;
    }
    return (int)syscall(SYS_getsockname, fd, address, size);
}

/* ---- a listener, and who was accepted ---- */

static struct listener listener;
static int accepted[200], count;
static bool is_open; /* to visitors */
static bool closes;  /* the listener, at the first visitor */

static void on_accept(void *owner, int fd)
{
    assert_ptr_equal(owner, &listener);
    accepted[count++] = fd;
    if (closes)
        listener_close(&listener);
}

static bool may_accept(void *owner)
{
    assert_ptr_equal(owner, &listener);
    return is_open;
}

static int begin(void **state)
{
    ipv6_is_missing = ipv6_is_off = closes = false;
    is_open = true;
    count = 0;
    listener = (struct listener){0};
    return unit_begin(state);
}

static int end(void **state)
{
    listener_close(&listener);
    for (int i = 0; i < count; i++)
        close(accepted[i]);
    return unit_end(state);
}

#define SOCK(test)                                                                                           \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

static void open_at(const char *address)
{
    assert_int_equal(listener_open(&listener, loop, address, 0, "users", on_accept, &listener), 0);
}

/* Somebody comes and is let in. Returns the peer's end. */
static int visit(const char *address)
{
    int before = count;
    int peer = connecting_to(address, listener.port);

    eventually(count == before + 1);
    return peer;
}

static void test_port_0_is_any_free_port_and_the_log_says_which(void **state)
{
    char expected[60];

    (void)state;
    open_at(NULL);
    assert_in_range(listener.port, 1, 65535);
    snprintf(expected, sizeof expected, ": listening for users on port %d\n", listener.port);
    expect_logged(expected);
    close(visit("127.0.0.1"));
}

static void open_held(struct held_port held)
{
    assert_int_equal(listener_open(&listener, loop, "127.0.0.1", held.port, "users", on_accept, &listener),
                     0);
}

static void test_a_port_that_is_asked_for_is_the_one_that_is_opened(void **state)
{
    struct held_port held = hold_port();

    (void)state;
    open_held(held);
    assert_int_equal(listener.port, held.port);
    close(visit("127.0.0.1"));
    close(held.fd);
}

static void test_without_an_address_it_serves_ipv4_and_ipv6(void **state)
{
    (void)state;
    if (!has_ipv6())
        skip();
    open_at(NULL);
    close(visit("127.0.0.1"));
    close(visit("::1"));
}

static void test_with_an_address_it_serves_that_alone(void **state)
{
    (void)state;
    open_at("127.0.0.1");
    int stranger = connecting_to("127.0.0.2", listener.port);
    close(visit("127.0.0.1"));
    assert_int_equal(sock_error(stranger), ECONNREFUSED);
    close(stranger);
}

static void test_an_ipv6_address_can_be_asked_for(void **state)
{
    (void)state;
    if (!has_ipv6())
        skip();
    open_at("::1");
    close(visit("::1"));
}

static void test_where_there_is_no_ipv6_it_serves_ipv4(void **state)
{
    (void)state;
    ipv6_is_missing = true;
    open_at(NULL);
    close(visit("127.0.0.1"));
}

static void test_where_ipv6_is_switched_off_it_serves_ipv4(void **state)
{
    (void)state;
    ipv6_is_off = true;
    open_at(NULL);
    close(visit("127.0.0.1"));
}

static void expect_taken(const char *taken_at, const char *address, const char *of)
{
    int other = listening_on(taken_at, 0, 1);
    char expected[100];

    assert_int_equal(listener_open(&listener, loop, address, port_of(other), "users", on_accept, &listener),
                     -1);
    snprintf(expected, sizeof expected, "cannot listen on port %d%s: Address already in use\n",
             port_of(other), of);
    expect_logged(expected);
    listener_close(&listener); /* what failed to open is closed already */
    close(other);
}

static void test_a_port_that_is_taken_is_refused_and_the_log_says_why(void **state)
{
    (void)state;
    expect_taken("0.0.0.0", NULL, "");
}

static void test_so_is_one_that_is_taken_at_this_address(void **state)
{
    (void)state;
    expect_taken("127.0.0.1", "127.0.0.1", " of 127.0.0.1");
}

static void test_a_port_that_nobody_can_tell_is_closed_and_the_log_says_why(void **state)
{
    (void)state;
    port_is_unknown = true;
    assert_int_equal(listener_open(&listener, loop, NULL, 0, "users", on_accept, &listener), -1);
    port_is_unknown = false;
    expect_logged("cannot listen on port 0: No buffer space available\n");
    listener_close(&listener); /* does nothing */
}

static void test_an_address_of_another_host_is_refused_and_the_log_says_why(void **state)
{
    (void)state;
    assert_int_equal(listener_open(&listener, loop, "192.0.2.1", 0, "users", on_accept, &listener), -1);
    expect_logged("cannot listen on port 0 of 192.0.2.1: Cannot assign requested address\n");
}

static void test_a_restarted_server_gets_its_port_back_at_once(void **state)
{
    struct held_port held = hold_port();
    char byte;

    (void)state;
    open_held(held);
    int peer = visit("127.0.0.1");
    listener_close(&listener);
    close(accepted[--count]); /* closed from this side first: it lingers in TIME_WAIT */
    eventually(recv(peer, &byte, 1, 0) == 0);
    close(peer);
    open_held(held);
    close(held.fd);
}

static void test_what_it_accepts_is_set_up_for_a_tunnel(void **state)
{
    (void)state;
    open_at(NULL);
    int peer = visit("127.0.0.1"), fd = accepted[0];

    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(option_of(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    assert_int_equal(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    int idle = option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE);
    int lost = idle + option_of(fd, IPPROTO_TCP, TCP_KEEPCNT) * option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL);
    assert_in_range(idle, 1, 30); /* some home routers forget after 30 s */
    assert_in_range(lost, 1, 60);
    close(peer);
}

static void test_within_this_machine_nothing_is_paced(void **state)
{
    (void)state;
    open_at("127.0.0.1");
    int peer = visit("127.0.0.1");
    assert_true(is_congestion_control(accepted[0], "reno"));
    assert_int_equal(option_of(accepted[0], IPPROTO_TCP, TCP_NODELAY), 1);
    close(peer);
}

static void test_within_this_machine_a_sender_gets_ahead_by_two_megabytes_at_most(void **state)
{
    (void)state;
    open_at("127.0.0.1");
    int peer = visit("127.0.0.1");
    assert_in_range(window_at_most(accepted[0]), 1 << 19, 1 << 21);
    close(peer);
}

static void test_for_all_others_congestion_control_is_what_the_system_says(void **state)
{
    char systems[16] = "";

    (void)state;
    FILE *file = fopen("/proc/sys/net/ipv4/tcp_congestion_control", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%15s", systems), 1);
    fclose(file);
    open_at(NULL);
    int peer = visit("127.0.0.1");
    assert_true(is_congestion_control(accepted[0], systems));
    close(peer);
}

static void test_many_that_come_at_once_are_all_accepted(void **state)
{
    enum { MANY = 150 };
    int peers[MANY];

    (void)state;
    open_at("127.0.0.1");
    for (int i = 0; i < MANY; i++)
        peers[i] = connecting_to("127.0.0.1", listener.port);
    unit_expect("a turn", __FILE__, __LINE__);
    unit_turn();
    assert_in_range(count, 1, MANY - 1); /* then the others in the loop had a turn */
    eventually(count == MANY);
    for (int i = 0; i < MANY; i++)
        close(peers[i]);
}

static void test_without_descriptors_visitors_wait_and_are_let_in_when_there_are_some(void **state)
{
    (void)state;
    if (is_under_valgrind())
        skip();
    open_at("127.0.0.1");
    int first = connecting_to("127.0.0.1", listener.port), second = connecting_to("127.0.0.1", listener.port);
    forbid_descriptors();
    eventually(times_logged("cannot accept a connection: Too many open files") == 1);
    expect_rest(); /* although somebody stands at the door */
    for (int i = 0; i < 5; i++)
        later(100);
    assert_int_equal(writes_to_log(), 2); /* the first was that it listens */
    assert_int_equal(count, 0);
    allow_descriptors();
    later(200);
    eventually(count == 2);
    close(first);
    close(second);
}

static void test_whom_may_accept_turns_down_waits_outside_at_no_cost(void **state)
{
    (void)state;
    open_at("127.0.0.1");
    listener.may_accept = may_accept;
    is_open = false;
    int peer = connecting_to("127.0.0.1", listener.port);
    expect_rest();
    later(1000);
    expect_rest();
    assert_int_equal(count, 0);
    is_open = true;
    later(1000);
    eventually(count == 1);
    close(peer);
}

static void test_closing_lets_those_in_who_are_at_the_door_already(void **state)
{
    (void)state;
    open_at("127.0.0.1");
    int port = listener.port;
    int first = connecting_to("127.0.0.1", port), second = connecting_to("127.0.0.1", port);
    listener_close(&listener);
    assert_int_equal(count, 2);
    int late = connecting_to("127.0.0.1", port);
    assert_int_equal(sock_error(late), ECONNREFUSED);
    expect_nothing_yet(first);
    expect_nothing_yet(second);
    close(first);
    close(second);
    close(late);
}

static void test_it_may_be_closed_while_it_accepts(void **state)
{
    (void)state;
    open_at("127.0.0.1");
    closes = true;
    int peer = connecting_to("127.0.0.1", listener.port);
    eventually(count == 1);
    expect_rest();
    close(peer);
}

static void test_a_closed_listener_may_be_closed_again(void **state)
{
    struct listener never = {0};

    (void)state;
    listener_close(&never);
    open_at("127.0.0.1");
    listener_close(&listener);
    listener_close(&listener);
    open_at("127.0.0.1");
    close(visit("127.0.0.1"));
}

/* ---- sockets ---- */

static void test_a_peer_is_named_by_address_and_port(void **state)
{
    char expected[40];

    (void)state;
    open_at(NULL);
    int peer = visit("127.0.0.1"); /* to an IPv6 socket, where it comes as ::ffff:127.0.0.1 */
    snprintf(expected, sizeof expected, "127.0.0.1:%d", port_of(peer));
    assert_string_equal(sock_peer(accepted[0]).text, expected);
    close(peer);
    if (has_ipv6()) {
        peer = visit("::1");
        snprintf(expected, sizeof expected, "[::1]:%d", port_of(peer));
        assert_string_equal(sock_peer(accepted[1]).text, expected);
        close(peer);
    }
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

static void test_a_line_is_said_whole(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    assert_int_equal(sock_say(pair.ours, "proxy %s", "1234"), 0);
    expect_text(pair.peer, "proxy 1234\n");
    close(pair.ours);
    close(pair.peer);
}

/* Sends until there is no room left. */
static void fill_room(int fd)
{
    static const char bytes[65536];

    while (send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) > 0)
        expect_rest();
}

static void test_a_line_that_there_is_no_room_for_is_an_error(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    fill_room(pair.ours);
    assert_int_equal(sock_say(pair.ours, "start"), -1);
    assert_int_equal(errno, EAGAIN);
    close(pair.ours);
    close(pair.peer);
}

static void test_what_the_peers_kernel_has_not_got_yet_is_unsent(void **state)
{
    struct pair pair = pair_open();

    (void)state;
    assert_int_equal(sock_unacknowledged(pair.ours), 0);
    fill_room(pair.ours);
    assert_true(sock_unacknowledged(pair.ours) > 0);
    char bytes[65536];
    eventually((recv(pair.peer, bytes, sizeof bytes, 0), sock_unacknowledged(pair.ours) == 0));
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
    assert_int_equal(sock_say(pair.ours, "%300s", "too long"), -1);
    assert_int_equal(errno, EMSGSIZE);
    assert_int_equal(sock_say(pair.ours, "%s", "start"), 0);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        SOCK(test_port_0_is_any_free_port_and_the_log_says_which),
        SOCK(test_a_port_that_is_asked_for_is_the_one_that_is_opened),
        SOCK(test_without_an_address_it_serves_ipv4_and_ipv6),
        SOCK(test_with_an_address_it_serves_that_alone),
        SOCK(test_an_ipv6_address_can_be_asked_for),
        SOCK(test_where_there_is_no_ipv6_it_serves_ipv4),
        SOCK(test_where_ipv6_is_switched_off_it_serves_ipv4),
        SOCK(test_a_port_that_is_taken_is_refused_and_the_log_says_why),
        SOCK(test_so_is_one_that_is_taken_at_this_address),
        SOCK(test_a_port_that_nobody_can_tell_is_closed_and_the_log_says_why),
        SOCK(test_an_address_of_another_host_is_refused_and_the_log_says_why),
        SOCK(test_a_restarted_server_gets_its_port_back_at_once),
        SOCK(test_what_it_accepts_is_set_up_for_a_tunnel),
        SOCK(test_within_this_machine_nothing_is_paced),
        SOCK(test_within_this_machine_a_sender_gets_ahead_by_two_megabytes_at_most),
        SOCK(test_for_all_others_congestion_control_is_what_the_system_says),
        SOCK(test_many_that_come_at_once_are_all_accepted),
        SOCK(test_without_descriptors_visitors_wait_and_are_let_in_when_there_are_some),
        SOCK(test_whom_may_accept_turns_down_waits_outside_at_no_cost),
        SOCK(test_closing_lets_those_in_who_are_at_the_door_already),
        SOCK(test_it_may_be_closed_while_it_accepts),
        SOCK(test_a_closed_listener_may_be_closed_again),
        SOCK(test_a_peer_is_named_by_address_and_port),
        SOCK(test_a_peer_that_is_gone_has_no_address),
        SOCK(test_a_line_is_said_whole),
        SOCK(test_a_line_that_there_is_no_room_for_is_an_error),
        SOCK(test_what_the_peers_kernel_has_not_got_yet_is_unsent),
        SOCK(test_a_sockets_error_is_told_once),
        SOCK(test_closing_can_be_made_a_reset),
        SOCK(test_what_is_too_long_for_a_line_is_not_said),
        SOCK(test_who_is_refused_hears_why_even_if_it_went_on_talking),
        SOCK(test_keepalive_times_are_rounded_up_to_seconds),
        SOCK(test_it_is_known_whether_the_peer_was_heard_lately),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
