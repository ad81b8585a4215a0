/* dial: opens a connection to another host. */
#include "unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../common/dial.h"

enum { TIME_OUT_MS = 5000 };

/* ---- a name service of the test's own: every name that is not an address has these ---- */

static const char *known[16];
static int lookups, lookup_takes_ms;

static struct addrinfo *answer(const char *address, int port, struct addrinfo *next)
{
    struct addrinfo *info = calloc(1, sizeof *info + sizeof(struct sockaddr_in6));
    struct sockaddr_in *v4 = (struct sockaddr_in *)(info + 1);
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(info + 1);

    info->ai_next = next;
    info->ai_addr = (struct sockaddr *)(info + 1);
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        info->ai_addrlen = sizeof *v4;
    } else {
        inet_pton(AF_INET6, address, &v6->sin6_addr);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        info->ai_addrlen = sizeof *v6;
    }
    return info;
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    unsigned char bytes[16];
    int port = atoi(service), count = 0;

    (void)hints;
    *found = NULL;
    lookups++;
    take_time(lookup_takes_ms);
    if (inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1)
        *found = answer(host, port, NULL);
    else
        while (known[count] != NULL)
            count++;
    while (count > 0)
        *found = answer(known[--count], port, *found);
    return *found != NULL ? 0 : EAI_NONAME;
}

void freeaddrinfo(struct addrinfo *info)
{
    while (info != NULL) {
        struct addrinfo *next = info->ai_next;
        free(info);
        info = next;
    }
}

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

/* ---- a dial, and what comes of it ---- */

static struct target target;
static struct dial dial;
static int dialed; /* how often */
static int dialed_fd, dialed_error;
static bool dials_again;

static void on_dialed(void *owner, int fd)
{
    dialed_error = errno;
    assert_ptr_equal(owner, &dial);
    dialed++;
    dialed_fd = fd;
    if (dials_again)
        dial_start(&dial, loop, &target, on_dialed, &dial);
    dials_again = false;
}

/* A port that the test has for itself: where it does not listen on it, dialing is refused. */
static struct held_port held;

static int begin(void **state)
{
    int status = unit_begin(state);

    memset(known, 0, sizeof known);
    lookups = lookup_takes_ms = own_port = dialed = 0;
    dials_again = false;
    dialed_fd = -1;
    dial = (struct dial){0};
    held = hold_port();
    return status;
}

static int end(void **state)
{
    dial_stop(&dial);
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

    snprintf(text, sizeof text, "%s:%d", host, port);
    assert_int_equal(target_parse(&target, text, 0), 0);
    attempts = 0;
    dial_start(&dial, loop, &target, on_dialed, &dial);
}

static void start_again(void)
{
    dialed = attempts = 0;
    dial_start(&dial, loop, &target, on_dialed, &dial);
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

/* ---- what a target looks like ---- */

static void expect_target(const char *text, int default_port, const char *host, int port)
{
    struct target parsed;
    int result = target_parse(&parsed, text, default_port);

    if (host == NULL) {
        if (result != -1)
            print_error("\"%s\" was taken for %s:%d\n", text, parsed.host, parsed.port);
        assert_int_equal(result, -1);
        return;
    }
    if (result != 0)
        print_error("\"%s\" was refused\n", text);
    assert_int_equal(result, 0);
    assert_string_equal(parsed.host, host);
    assert_int_equal(parsed.port, port);
    assert_int_equal(parsed.count, 0); /* not looked up yet */
}

static void test_a_target_is_a_host_and_a_port_or_a_port_of_localhost(void **state)
{
    (void)state;
    expect_target("example.com:80", 0, "example.com", 80);
    expect_target("127.0.0.1:8080", 0, "127.0.0.1", 8080);
    expect_target("[::1]:8080", 0, "::1", 8080);
    expect_target("[2001:db8::7]:1", 0, "2001:db8::7", 1);
    expect_target("8080", 0, "localhost", 8080);
    expect_target("65535", 0, "localhost", 65535);
}

static void test_with_a_default_port_it_may_be_a_host_alone(void **state)
{
    (void)state;
    expect_target("example.com", 60623, "example.com", 60623);
    expect_target("192.0.2.7", 60623, "192.0.2.7", 60623);
    expect_target("::1", 60623, "::1", 60623);
    expect_target("2001:db8::7", 60623, "2001:db8::7", 60623);
    expect_target("[::1]", 60623, "::1", 60623);
    expect_target("[::1]:80", 60623, "::1", 80);
    expect_target("example.com:80", 60623, "example.com", 80);
}

static void test_anything_else_is_no_target(void **state)
{
    char name[300];

    (void)state;
    expect_target("", 0, NULL, 0);
    expect_target("example.com", 0, NULL, 0);
    expect_target("example.com:", 0, NULL, 0);
    expect_target(":80", 0, NULL, 0);
    expect_target(":", 0, NULL, 0);
    expect_target("0", 0, NULL, 0);
    expect_target("65536", 0, NULL, 0);
    expect_target("99999999999999999999", 0, NULL, 0);
    expect_target("-1", 0, NULL, 0);
    expect_target("+80", 0, NULL, 0);
    expect_target(" 80", 0, NULL, 0);
    expect_target("80 ", 0, NULL, 0);
    expect_target("host:80x", 0, NULL, 0);
    expect_target("host:0", 0, NULL, 0);
    expect_target("host:65536", 0, NULL, 0);
    expect_target("::1", 0, NULL, 0);
    expect_target("::1:80", 0, NULL, 0);
    expect_target("[::1]", 0, NULL, 0);
    expect_target("[::1", 0, NULL, 0);
    expect_target("[::1]80", 0, NULL, 0);
    expect_target("[::1]:", 0, NULL, 0);
    expect_target("[]:80", 0, NULL, 0);
    expect_target("", 60623, NULL, 0);
    expect_target("host:", 60623, NULL, 0);
    expect_target(":80", 60623, NULL, 0);
    expect_target("[]", 60623, NULL, 0);
    memset(name, 'x', sizeof name);
    name[299] = '\0';
    expect_target(name, 60623, NULL, 0);
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
    later(TIME_OUT_MS + 1000); /* nobody waits for it any more */
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
static void test_only_within_this_machine_it_does_without_keepalives(void **state)
{
    (void)state;
    if (!has_ipv6())
        skip();
    int listening = listening_on("127.0.0.1", held.port, 5);
    start("127.0.0.1", held.port);
    eventually(dialed == 1);
    assert_int_equal(option_of(dialed_fd, SOL_SOCKET, SO_KEEPALIVE), 0);
    assert_true(is_congestion_control(dialed_fd, "reno"));
    assert_in_range(window_at_most(dialed_fd), 1 << 19, 1 << 21);
    close(dialed_fd);
    start("[::ffff:127.0.0.1]", held.port);
    eventually(dialed == 2);
    assert_int_equal(option_of(dialed_fd, IPPROTO_TCP, TCP_NODELAY), 1);
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

static void test_who_never_answers_is_given_up_in_time(void **state)
{
    struct silent silent = silent_at("127.0.0.1");

    (void)state;
    start("127.0.0.1", held.port);
    expect_rest();
    later(TIME_OUT_MS - 3000);
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
    later(TIME_OUT_MS + 1000); /* it is not given up any more */
    assert_int_equal(dialed, 1);
    close(dialed_fd);
    silent_close(silent);
}

static void test_a_name_that_nobody_knows_is_no_host(void **state)
{
    (void)state;
    start("nowhere.example", 80);
    assert_int_equal(dialed, 0);
    expect_failed(EHOSTUNREACH);
    expect_logged("cannot find the host nowhere.example: ");
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
    expect_rest();
    later(TIME_OUT_MS);
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
    expect_rest();
    later(1000);
    second_fd = -2; /* not dialed */
    dial_start(&second, loop, &target, on_second_dialed, NULL);
    expect_rest();
    later(TIME_OUT_MS - 1000);
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
    lookup_takes_ms = TIME_OUT_MS + 1000;
    start("home.example", held.port);
    eventually(attempts == 1);
    expect_rest();
    assert_int_equal(dialed, 0);
    later(TIME_OUT_MS);
    expect_failed(ETIMEDOUT);
    silent_close(silent);
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
    start_again();
    expect_connected("127.0.0.3");
    assert_int_equal(lookups, 2);
    close(listening);
}

static void test_more_addresses_than_can_be_kept_are_left_out(void **state)
{
    char addresses[TARGET_ADDRESSES + 2][20];

    (void)state;
    for (int i = 0; i <= TARGET_ADDRESSES; i++) {
        snprintf(addresses[i], sizeof addresses[i], "127.0.1.%d", i + 1);
        known[i] = addresses[i];
    }
    start("many.example", held.port);
    expect_failed(ECONNREFUSED);
    assert_int_equal(attempts, TARGET_ADDRESSES);
}

static void test_without_descriptors_it_fails_but_the_addresses_stay_good(void **state)
{
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    known[0] = "127.0.0.1";
    start("home.example", held.port);
    forbid_descriptors();
    expect_failed(EMFILE);
    allow_descriptors();
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
    later(TIME_OUT_MS + 1000);
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

static void test_a_peers_host_can_be_dialed_at_another_port(void **state)
{
    struct pair pair = pair_open();
    int listening = listening_on("127.0.0.1", held.port, 5);

    (void)state;
    assert_int_equal(target_of_peer(&target, pair.ours, held.port), 0);
    assert_string_equal(target.host, "127.0.0.1");
    start_again();
    expect_connected("127.0.0.1");
    assert_int_equal(target_of_peer(&target, listening, 80), -1);
    assert_int_equal(errno, ENOTCONN);
    close(pair.ours);
    close(pair.peer);
    close(listening);
}

/* ---- waiting before another try ---- */

static void test_the_wait_is_doubled_from_half_a_second_to_half_a_minute(void **state)
{
    static const int expected[] = {500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000};
    int last = 0;

    (void)state;
    for (int i = 0; i < 9; i++) {
        int ms = backoff_ms(&last);
        assert_int_equal(last, expected[i]);
        assert_in_range(ms, last * 3 / 4, last * 5 / 4);
    }
    last = 0; /* starts over */
    assert_in_range(backoff_ms(&last), 375, 625);
}

static void test_the_wait_differs_from_one_time_to_the_next(void **state)
{
    int least = 1 << 30, most = 0;

    (void)state;
    for (int i = 0; i < 200; i++) {
        int last = 16000, ms = backoff_ms(&last);
        least = ms < least ? ms : least;
        most = ms > most ? ms : most;
    }
    assert_true(least < 26000 && most > 34000); /* of 22.5 to 37.5 s */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DIAL(test_a_target_is_a_host_and_a_port_or_a_port_of_localhost),
        DIAL(test_with_a_default_port_it_may_be_a_host_alone),
        DIAL(test_anything_else_is_no_target),
        DIAL(test_who_answers_is_connected),
        DIAL(test_an_ipv6_address_is_connected),
        DIAL(test_only_within_this_machine_it_does_without_keepalives),
        DIAL(test_where_nobody_listens_it_is_refused),
        DIAL(test_who_never_answers_is_given_up_in_time),
        DIAL(test_who_refuses_late_is_not_connected),
        DIAL(test_who_answers_late_is_connected),
        DIAL(test_a_name_that_nobody_knows_is_no_host),
        DIAL(test_the_addresses_of_a_name_are_tried_in_turn),
        DIAL(test_one_that_cannot_even_be_tried_is_passed_over),
        DIAL(test_after_a_time_out_the_next_address_is_tried),
        DIAL(test_the_next_dial_begins_with_the_address_that_answered),
        DIAL(test_two_dials_at_once_do_not_disturb_each_other),
        DIAL(test_the_time_that_the_look_up_takes_is_not_the_hosts),
        DIAL(test_when_that_one_fails_the_others_are_tried),
        DIAL(test_when_all_addresses_failed_the_next_dial_looks_the_name_up_again),
        DIAL(test_more_addresses_than_can_be_kept_are_left_out),
        DIAL(test_without_descriptors_it_fails_but_the_addresses_stay_good),
        DIAL(test_a_connection_with_oneself_is_none),
        DIAL(test_it_may_dial_again_when_it_failed),
        DIAL(test_when_it_is_stopped_nobody_is_called),
        DIAL(test_stopping_what_was_never_started_or_is_over_does_nothing),
        DIAL(test_a_peers_host_can_be_dialed_at_another_port),
        DIAL(test_the_wait_is_doubled_from_half_a_second_to_half_a_minute),
        DIAL(test_the_wait_differs_from_one_time_to_the_next),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
