/* lookup: asks which addresses a name has, without waiting for the answer. */
#include "unit.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../common/lookup.h"
#include "names.h"

static struct lookup lookup;
static int answers; /* so far */
static int found;   /* addresses in the last one */
static char last_address[INET6_ADDRSTRLEN], why[100];
static int last_port;
static bool no_such_name, asks_again;

static void on_answer(void *owner, const struct answer *answer)
{
    assert_ptr_equal(owner, &lookup);
    assert_false(lookup_is_running(&lookup));
    answers++;
    found = 0;
    for (const struct addrinfo *a = answer->found; a != NULL; a = a->ai_next, found++) {
        const struct sockaddr_in *address = (const struct sockaddr_in *)a->ai_addr;
        inet_ntop(AF_INET, &address->sin_addr, last_address, sizeof last_address);
        last_port = ntohs(address->sin_port);
    }
    assert_true((answer->found == NULL) == (answer->why != NULL));
    snprintf(why, sizeof why, "%s", answer->why != NULL ? answer->why : "");
    no_such_name = answer->no_such_name;
    if (asks_again)
        assert_int_equal(lookup_start(&lookup, loop, "again.example", 80, on_answer, &lookup), 0);
    asks_again = false;
}

static int begin(void **state)
{
    names_begin();
    answers = 0;
    asks_again = false;
    lookup = (struct lookup){0};
    return unit_begin(state);
}

static int end(void **state)
{
    lookup_stop(&lookup);
    return unit_end(state);
}

#define LOOKUP(test)                                                                                         \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

static void start(void)
{
    assert_int_equal(lookup_start(&lookup, loop, "some.example", 8080, on_answer, &lookup), 0);
    assert_true(lookup_is_running(&lookup));
}

static void test_all_addresses_of_a_name_are_told(void **state)
{
    char addresses[20][20];

    (void)state;
    for (int i = 0; i < 20; i++) {
        snprintf(addresses[i], sizeof addresses[i], "192.0.2.%d", i + 1);
        known[i] = addresses[i];
    }
    start();
    assert_int_equal(answers, 0);
    eventually(answers == 1);
    assert_int_equal(found, 20);
    assert_string_equal(last_address, "192.0.2.20");
    assert_int_equal(last_port, 8080);
    assert_false(no_such_name);
    expect_rest();
    assert_int_equal(answers, 1);
}

static void test_a_name_that_nobody_knows_is_told_as_such(void **state)
{
    (void)state;
    start();
    eventually(answers == 1);
    assert_int_equal(found, 0);
    assert_true(no_such_name);
    assert_string_equal(why, gai_strerror(EAI_NONAME));
}

static void test_so_is_one_without_an_address(void **state)
{
    (void)state;
#ifdef EAI_NODATA
    names_error = EAI_NODATA;
#endif
    start();
    eventually(answers == 1);
    assert_true(no_such_name);
}

static void test_any_other_failure_is_not(void **state)
{
    (void)state;
    names_error = EAI_AGAIN;
    start();
    eventually(answers == 1);
    assert_int_equal(found, 0);
    assert_false(no_such_name);
    assert_string_equal(why, gai_strerror(EAI_AGAIN));
    names_error = EAI_SYSTEM;
    names_errno = EMFILE;
    start();
    eventually(answers == 2);
    assert_false(no_such_name);
    assert_string_equal(why, strerror(EMFILE));
}

static void count(void *times)
{
    ++*(int *)times;
}

static void test_everything_else_goes_on_while_the_name_service_is_silent(void **state)
{
    struct timer timer = {0};
    int ticks = 0;

    (void)state;
    known[0] = "192.0.2.1";
    pthread_mutex_lock(&names_silent);
    start();
    eventually(lookups == 1);
    for (int i = 1; i <= 3; i++) {
        timer_start(loop, &timer, 5, count, &ticks);
        eventually(ticks == i);
    }
    expect_rest();
    assert_int_equal(answers, 0);
    pthread_mutex_unlock(&names_silent);
    eventually(answers == 1);
    assert_int_equal(found, 1);
}

static void test_a_silent_name_server_is_asked_again_soon_unless_somebody_wants_it_otherwise(void **state)
{
    (void)state;
    unsetenv("RES_OPTIONS");
    start();
    eventually(answers == 1);
    assert_string_equal(getenv("RES_OPTIONS"), "timeout:2 attempts:5");
    setenv("RES_OPTIONS", "timeout:7", 1);
    start();
    eventually(answers == 2);
    assert_string_equal(getenv("RES_OPTIONS"), "timeout:7");
    unsetenv("RES_OPTIONS");
}

static void test_who_stops_is_never_told_and_need_not_wait(void **state)
{
    int before = open_descriptors();

    (void)state;
    known[0] = "192.0.2.1";
    pthread_mutex_lock(&names_silent);
    start();
    eventually(lookups == 1);
    lookup_stop(&lookup);
    assert_false(lookup_is_running(&lookup));
    lookup_stop(&lookup); /* once more does nothing */
    expect_rest();
    pthread_mutex_unlock(&names_silent);
    eventually(open_descriptors() == before); /* the thread has ended */
    expect_rest();
    assert_int_equal(answers, 0);
}

static void test_one_may_stop_at_any_moment(void **state)
{
    int before = open_descriptors();

    (void)state;
    known[0] = "192.0.2.1";
    for (int i = 0; i < 200; i++) {
        start();
        for (int turns = i % 4; turns > 0; turns--)
            unit_turn();
        lookup_stop(&lookup);
    }
    eventually(open_descriptors() == before);
}

static void test_one_may_ask_again_when_told(void **state)
{
    (void)state;
    asks_again = true;
    start();
    eventually(answers == 2);
    assert_int_equal(lookups, 2);
}

static void test_without_descriptors_it_fails(void **state)
{
    (void)state;
    forbid_descriptors();
    errno = 0;
    assert_int_equal(lookup_start(&lookup, loop, "some.example", 80, on_answer, &lookup), -1);
    assert_int_equal(errno, EMFILE);
    assert_false(lookup_is_running(&lookup));
    allow_descriptors();
}

/* A thread needs memory for its stack. */
static void test_without_a_thread_it_fails(void **state)
{
    struct rlimit limit, little;

    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* it takes more memory itself */
#endif
    if (is_under_valgrind())
        skip();
    getrlimit(RLIMIT_AS, &limit);
    little = limit;
    little.rlim_cur = 1 << 20;
    free(malloc(100000)); /* what the module allocates has room */
    setrlimit(RLIMIT_AS, &little);
    void *room = mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int result = lookup_start(&lookup, loop, "some.example", 80, on_answer, &lookup);
    int error = errno;
    setrlimit(RLIMIT_AS, &limit);
    if (room != MAP_FAILED) /* a system without that limit */
        skip();
    assert_int_equal(result, -1);
    assert_int_equal(error, EAGAIN);
    assert_false(lookup_is_running(&lookup));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOKUP(test_without_a_thread_it_fails), /* first: there is no stack of a former thread to be had */
        LOOKUP(test_all_addresses_of_a_name_are_told),
        LOOKUP(test_a_name_that_nobody_knows_is_told_as_such),
        LOOKUP(test_so_is_one_without_an_address),
        LOOKUP(test_any_other_failure_is_not),
        LOOKUP(test_everything_else_goes_on_while_the_name_service_is_silent),
        LOOKUP(test_a_silent_name_server_is_asked_again_soon_unless_somebody_wants_it_otherwise),
        LOOKUP(test_who_stops_is_never_told_and_need_not_wait),
        LOOKUP(test_one_may_stop_at_any_moment),
        LOOKUP(test_one_may_ask_again_when_told),
        LOOKUP(test_without_descriptors_it_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
