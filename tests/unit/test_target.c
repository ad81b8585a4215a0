/* target: where to connect to, and the addresses that it stands for. */
#include "unit.h"

#include <stdio.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../common/target.h"
#include "names.h"

static struct target target;
static struct target_waiter waiter, second_waiter;
static int told; /* that a look-up is over: how often */

static void on_answer(void *owner)
{
    assert_ptr_equal(owner, &told);
    told++;
}

static int begin(void **state)
{
    names_begin();
    told = 0;
    target = (struct target){0};
    return unit_begin(state);
}

static int end(void **state)
{
    target_clear(&target);
    return unit_end(state);
}

#define TARGET(test)                                                                                         \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

static void parse(const char *text)
{
    target_clear(&target);
    assert_int_equal(target_parse(&target, text, 0), 0);
}

/* The name is looked up, and the answer is there. */
static void ask(void)
{
    int before = told;

    target_refresh(&target, loop);
    assert_true(target_wait(&target, &waiter, on_answer, &told));
    eventually(told > before);
}

/* Nothing is asked. */
static void expect_no_question(void)
{
    int before = lookups;

    target_refresh(&target, loop);
    assert_false(lookup_is_running(&target.lookup));
    assert_int_equal(lookups, before);
}

static const char *text_of(const struct address *address)
{
    static char text[INET6_ADDRSTRLEN];
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address->storage;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address->storage;

    if (address->storage.ss_family == AF_INET)
        return inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
    return inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
}

/* The next address is this one, or NULL: none is left. Says how it went. */
static void expect_next(const char *text, enum standing standing)
{
    const struct address *address = addresses_pick(&target.addresses);

    if (text == NULL) {
        assert_null(address);
        return;
    }
    assert_non_null(address);
    assert_string_equal(text_of(address), text);
    addresses_mark(&target.addresses, address, standing);
}

/* ---- what a target looks like ---- */

static void expect_target(const char *text, int default_port, const char *host, int port)
{
    char expected[400];

    target_clear(&target);
    int result = target_parse(&target, text, default_port);
    if (host == NULL) {
        if (result != -1)
            print_error("\"%s\" was taken for %s\n", text, target.text);
        assert_int_equal(result, -1);
        return;
    }
    if (result != 0)
        print_error("\"%s\" was refused\n", text);
    assert_int_equal(result, 0);
    snprintf(expected, sizeof expected, "%s port %d", host, port);
    assert_string_equal(target.text, expected);
    assert_int_equal(target.port, port);
    assert_int_equal(lookups, 0);
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
    expect_target("http://localhost:8080", 0, NULL, 0);
    expect_target("http://localhost", 60623, NULL, 0);
    expect_target("localhost:8080/", 0, NULL, 0);
    expect_target("", 60623, NULL, 0);
    expect_target("host:", 60623, NULL, 0);
    expect_target(":80", 60623, NULL, 0);
    expect_target("[]", 60623, NULL, 0);
    memset(name, 'x', sizeof name);
    name[299] = '\0';
    expect_target(name, 60623, NULL, 0);
    expect_target("/run/app.sock", 60623, NULL, 0); /* where a host is wanted */
}

static void test_numbers_are_addresses_at_once(void **state)
{
    const struct sockaddr_in *v4;

    (void)state;
    parse("192.0.2.7:8080");
    assert_int_equal(target.addresses.count, 1);
    v4 = (struct sockaddr_in *)&target.addresses.all[0].storage;
    assert_int_equal(target.addresses.all[0].size, sizeof *v4);
    assert_int_equal(ntohs(v4->sin_port), 8080);
    expect_next("192.0.2.7", ADDRESS_TRIED);
    parse("[2001:db8::7]:8080");
    assert_int_equal(target.addresses.all[0].size, sizeof(struct sockaddr_in6));
    expect_next("2001:db8::7", ADDRESS_TRIED);
    expect_no_question();
    later(20000);
    expect_no_question();
    expect_next("2001:db8::7", ADDRESS_TRIED); /* and anew for each dial */
    assert_int_equal(target_lookup(&target, loop), 0);
    expect_no_question();
}

static void test_localhost_is_this_machine_and_no_question_for_others(void **state)
{
    (void)state;
    parse("8080");
    expect_next("::1", ADDRESS_TRIED);
    expect_next("127.0.0.1", ADDRESS_TRIED);
    expect_next(NULL, ADDRESS_TRIED);
    expect_no_question();
    parse("LocalHost:8080");
    expect_next("::1", ADDRESS_TRIED);
}

static void expect_path(const char *path)
{
    const struct sockaddr_un *address;
    char expected[200];

    parse(path);
    snprintf(expected, sizeof expected, "the socket %s", path);
    assert_string_equal(target.text, expected);
    assert_int_equal(target.addresses.count, 1);
    address = (struct sockaddr_un *)&target.addresses.all[0].storage;
    assert_int_equal(address->sun_family, AF_UNIX);
    assert_string_equal(address->sun_path, path);
    expect_no_question();
}

static void test_a_path_is_a_unix_socket(void **state)
{
    char path[110];

    (void)state;
    expect_path("/run/app.sock");
    expect_path("./app.sock");
    expect_path("folder/app.sock");
    expect_path("/run/app:8080");
    memset(path, 'x', sizeof path);
    path[0] = '/';
    path[103] = '\0';
    expect_path(path); /* as long as it may be everywhere */
    path[103] = 'x';
    path[104] = '\0';
    expect_target(path, 0, NULL, 0);
}

static void test_a_peers_host_is_a_target_with_another_port(void **state)
{
    struct pair pair = pair_open();
    int listening = listening_on("127.0.0.1", 0, 5);

    (void)state;
    parse("192.0.2.7:80"); /* which it no longer is */
    assert_int_equal(target_of_peer(&target, pair.ours, 8080), 0);
    assert_string_equal(target.text, "127.0.0.1 port 8080");
    assert_int_equal(target.addresses.count, 1);
    assert_int_equal(target.addresses.all[0].standing, ADDRESS_GOOD); /* it talks with us */
    assert_int_equal(ntohs(((struct sockaddr_in *)&target.addresses.all[0].storage)->sin_port), 8080);
    expect_next("127.0.0.1", ADDRESS_TRIED);
    expect_no_question();
    assert_int_equal(target_of_peer(&target, listening, 80), -1);
    assert_int_equal(errno, ENOTCONN);
    assert_int_equal(target.addresses.count, 0);
    close(pair.ours);
    close(pair.peer);
    close(listening);
    if (!has_ipv6())
        return;
    listening = listening_on("::1", 0, 5);
    int fd = connecting_to("::1", port_of(listening));
    assert_int_equal(target_of_peer(&target, fd, 8080), 0);
    assert_string_equal(target.text, "::1 port 8080");
    assert_int_equal(ntohs(((struct sockaddr_in6 *)&target.addresses.all[0].storage)->sin6_port), 8080);
    close(fd);
    close(listening);
}

/* ---- which address is next ---- */

static void test_the_good_address_comes_first_then_the_others(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    known[1] = "192.0.2.2";
    known[2] = "192.0.2.3";
    parse("some.example:80");
    ask();
    expect_next("192.0.2.1", ADDRESS_TRIED);
    expect_next("192.0.2.2", ADDRESS_GOOD);
    expect_next("192.0.2.2", ADDRESS_GOOD);
    expect_next("192.0.2.2", ADDRESS_TRIED); /* but now it is lost */
    expect_next("192.0.2.1", ADDRESS_TRIED); /* which is worth a try again */
    expect_next("192.0.2.3", ADDRESS_TRIED);
    expect_next(NULL, ADDRESS_TRIED);
}

static void test_after_the_last_one_the_name_is_looked_up_anew(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    known[1] = "192.0.2.2";
    parse("some.example:80");
    ask();
    expect_next("192.0.2.1", ADDRESS_TRIED);
    later(1000);
    expect_no_question(); /* there is one to try */
    expect_next("192.0.2.2", ADDRESS_TRIED);
    known[0] = "192.0.2.3";
    ask();
    expect_next("192.0.2.3", ADDRESS_TRIED);
    expect_next(NULL, ADDRESS_TRIED); /* the other one is as bad as before */
    addresses_start_over(&target.addresses);
    expect_next("192.0.2.3", ADDRESS_TRIED);
    addresses_start_over(&target.addresses); /* does nothing: there is one */
    expect_next("192.0.2.2", ADDRESS_TRIED);
    expect_next(NULL, ADDRESS_TRIED);
}

static void test_but_not_without_end(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    parse("some.example:80");
    ask();
    for (int i = 0; i < 20; i++) {
        expect_next("192.0.2.1", ADDRESS_TRIED);
        expect_no_question(); /* so soon */
    }
    assert_int_equal(lookups, 1);
    expect_next("192.0.2.1", ADDRESS_TRIED);
    later(400);
    ask();
    assert_int_equal(lookups, 2);
}

static void test_an_answer_in_another_order_changes_nothing(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    known[1] = "192.0.2.2";
    known[2] = "192.0.2.3";
    parse("some.example:80");
    ask();
    expect_next("192.0.2.1", ADDRESS_TRIED);
    expect_next("192.0.2.2", ADDRESS_TRIED);
    known[0] = "192.0.2.2";
    known[1] = "192.0.2.3";
    known[2] = "192.0.2.1";
    later(10000);
    ask();
    expect_next("192.0.2.3", ADDRESS_GOOD); /* the one that was not tried */
    known[0] = "192.0.2.1";
    known[1] = "192.0.2.3";
    known[2] = NULL;
    later(10000);
    ask();
    expect_next("192.0.2.3", ADDRESS_GOOD); /* the good one */
}

static void test_what_is_said_of_an_address_that_is_gone_is_ignored(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    known[1] = "192.0.2.2";
    parse("some.example:80");
    ask();
    struct address address = *addresses_pick(&target.addresses);
    known[0] = "192.0.2.3";
    later(10000);
    ask();
    addresses_mark(&target.addresses, &address, ADDRESS_TRIED);
    expect_next("192.0.2.3", ADDRESS_GOOD);
}

/* ---- when a name is looked up ---- */

static void test_an_answer_is_good_for_ten_seconds(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    parse("some.example:80");
    ask();
    expect_next("192.0.2.1", ADDRESS_GOOD);
    later(8000);
    expect_no_question();
    later(2000);
    known[0] = "192.0.2.2";
    pthread_mutex_lock(&names_silent);
    target_refresh(&target, loop);
    assert_true(lookup_is_running(&target.lookup));
    expect_next("192.0.2.1", ADDRESS_GOOD); /* the old one serves */
    pthread_mutex_unlock(&names_silent);
    eventually(!lookup_is_running(&target.lookup));
    expect_next("192.0.2.2", ADDRESS_GOOD); /* until the new one is there */
    assert_int_equal(target.addresses.count, 1);
    expect_no_question();
}

static void test_there_is_one_look_up_at_a_time(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    parse("some.example:80");
    pthread_mutex_lock(&names_silent);
    target_refresh(&target, loop);
    eventually(lookups == 1);
    for (int i = 0; i < 5; i++) {
        later(20000);
        target_refresh(&target, loop);
        assert_int_equal(target_lookup(&target, loop), 0);
    }
    assert_true(target_wait(&target, &waiter, on_answer, &told));
    assert_true(target_wait(&target, &second_waiter, on_answer, &told));
    pthread_mutex_unlock(&names_silent);
    eventually(told == 2);
    expect_rest();
    assert_int_equal(lookups, 1);
    assert_int_equal(told, 2);
    assert_false(target_wait(&target, &waiter, on_answer, &told)); /* for what? */
}

static void test_who_no_longer_waits_is_not_told(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    parse("some.example:80");
    target_refresh(&target, loop);
    assert_true(target_wait(&target, &waiter, on_answer, &told));
    assert_true(target_wait(&target, &second_waiter, on_answer, &told));
    list_remove(&waiter.place);
    eventually(told == 1);
    expect_rest();
    assert_int_equal(told, 1);
}

static void test_when_the_name_service_fails_the_addresses_stay(void **state)
{
    static const int errors[] = {EAI_AGAIN, EAI_FAIL, EAI_NONAME};

    (void)state;
    known[0] = "192.0.2.1";
    parse("some.example:80");
    ask();
    assert_string_equal(target.trouble, "");
    expect_next("192.0.2.1", ADDRESS_GOOD);
    known[0] = NULL;
    for (int i = 0; i < 3; i++) {
        names_error = errors[i];
        later(10000);
        ask();
        assert_string_equal(target.trouble, gai_strerror(errors[i]));
        assert_int_equal(target.addresses.count, 1);
        expect_next("192.0.2.1", ADDRESS_GOOD);
        later(8000);
        expect_no_question();
    }
    assert_string_equal(logged(), "");
    known[0] = "192.0.2.1";
    later(10000);
    ask();
    assert_string_equal(target.trouble, "");
}

static void test_a_name_that_never_existed_ends_the_program(void **state)
{
    (void)state;
    parse("nowhere.example:80");
    assert_int_equal(target_lookup(&target, loop), 0);
    assert_true(target_wait(&target, &waiter, on_answer, &told));
    assert_int_equal(loop_run(loop), 1);
    assert_int_equal(times_logged("cannot find the host nowhere.example: "), 1);
    assert_int_equal(times_logged("\n"), 1);
    assert_int_equal(told, 0); /* what would they do? */
    list_remove(&waiter.place);
}

static void test_any_other_failure_does_not(void **state)
{
    (void)state;
    names_error = EAI_AGAIN;
    parse("some.example:80");
    assert_int_equal(target_lookup(&target, loop), 0);
    assert_true(target_wait(&target, &waiter, on_answer, &told));
    eventually(told == 1);
    expect_rest();
    assert_int_equal(target.addresses.count, 0);
    assert_string_equal(logged(), "");
    known[0] = "192.0.2.1";
    later(400);
    ask();
    expect_next("192.0.2.1", ADDRESS_GOOD);
}

static void test_without_descriptors_it_cannot_be_looked_up(void **state)
{
    (void)state;
    known[0] = "192.0.2.1";
    parse("some.example:80");
    forbid_descriptors();
    assert_int_equal(target_lookup(&target, loop), -1);
    expect_logged("cannot find the host some.example: ");
    allow_descriptors();
    ask();
    expect_next("192.0.2.1", ADDRESS_GOOD);
}

static void test_clearing_ends_the_look_up(void **state)
{
    int before = open_descriptors();

    (void)state;
    parse("some.example:80");
    pthread_mutex_lock(&names_silent);
    target_refresh(&target, loop);
    eventually(lookups == 1);
    assert_true(target_wait(&target, &waiter, on_answer, &told));
    list_remove(&waiter.place);
    target_clear(&target);
    target_clear(&target);
    expect_rest();
    pthread_mutex_unlock(&names_silent);
    eventually(open_descriptors() == before);
    expect_rest();
    assert_int_equal(told, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TARGET(test_a_target_is_a_host_and_a_port_or_a_port_of_localhost),
        TARGET(test_with_a_default_port_it_may_be_a_host_alone),
        TARGET(test_anything_else_is_no_target),
        TARGET(test_numbers_are_addresses_at_once),
        TARGET(test_localhost_is_this_machine_and_no_question_for_others),
        TARGET(test_a_path_is_a_unix_socket),
        TARGET(test_a_peers_host_is_a_target_with_another_port),
        TARGET(test_the_good_address_comes_first_then_the_others),
        TARGET(test_after_the_last_one_the_name_is_looked_up_anew),
        TARGET(test_but_not_without_end),
        TARGET(test_an_answer_in_another_order_changes_nothing),
        TARGET(test_what_is_said_of_an_address_that_is_gone_is_ignored),
        TARGET(test_an_answer_is_good_for_ten_seconds),
        TARGET(test_there_is_one_look_up_at_a_time),
        TARGET(test_who_no_longer_waits_is_not_told),
        TARGET(test_when_the_name_service_fails_the_addresses_stay),
        TARGET(test_a_name_that_never_existed_ends_the_program),
        TARGET(test_any_other_failure_does_not),
        TARGET(test_without_descriptors_it_cannot_be_looked_up),
        TARGET(test_clearing_ends_the_look_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
