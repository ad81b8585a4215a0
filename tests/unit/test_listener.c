/* listener: a port that is open to the world. */
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

#include "../../common/listener.h"
#include "../../common/sock.h"

/* socket(2) and bind(2), as on a machine where IPv6 is not built in, or switched off. */
static bool ipv6_is_missing, ipv6_is_off;
static int bind_error; /* or 0 */

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
    if (bind_error != 0) {
        errno = bind_error;
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
    bind_error = 0;
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

#define LISTENER(test)                                                                                       \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

/* address: "" for all. Returns what listener_open does. */
static int try_to_open(const char *address, int port)
{
    struct endpoint where = {.port = port, .option = "-u"};

    snprintf(where.address, sizeof where.address, "%s", address);
    return listener_open(&listener, loop, &where, "users", on_accept, &listener);
}

static void open_at(const char *address)
{
    assert_int_equal(try_to_open(address, 0), 0);
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
    open_at("");
    assert_in_range(listener.port, 1, 65535);
    snprintf(expected, sizeof expected, ": listening for users on port %d\n", listener.port);
    expect_logged(expected);
    close(visit("127.0.0.1"));
}

static void open_held(struct held_port held)
{
    assert_int_equal(try_to_open("127.0.0.1", held.port), 0);
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
    open_at("");
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
    open_at("");
    close(visit("127.0.0.1"));
}

static void test_where_ipv6_is_switched_off_it_serves_ipv4(void **state)
{
    (void)state;
    ipv6_is_off = true;
    open_at("");
    close(visit("127.0.0.1"));
}

static void expect_taken(const char *taken_at, const char *address, const char *of)
{
    int other = listening_on(taken_at, 0, 1);
    char expected[200];

    assert_int_equal(try_to_open(address, port_of(other)), -1);
    snprintf(expected, sizeof expected,
             "cannot listen on port %d%s: Address already in use; another program listens there: end it, or "
             "choose "
             "another port with -u\n",
             port_of(other), of);
    expect_logged(expected);
    listener_close(&listener); /* what failed to open is closed already */
    close(other);
}

static void test_a_port_that_is_taken_is_refused_and_the_log_says_why(void **state)
{
    (void)state;
    expect_taken("0.0.0.0", "", "");
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
    assert_int_equal(try_to_open("", 0), -1);
    port_is_unknown = false;
    expect_logged("cannot listen on port 0: No buffer space available, see -u\n");
    listener_close(&listener); /* does nothing */
}

static void test_an_address_of_another_host_is_refused_and_the_log_says_why(void **state)
{
    (void)state;
    assert_int_equal(try_to_open("192.0.2.1", 0), -1);
    expect_logged(
        "cannot listen on port 0 of 192.0.2.1: Cannot assign requested address; it takes an address that "
        "this machine has, see -u\n");
}

static void test_so_is_what_is_no_address(void **state)
{
    (void)state;
    assert_int_equal(try_to_open("1.2.3.4.5", 0), -1);
    expect_logged(
        "cannot listen on port 0 of 1.2.3.4.5: Cannot assign requested address; it takes an address that "
        "this machine has, see -u\n");
}

static void test_a_low_port_that_is_refused_is_told_what_it_takes(void **state)
{
    (void)state;
    bind_error = EACCES;
    assert_int_equal(try_to_open("", 80), -1);
    expect_logged("cannot listen on port 80: Permission denied; below 1024 it takes root or the capability "
                  "CAP_NET_BIND_SERVICE, or another port with -u\n");
}

static void test_so_it_is_at_an_address_of_its_own(void **state)
{
    (void)state;
    if (!has_ipv6())
        skip();
    bind_error = EACCES;
    assert_int_equal(try_to_open("::1", 80), -1);
    expect_logged(
        "cannot listen on port 80 of ::1: Permission denied; below 1024 it takes root or the capability");
}

static void test_without_an_option_help_is_named(void **state)
{
    struct endpoint where = {.port = 80};

    (void)state;
    bind_error = EACCES;
    assert_int_equal(listener_open(&listener, loop, &where, "users", on_accept, &listener), -1);
    expect_logged("or another port with --help\n");
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
    open_at("");
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

static int number_in(const char *path)
{
    FILE *file = fopen(path, "r");
    int number = -1;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &number), 1);
    fclose(file);
    return number;
}

static void test_thousands_may_wait_at_the_door_if_the_system_allows_it(void **state)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    int most = number_in("/proc/sys/net/core/somaxconn");

    (void)state;
    open_at("");
    assert_int_equal(getsockopt(listener.watch.fd, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    assert_int_equal(info.tcpi_sacked, most < 4096 ? most : 4096); /* of a port: the backlog's size */
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

/* "reno" may be chosen by anybody, and is not what systems choose. */
static void test_a_congestion_control_can_be_chosen_for_a_port(void **state)
{
    (void)state;
    struct endpoint where = {.congestion = "reno"};
    assert_int_equal(listener_open(&listener, loop, &where, "tests", on_accept, &listener), 0);
    is_open = true;
    int peer = visit("127.0.0.1");
    assert_true(is_congestion_control(accepted[0], "reno"));
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
    open_at("");
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

/* Writing the complaint sets errno, too. */
static void test_nor_does_it_try_again_at_once_where_the_log_has_no_room(void **state)
{
    int full = open("/dev/full", O_WRONLY);

    (void)state;
    if (is_under_valgrind())
        skip();
    open_at("127.0.0.1");
    int peer = connecting_to("127.0.0.1", listener.port);
    log_goes_to(full);
    forbid_descriptors();
    unit_expect("a turn", __FILE__, __LINE__);
    while (!unit_turn())
        ;
    allow_descriptors();
    log_comes_back();
    assert_true(timer_is_running(&listener.pause));
    later(200);
    eventually(count == 1);
    close(peer);
    close(full);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        LISTENER(test_port_0_is_any_free_port_and_the_log_says_which),
        LISTENER(test_a_port_that_is_asked_for_is_the_one_that_is_opened),
        LISTENER(test_without_an_address_it_serves_ipv4_and_ipv6),
        LISTENER(test_with_an_address_it_serves_that_alone),
        LISTENER(test_an_ipv6_address_can_be_asked_for),
        LISTENER(test_where_there_is_no_ipv6_it_serves_ipv4),
        LISTENER(test_where_ipv6_is_switched_off_it_serves_ipv4),
        LISTENER(test_a_port_that_is_taken_is_refused_and_the_log_says_why),
        LISTENER(test_so_is_one_that_is_taken_at_this_address),
        LISTENER(test_a_port_that_nobody_can_tell_is_closed_and_the_log_says_why),
        LISTENER(test_an_address_of_another_host_is_refused_and_the_log_says_why),
        LISTENER(test_so_is_what_is_no_address),
        LISTENER(test_a_low_port_that_is_refused_is_told_what_it_takes),
        LISTENER(test_so_it_is_at_an_address_of_its_own),
        LISTENER(test_without_an_option_help_is_named),
        LISTENER(test_a_restarted_server_gets_its_port_back_at_once),
        LISTENER(test_what_it_accepts_is_set_up_for_a_tunnel),
        LISTENER(test_thousands_may_wait_at_the_door_if_the_system_allows_it),
        LISTENER(test_within_this_machine_nothing_is_paced),
        LISTENER(test_within_this_machine_a_sender_gets_ahead_by_two_megabytes_at_most),
        LISTENER(test_a_congestion_control_can_be_chosen_for_a_port),
        LISTENER(test_for_all_others_congestion_control_is_what_the_system_says),
        LISTENER(test_many_that_come_at_once_are_all_accepted),
        LISTENER(test_without_descriptors_visitors_wait_and_are_let_in_when_there_are_some),
        LISTENER(test_nor_does_it_try_again_at_once_where_the_log_has_no_room),
        LISTENER(test_whom_may_accept_turns_down_waits_outside_at_no_cost),
        LISTENER(test_closing_lets_those_in_who_are_at_the_door_already),
        LISTENER(test_it_may_be_closed_while_it_accepts),
        LISTENER(test_a_closed_listener_may_be_closed_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
