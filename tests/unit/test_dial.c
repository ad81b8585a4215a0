/* dial: opens a connection to another host. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../common/dial.h"
#include "names.h"

/* socket(2), counted: one for each attempt. If a port is given here, the dialing end gets that one. */
static int attempts, own_port;

int socket(int domain, int type, int protocol)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = (int)syscall(SYS_socket, domain, type, protocol), yes = 1;

    attempts++;
    own.sin_port = htons((uint16_t)own_port);
    if (own_port != 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        assert_int_equal(bind(fd, (struct sockaddr *)&own, sizeof own), 0);
    }
    return fd;
}

/* connect(2), which for these addresses fails at once. */
static struct {
    const char *address;
    int error;
} faults[4];

#pragma GCC diagnostic ignored "-Wpedantic" /* glibc declares it with a union of all kinds of addresses */
int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;

    for (int i = 0; i < 4 && faults[i].error != 0; i++)
        if (faults[i].address == NULL ||
            (address->sa_family == AF_INET && v4->sin_addr.s_addr == inet_addr(faults[i].address))) {
            errno = faults[i].error;
            return -1;
        }
    return (int)syscall(SYS_connect, fd, address, size);
}

/* ---- a dial, and what comes of it ---- */

static struct target target;
static struct dial dial;
static int dialed; /* how often */
static int dialed_fd, dialed_error;
static struct dial_text reason;
static bool dials_again;
static bool is_good = true; /* whoever answers */

static void on_dialed(void *owner, int fd)
{
    dialed_error = errno;
    assert_ptr_equal(owner, &dial);
    dialed++;
    dialed_fd = fd;
    if (fd < 0)
        reason = dial_error(&dial);
    else if (is_good)
        dial_good(&dial);
    if (dials_again)
        dial_start(&dial, loop, &target, DIAL_MS, on_dialed, &dial);
    dials_again = false;
}

/* A port that the test has for itself: where it does not listen on it, dialing is refused. */
static struct held_port held;

static int begin(void **state)
{
    int status = unit_begin(state);

    names_begin();
    memset(faults, 0, sizeof faults);
    own_port = dialed = 0;
    dials_again = false;
    is_good = true;
    dialed_fd = -1;
    dial = (struct dial){0};
    held = hold_port();
    return status;
}

static int end(void **state)
{
    dial_stop(&dial);
    target_clear(&target);
    close(held.fd);
    return unit_end(state);
}

#define DIAL(test)                                                                                           \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

static void start(const char *host, int port)
{
    char text[100];

    target_clear(&target);
    snprintf(text, sizeof text, "%s:%d", host, port);
    assert_int_equal(target_parse(&target, text, 0), 0);
    dialed = attempts = 0;
    dial_start(&dial, loop, &target, DIAL_MS, on_dialed, &dial);
}

static void start_again(void)
{
    dialed = attempts = 0;
    dial_start(&dial, loop, &target, DIAL_MS, on_dialed, &dial);
}

static void expect_connected(const char *address)
{
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    char text[INET_ADDRSTRLEN];

    eventually(dialed > 0);
    assert_true(dialed_fd >= 0);
    assert_int_equal(getpeername(dialed_fd, (struct sockaddr *)&peer, &size), 0);
    assert_string_equal(inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text), address);
    close(dialed_fd);
    expect_rest();
    assert_int_equal(dialed, 1);
}

static void expect_failed(int error)
{
    eventually(dialed > 0);
    assert_int_equal(dialed_fd, -1);
    assert_int_equal(dialed_error, error);
    expect_rest();
    assert_int_equal(dialed, 1);
}

/* A host that never answers: its queue of connections is full, so the kernel drops all that knock. */
struct silent {
    int fd;
    int visitors[3];
};

static struct silent silent_at(const char *address)
{
    struct silent silent = {.fd = listening_on(address, held.port, 0)};

    for (int i = 0; i < 3; i++)
        silent.visitors[i] = connecting_to(address, held.port);
    return silent;
}

static void silent_close(struct silent silent)
{
    close(silent.fd);
    for (int i = 0; i < 3; i++)
        close(silent.visitors[i]);
}

/* ---- dialing ---- */

static void test_who_answers_is_connected(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    start("127.0.0.1", held.port);
    assert_int_equal(dialed, 0); /* not before dial_start has returned */
    eventually(dialed == 1);
    assert_true(fcntl(dialed_fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(dialed_fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(option_of(dialed_fd, IPPROTO_TCP, TCP_NODELAY), 1);
    int fd = accept(listening, NULL, NULL);
    tell(dialed_fd, "hello");
    expect_text(fd, "hello");
    later(DIAL_MS + 1000); /* nobody waits for it any more */
    assert_int_equal(dialed, 1);
    close(fd);
    close(dialed_fd);
    close(listening);
}

static void test_an_ipv6_address_is_connected(void **state)
{
    (void)state;
    if (!has_ipv6())
        skip();
    int listening = listening_on("::1", 0, 5);
    start("[::1]", port_of(listening));
    eventually(dialed == 1);
    assert_true(dialed_fd >= 0);
    close(dialed_fd);
    close(listening);
}

/* In its IPv6 form, 127.0.0.1 is not taken for what it is. */
static void test_only_within_this_machine_nothing_is_paced(void **state)
{
    (void)state;
    if (!has_ipv6())
        skip();
    int listening = listening_on("127.0.0.1", held.port, 5);
    start("127.0.0.1", held.port);
    eventually(dialed == 1);
    assert_int_equal(option_of(dialed_fd, SOL_SOCKET, SO_KEEPALIVE),
                     1); /* a program may leave without a word */
    assert_true(is_congestion_control(dialed_fd, "reno"));
    assert_in_range(window_at_most(dialed_fd), 1 << 19, 1 << 21);
    close(dialed_fd);
    start("[::ffff:127.0.0.1]", held.port);
    target.congestion = "reno"; /* for a host far away, as it seems */
    eventually(dialed == 1);
    assert_true(is_congestion_control(dialed_fd, "reno"));
    assert_int_equal(option_of(dialed_fd, IPPROTO_TCP, TCP_NODELAY), 1);
    assert_int_equal(option_of(dialed_fd, IPPROTO_TCP, TCP_KEEPCNT), 3); /* a line may go dead there */
    assert_int_equal(option_of(dialed_fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    close(dialed_fd);
    close(listening);
}

static void test_where_nobody_listens_it_is_refused(void **state)
{
    (void)state;
    start("127.0.0.1", held.port);
    expect_failed(ECONNREFUSED);
}

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51 /* linux/in.h, since Linux 6.3 */
#endif

static void test_it_may_have_any_port(void **state)
{
    uint32_t range = 0;
    socklen_t size = sizeof range;
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    if (getsockopt(listening, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, &size) != 0) {
        close(listening);
        skip();
    }
    start("127.0.0.1", held.port);
    eventually(dialed == 1);
    assert_int_equal(getsockopt(dialed_fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, &size), 0);
    assert_int_not_equal(range, 0);
    close(dialed_fd);
    close(listening);
}

static void test_who_never_answers_is_given_up_in_time(void **state)
{
    struct silent silent = silent_at("127.0.0.1");

    (void)state;
    start("127.0.0.1", held.port);
    expect_rest();
    later(DIAL_MS - 3000);
    assert_int_equal(dialed, 0);
    later(3000);
    expect_failed(ETIMEDOUT);
    silent_close(silent);
}

static void test_who_refuses_late_is_not_connected(void **state)
{
    struct silent silent = silent_at("127.0.0.1");

    (void)state;
    start("127.0.0.1", held.port);
    expect_rest();
    assert_int_equal(dialed, 0);
    silent_close(silent); /* the kernel knocks again after a second */
    expect_failed(ECONNREFUSED);
}

static bool answers(struct silent *silent)
{
    int fd = accept(silent->fd, NULL, NULL);

    if (fd >= 0)
        close(fd);
    return dialed > 0;
}

static void test_who_answers_late_is_connected(void **state)
{
    struct silent silent = silent_at("127.0.0.1");

    (void)state;
    fcntl(silent.fd, F_SETFL, O_NONBLOCK);
    start("127.0.0.1", held.port);
    expect_rest();
    assert_int_equal(dialed, 0);
    eventually(answers(&silent));
    assert_true(dialed_fd >= 0);
    later(DIAL_MS + 1000); /* it is not given up any more */
    assert_int_equal(dialed, 1);
    close(dialed_fd);
    silent_close(silent);
}

static void test_a_name_that_is_not_found_is_no_host(void **state)
{
    (void)state;
    names_error = EAI_AGAIN;
    start("some.example", 80);
    assert_int_equal(dialed, 0);
    expect_failed(EHOSTUNREACH);
    assert_string_equal(reason.text,
                        "cannot find the host some.example: Temporary failure in name resolution");
    assert_int_not_equal(dial.blame, BLAME_HERE);
    known[0] = "127.0.0.1";
    int listening = listening_on("127.0.0.1", held.port, 5);
    start("some.example", held.port);
    expect_connected("127.0.0.1");
    close(listening);
}

static void test_the_addresses_of_a_name_are_tried_in_turn(void **state)
{
    int listening = listening_on("127.0.0.3", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    known[2] = "127.0.0.3";
    known[3] = "127.0.0.4";
    start("home.example", held.port);
    expect_connected("127.0.0.3");
    assert_int_equal(attempts, 3);
    assert_int_equal(lookups, 1);
    close(listening);
}

static void test_one_that_cannot_even_be_tried_is_passed_over(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    known[0] = "255.255.255.255"; /* no TCP there */
    known[1] = "127.0.0.1";
    start("home.example", held.port);
    expect_connected("127.0.0.1");
    close(listening);
}

static void test_after_a_time_out_the_next_address_is_tried(void **state)
{
    struct silent silent = silent_at("127.0.0.1");
    int listening = listening_on("127.0.0.2", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    start("home.example", held.port);
    eventually(attempts == 1);
    expect_rest();
    later(DIAL_MS);
    expect_connected("127.0.0.2");
    silent_close(silent);
    close(listening);
}

static void test_the_next_dial_begins_with_the_address_that_answered(void **state)
{
    int listening = listening_on("127.0.0.2", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    start("home.example", held.port);
    expect_connected("127.0.0.2");
    start_again();
    expect_connected("127.0.0.2");
    assert_int_equal(attempts, 1);
    assert_int_equal(lookups, 1);
    close(listening);
}

static int second_fd;

static void on_second_dialed(void *owner, int fd)
{
    (void)owner;
    second_fd = fd;
}

static void test_two_dials_at_once_do_not_disturb_each_other(void **state)
{
    struct silent silent = silent_at("127.0.0.1");
    int listening = listening_on("127.0.0.2", held.port, 5);
    struct dial second;

    (void)state;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    start("home.example", held.port);
    eventually(attempts == 1);
    expect_rest();
    later(1000);
    second_fd = -2; /* not dialed */
    dial_start(&second, loop, &target, DIAL_MS, on_second_dialed, NULL);
    expect_rest();
    later(DIAL_MS - 1000);
    expect_connected("127.0.0.2");
    later(1000);
    eventually(second_fd != -2);
    assert_true(second_fd >= 0);
    close(second_fd);
    silent_close(silent);
    close(listening);
}

static void test_the_time_that_the_look_up_takes_is_not_the_hosts(void **state)
{
    struct silent silent = silent_at("127.0.0.1");

    (void)state;
    known[0] = "127.0.0.1";
    pthread_mutex_lock(&names_silent);
    start("home.example", held.port);
    eventually(lookups == 1);
    later(DIAL_MS - 1000);
    pthread_mutex_unlock(&names_silent);
    eventually(attempts == 1);
    expect_rest();
    later(DIAL_MS - 1000);
    assert_int_equal(dialed, 0);
    later(1000);
    expect_failed(ETIMEDOUT);
    silent_close(silent);
}

static void test_with_addresses_a_silent_name_service_is_not_waited_for_any_longer(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 50);

    (void)state;
    is_good = false;
    known[0] = "127.0.0.1";
    start("home.example", held.port);
    expect_connected("127.0.0.1");
    later(1000);
    pthread_mutex_lock(&names_silent);
    start_again(); /* the only one was not good: perhaps there is another by now */
    eventually(lookups == 2);
    later(DIAL_MS - 1000);
    expect_rest();
    assert_int_equal(dialed, 0);
    later(1000);
    expect_connected("127.0.0.1");
    pthread_mutex_unlock(&names_silent);
    eventually(!lookup_is_running(&target.lookup));
    close(listening);
}

static void test_without_any_it_is_waited_for_as_long_as_it_takes(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    pthread_mutex_lock(&names_silent);
    start("home.example", held.port);
    eventually(lookups == 1);
    later(10 * DIAL_MS);
    expect_rest();
    assert_int_equal(dialed, 0);
    pthread_mutex_unlock(&names_silent);
    expect_connected("127.0.0.1");
    assert_int_equal(lookups, 1);
    close(listening);
}

static void test_old_addresses_serve_while_the_name_is_looked_up_again(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5), moved;

    (void)state;
    known[0] = "127.0.0.1";
    start("home.example", held.port);
    expect_connected("127.0.0.1");
    later(10000);
    moved = listening_on("127.0.0.2", held.port, 5);
    known[0] = "127.0.0.2";
    pthread_mutex_lock(&names_silent);
    start_again();
    expect_connected("127.0.0.1");
    assert_int_equal(attempts, 1);
    eventually(lookups == 2);
    pthread_mutex_unlock(&names_silent);
    eventually(!lookup_is_running(&target.lookup));
    start_again();
    expect_connected("127.0.0.2");
    assert_int_equal(attempts, 1);
    assert_int_equal(lookups, 2);
    close(listening);
    close(moved);
}

static void test_when_these_fail_the_new_ones_are_waited_for(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    start("home.example", held.port);
    expect_connected("127.0.0.1");
    later(10000);
    close(listening);
    listening = listening_on("127.0.0.2", held.port, 5);
    known[0] = "127.0.0.2";
    pthread_mutex_lock(&names_silent);
    start_again();
    eventually(attempts == 1);
    expect_rest();
    assert_int_equal(dialed, 0);
    pthread_mutex_unlock(&names_silent);
    expect_connected("127.0.0.2");
    close(listening);
}

static void test_but_it_fails_for_the_reason_of_the_old_ones(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    start("home.example", held.port);
    expect_connected("127.0.0.1");
    later(10000);
    close(listening);
    pthread_mutex_lock(&names_silent);
    start_again();
    eventually(attempts == 1 && lookups == 2);
    later(DIAL_MS);
    expect_failed(ECONNREFUSED);
    names_error = EAI_AGAIN;
    known[0] = NULL;
    pthread_mutex_unlock(&names_silent);
    eventually(!lookup_is_running(&target.lookup));
    listening = listening_on("127.0.0.1", held.port, 5);
    later(1000);
    start_again(); /* after the look-up has failed they are tried again */
    expect_connected("127.0.0.1");
    close(listening);
}

static void test_when_that_one_fails_the_others_are_tried(void **state)
{
    int listening = listening_on("127.0.0.2", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    start("home.example", held.port);
    expect_connected("127.0.0.2");
    close(listening);
    listening = listening_on("127.0.0.1", held.port, 5);
    start_again();
    expect_connected("127.0.0.1");
    close(listening);
}

static void test_when_all_addresses_failed_the_next_dial_looks_the_name_up_again(void **state)
{
    int listening = listening_on("127.0.0.3", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    start("home.example", held.port);
    expect_failed(ECONNREFUSED);
    assert_int_equal(attempts, 2);
    known[0] = "127.0.0.3"; /* it has moved */
    known[1] = NULL;
    later(1000);
    start_again();
    expect_connected("127.0.0.3");
    assert_int_equal(attempts, 1);
    assert_int_equal(lookups, 2);
    close(listening);
}

/* Somebody else may have got the address. */
static void test_who_answers_but_is_not_called_good_is_not_dialed_again(void **state)
{
    int first = listening_on("127.0.0.1", held.port, 5), second = listening_on("127.0.0.2", held.port, 5);
    int third = listening_on("127.0.0.3", held.port, 5);

    (void)state;
    is_good = false;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    start("home.example", held.port);
    expect_connected("127.0.0.1");
    start_again();
    expect_connected("127.0.0.2");
    known[1] = "127.0.0.3";
    later(1000);
    start_again(); /* that was the last one: the name is looked up */
    expect_connected("127.0.0.3");
    assert_int_equal(lookups, 2);
    is_good = true;
    later(1000);
    start_again(); /* nothing new: all from the start */
    expect_connected("127.0.0.1");
    start_again();
    expect_connected("127.0.0.1");
    assert_int_equal(lookups, 3);
    close(first);
    close(second);
    close(third);
}

static void test_all_addresses_of_a_name_are_tried(void **state)
{
    char addresses[20][20];

    (void)state;
    for (int i = 0; i < 20; i++) {
        snprintf(addresses[i], sizeof addresses[i], "127.0.1.%d", i + 1);
        known[i] = addresses[i];
    }
    start("many.example", held.port);
    expect_failed(ECONNREFUSED);
    assert_int_equal(attempts, 20);
}

static void test_all_addresses_of_localhost_are_tried(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    start("localhost", held.port);
    expect_connected("127.0.0.1");
    start_again();
    expect_connected("127.0.0.1");
    assert_int_equal(attempts, 1);
    assert_int_equal(lookups, 0);
    close(listening);
    start_again();
    expect_failed(ECONNREFUSED);
    assert_int_equal(attempts, 2);
    listening = listening_on("127.0.0.1", held.port, 5);
    start_again();
    expect_connected("127.0.0.1");
    close(listening);
}

/* ---- why it failed ---- */

static void test_the_reason_is_the_good_addresses(void **state)
{
    struct silent silent;
    int listening = listening_on("127.0.0.2", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    start("home.example", held.port);
    expect_connected("127.0.0.2");
    close(listening);
    silent = silent_at("127.0.0.2"); /* busy */
    start_again();
    eventually(attempts == 1);
    expect_rest();
    later(DIAL_MS);
    expect_failed(ETIMEDOUT); /* although the other one refused last */
    assert_int_equal(attempts, 2);
    assert_string_equal(reason.text, strerror(ETIMEDOUT));
    silent_close(silent);
}

static void test_or_that_of_the_last_one_that_there_was_a_way_to(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    known[1] = "127.0.0.1";
    known[2] = "192.0.2.2";
    known[3] = "192.0.2.3";
    faults[0].address = "192.0.2.1";
    faults[0].error = ENETUNREACH;
    faults[1].address = "192.0.2.2";
    faults[1].error = EADDRNOTAVAIL;
    faults[2].address = "192.0.2.3";
    faults[2].error = EAFNOSUPPORT;
    start("home.example", held.port);
    expect_failed(ECONNREFUSED);
    assert_int_equal(attempts, 4);
    assert_string_equal(reason.text, strerror(ECONNREFUSED));
    faults[2].error = ENETUNREACH;
    start("home.example", held.port);
    expect_failed(ECONNREFUSED);
    faults[2].error = EAFNOSUPPORT;
    faults[3].address = "127.0.0.1";
    faults[3].error = ENETUNREACH;
    start("home.example", held.port);
    expect_failed(ENETUNREACH);
    assert_int_equal(attempts, 4);
}

static void expect_failed_here(int error)
{
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    faults[0].error = 0;
    start("home.example", held.port);
    expect_connected("127.0.0.1");
    int before = lookups;
    faults[0].error = error;
    start_again();
    expect_failed(error);
    assert_int_equal(dial.blame, BLAME_HERE);
    assert_int_equal(attempts, 1);
    start_again(); /* so soon, it waits with its try */
    later(400);
    assert_int_equal(attempts, 0);
    assert_int_equal(dialed, 0);
    faults[0].error = 0;
    later(200);
    expect_connected("127.0.0.1");
    assert_int_equal(lookups, before);
}

static void test_what_this_side_lacks_is_no_fault_of_the_address(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 50);

    (void)state;
    expect_failed_here(EMFILE);
    expect_failed_here(ENFILE);
    expect_failed_here(ENOBUFS);
    expect_failed_here(ENOMEM);
    assert_string_equal(reason.text, strerror(ENOMEM));
    expect_failed_here(EADDRNOTAVAIL);
    assert_non_null(strstr(reason.text, "net.ipv4.tcp_tw_reuse=1"));
    close(listening);
}

/* As where IPv6 is switched off, and localhost is ::1 first. */
static void test_an_address_of_a_family_that_is_not_there_is_passed_over(void **state)
{
    int listening = listening_on("127.0.0.2", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    known[1] = "127.0.0.2";
    faults[0].address = "127.0.0.1";
    faults[0].error = EADDRNOTAVAIL;
    start("home.example", held.port);
    expect_connected("127.0.0.2");
    close(listening);
}

static void test_without_threads_or_pipes_for_the_look_up_it_fails(void **state)
{
    (void)state;
    known[0] = "127.0.0.1";
    forbid_descriptors();
    start("home.example", held.port);
    expect_failed(EHOSTUNREACH);
    assert_string_equal(reason.text, "cannot find the host home.example: Too many open files");
    allow_descriptors();
}

static void test_without_descriptors_it_fails_but_the_addresses_stay_good(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    start("home.example", held.port);
    expect_connected("127.0.0.1");
    forbid_descriptors();
    start_again();
    expect_failed(EMFILE);
    allow_descriptors();
    later(1000);
    start_again();
    expect_connected("127.0.0.1");
    assert_int_equal(lookups, 1);
    close(listening);
}

/* Where nobody listens, the kernel may choose the port that is dialed for the dialing end, too. */
static void test_a_connection_with_oneself_is_none(void **state)
{
    (void)state;
    own_port = held.port;
    start("127.0.0.1", held.port);
    expect_failed(ECONNREFUSED);
}

static void test_it_may_dial_again_when_it_failed(void **state)
{
    (void)state;
    dials_again = true;
    start("127.0.0.1", held.port);
    eventually(dialed == 2);
    assert_int_equal(dialed_error, ECONNREFUSED);
}

static void test_when_it_is_stopped_nobody_is_called(void **state)
{
    struct silent silent = silent_at("127.0.0.1");
    int before = open_descriptors();

    (void)state;
    start("127.0.0.1", held.port);
    dial_stop(&dial); /* at once */
    start_again();
    expect_rest();
    assert_int_equal(open_descriptors(), before + 1);
    dial_stop(&dial); /* under way */
    assert_int_equal(open_descriptors(), before);
    later(DIAL_MS + 1000);
    assert_int_equal(dialed, 0);
    silent_close(silent);
}

static void test_stopping_what_was_never_started_or_is_over_does_nothing(void **state)
{
    struct dial never = {0};
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    dial_stop(&never);
    start("127.0.0.1", held.port);
    eventually(dialed == 1);
    dial_stop(&dial);
    dial_stop(&dial);
    assert_false(is_closed(dialed_fd)); /* it has been handed on */
    close(dialed_fd);
    close(listening);
}

static void test_when_it_is_stopped_while_the_name_is_looked_up_nobody_is_called(void **state)
{
    (void)state;
    known[0] = "127.0.0.1";
    pthread_mutex_lock(&names_silent);
    start("home.example", held.port);
    eventually(lookups == 1);
    dial_stop(&dial);
    pthread_mutex_unlock(&names_silent);
    eventually(!lookup_is_running(&target.lookup));
    later(DIAL_MS + 1000);
    assert_int_equal(dialed, 0);
    assert_int_equal(attempts, 0);
}

static void test_a_peers_host_can_be_dialed_at_another_port(void **state)
{
    struct pair pair = pair_open();
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    assert_int_equal(target_of_peer(&target, pair.ours, held.port), 0);
    start_again();
    expect_connected("127.0.0.1");
    close(pair.ours);
    close(pair.peer);
    close(listening);
}

/* ---- Unix sockets ---- */

/* A folder, and in it the path of a socket that is not there yet. */
static char folder[] = "/tmp/test_dial.XXXXXX", path[64];

static int begin_path(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/test_dial.XXXXXX"); /* again for each test */
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/app.sock", folder);
    return begin(state);
}

static int end_path(void **state)
{
    unlink(path);
    rmdir(folder);
    return end(state);
}

#define DIAL_PATH(test)                                                                                      \
    {                                                                                                        \
#test, test, begin_path, end_path, NULL                                                              \
    }

static int listening_at_path(int backlog)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, backlog), 0);
    return fd;
}

static void start_path(int ms)
{
    target_clear(&target);
    assert_int_equal(target_parse(&target, path, 0), 0);
    dialed = 0;
    dial_start(&dial, loop, &target, ms, on_dialed, &dial);
}

static void test_a_unix_socket_is_connected(void **state)
{
    int listening = listening_at_path(5);

    (void)state;
    start_path(DIAL_MS);
    eventually(dialed == 1);
    assert_true(dialed_fd >= 0);
    assert_true(fcntl(dialed_fd, F_GETFL) & O_NONBLOCK);
    int fd = accept(listening, NULL, NULL);
    tell(dialed_fd, "hello");
    expect_text(fd, "hello");
    close(fd);
    close(dialed_fd);
    close(listening);
}

static void test_a_unix_socket_that_is_not_there_or_left_behind_is_none(void **state)
{
    (void)state;
    start_path(DIAL_MS);
    expect_failed(ENOENT);
    assert_string_equal(reason.text, strerror(ENOENT));
    close(listening_at_path(5));
    start_path(DIAL_MS);
    expect_failed(ECONNREFUSED);
}

/* Linux says EAGAIN then, and nobody tells when there is room. */
static void test_a_unix_socket_whose_queue_is_full_is_tried_again(void **state)
{
    int listening = listening_at_path(0), first;

    (void)state;
    start_path(DIAL_LONG_MS);
    eventually(dialed == 1);
    first = dialed_fd;
    start_path(DIAL_LONG_MS);
    expect_rest();
    later(DIAL_LONG_MS - 1000);
    expect_rest();
    assert_int_equal(dialed, 0);
    close(accept(listening, NULL, NULL));
    later(100);
    eventually(dialed == 1);
    assert_true(dialed_fd >= 0);
    close(first);
    first = dialed_fd;
    start_path(DIAL_LONG_MS);
    expect_rest();
    later(DIAL_LONG_MS);
    eventually(dialed == 1);
    assert_int_equal(dialed_fd, -1);
    assert_int_equal(dialed_error, ETIMEDOUT);
    close(first);
    close(listening);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DIAL(test_who_answers_is_connected),
        DIAL(test_an_ipv6_address_is_connected),
        DIAL(test_only_within_this_machine_nothing_is_paced),
        DIAL(test_where_nobody_listens_it_is_refused),
        DIAL(test_it_may_have_any_port),
        DIAL(test_who_never_answers_is_given_up_in_time),
        DIAL(test_who_refuses_late_is_not_connected),
        DIAL(test_who_answers_late_is_connected),
        DIAL(test_a_name_that_is_not_found_is_no_host),
        DIAL(test_the_addresses_of_a_name_are_tried_in_turn),
        DIAL(test_one_that_cannot_even_be_tried_is_passed_over),
        DIAL(test_after_a_time_out_the_next_address_is_tried),
        DIAL(test_the_next_dial_begins_with_the_address_that_answered),
        DIAL(test_two_dials_at_once_do_not_disturb_each_other),
        DIAL(test_the_time_that_the_look_up_takes_is_not_the_hosts),
        DIAL(test_with_addresses_a_silent_name_service_is_not_waited_for_any_longer),
        DIAL(test_without_any_it_is_waited_for_as_long_as_it_takes),
        DIAL(test_old_addresses_serve_while_the_name_is_looked_up_again),
        DIAL(test_when_these_fail_the_new_ones_are_waited_for),
        DIAL(test_but_it_fails_for_the_reason_of_the_old_ones),
        DIAL(test_when_that_one_fails_the_others_are_tried),
        DIAL(test_when_all_addresses_failed_the_next_dial_looks_the_name_up_again),
        DIAL(test_who_answers_but_is_not_called_good_is_not_dialed_again),
        DIAL(test_all_addresses_of_a_name_are_tried),
        DIAL(test_all_addresses_of_localhost_are_tried),
        DIAL(test_the_reason_is_the_good_addresses),
        DIAL(test_or_that_of_the_last_one_that_there_was_a_way_to),
        DIAL(test_what_this_side_lacks_is_no_fault_of_the_address),
        DIAL(test_an_address_of_a_family_that_is_not_there_is_passed_over),
        DIAL(test_without_threads_or_pipes_for_the_look_up_it_fails),
        DIAL(test_without_descriptors_it_fails_but_the_addresses_stay_good),
        DIAL(test_a_connection_with_oneself_is_none),
        DIAL(test_it_may_dial_again_when_it_failed),
        DIAL(test_when_it_is_stopped_nobody_is_called),
        DIAL(test_stopping_what_was_never_started_or_is_over_does_nothing),
        DIAL(test_when_it_is_stopped_while_the_name_is_looked_up_nobody_is_called),
        DIAL(test_a_peers_host_can_be_dialed_at_another_port),
        DIAL_PATH(test_a_unix_socket_is_connected),
        DIAL_PATH(test_a_unix_socket_that_is_not_there_or_left_behind_is_none),
        DIAL_PATH(test_a_unix_socket_whose_queue_is_full_is_tried_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
