/* backoff: how long to wait before another try. */
#include "unit.h"

#include "../../common/backoff.h"

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
        UNIT(test_the_wait_is_doubled_from_half_a_second_to_half_a_minute),
        UNIT(test_the_wait_differs_from_one_time_to_the_next),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
