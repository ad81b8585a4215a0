/* congestion: what a program may choose. */
#include "unit.h"

#include <stdio.h>
#include <unistd.h>

#include "../../common/congestion.h"
#include "../../common/os.h"

static void test_what_may_be_chosen_is_told_without_a_word(void **state)
{
    (void)state;
    assert_int_equal(congestion_check("reno"), 0);
    assert_string_equal(logged(), "");
}

static void test_a_name_that_is_unknown_is_told_with_those_that_are_allowed(void **state)
{
    (void)state;
    assert_int_equal(congestion_check("no-such"), -1);
    expect_logged("cannot choose the congestion control no-such: there is none of that name; allowed here: ");
    expect_logged("reno");
    assert_int_equal(times_logged("\n"), 1);
}

static void test_a_socket_gets_what_was_chosen(void **state)
{
    int fd = os_socket(AF_INET);

    (void)state;
    congestion_choose(fd, "reno");
    assert_true(is_congestion_control(fd, "reno"));
    congestion_choose(fd, NULL); /* leaves it as it is */
    assert_true(is_congestion_control(fd, "reno"));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        UNIT(test_what_may_be_chosen_is_told_without_a_word),
        UNIT(test_a_name_that_is_unknown_is_told_with_those_that_are_allowed),
        UNIT(test_a_socket_gets_what_was_chosen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
