/* limits: descriptors, and what they are for. */
#include "unit.h"

#include <sys/resource.h>

#include "../../common/limits.h"

static int raised(void)
{
    struct rlimit limit = {50, 500};

    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1;
    limits_raise();
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur == 500 ? 0 : 2;
}

static void test_the_limit_is_raised_as_far_as_it_goes(void **state)
{
    (void)state;
    assert_int_equal(with_descriptors(500, raised), 0);
}

static int new_loop_with_few(void)
{
    struct rlimit limit = {50, 500};

    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1;
    struct loop *own = loop_new();
    getrlimit(RLIMIT_NOFILE, &limit);
    loop_free(own);
    return limit.rlim_cur == 500 ? 0 : 2;
}

static void test_a_new_loop_does_that(void **state)
{
    (void)state;
    assert_int_equal(with_descriptors(500, new_loop_with_few), 0);
}

static int shares_of_1024(void)
{
    return limits_pipes() == 128 && limits_connections() == 752 ? 0 : 1;
}

static void test_of_1024_a_quarter_is_for_pipes_and_752_are_for_connections(void **state)
{
    (void)state;
    assert_int_equal(with_descriptors(1024, shares_of_1024), 0);
}

static int connections_of_16(void)
{
    return limits_connections();
}

static void test_of_16_none_is_for_connections(void **state)
{
    (void)state;
    assert_int_equal(with_descriptors(16, connections_of_16), 0);
}

static int users_of_1024(void)
{
    return limits_users(limits_connections(), 10) == 371 && limits_users(limits_connections(), 0) == 376 ? 0
                                                                                                         : 1;
}

static void test_beside_10_others_371_users_fit_into_them(void **state)
{
    (void)state;
    assert_int_equal(with_descriptors(1024, users_of_1024), 0);
}

/* Whatever the system allows. */
static void test_all_shares_together_are_no_more_than_there_are(void **state)
{
    struct rlimit limit;

    (void)state;
    getrlimit(RLIMIT_NOFILE, &limit);
    assert_in_range(2 * limits_pipes(), 2, 1024);
    assert_true((rlim_t)limits_connections() < limit.rlim_cur);
    assert_true((rlim_t)(2 * limits_pipes() + limits_connections()) < limit.rlim_cur);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        UNIT(test_the_limit_is_raised_as_far_as_it_goes),
        UNIT(test_a_new_loop_does_that),
        UNIT(test_of_1024_a_quarter_is_for_pipes_and_752_are_for_connections),
        UNIT(test_of_16_none_is_for_connections),
        UNIT(test_beside_10_others_371_users_fit_into_them),
        UNIT(test_all_shares_together_are_no_more_than_there_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
