/* round: who is looked at, and how often. */
#include "unit.h"

#include "../../common/round.h"

enum { EVERY_MS = 10000 }; /* so long that the machine's own time does not count */

struct member {
    struct link place;
    int looks;
    int patience; /* takes itself out when it was looked at so often */
};

static struct round members;
static struct member first, second;
static struct link elsewhere;

static void look_at(struct link *member)
{
    struct member *it = (struct member *)member;

    it->looks++;
    if (it->looks == it->patience)
        list_remove(member);
}

static int begin(void **state)
{
    int status = unit_begin(state);

    round_init(&members, loop, EVERY_MS, look_at);
    first = second = (struct member){0};
    list_init(&elsewhere);
    list_append(&elsewhere, &first.place);
    list_append(&elsewhere, &second.place);
    return status;
}

static int end(void **state)
{
    round_stop(&members);
    return unit_end(state);
}

static void test_all_members_are_looked_at_in_each_round_and_nobody_else(void **state)
{
    (void)state;
    round_add(&members, &first.place);
    round_add(&members, &second.place);
    assert_true(list_is_empty(&elsewhere));
    assert_int_equal(first.looks, 0);
    for (int i = 0; i < 10; i++)
        later(EVERY_MS);
    assert_int_equal(first.looks, 10);
    assert_int_equal(second.looks, first.looks);
}

static void test_one_more_member_puts_nobody_off(void **state)
{
    (void)state;
    round_add(&members, &first.place);
    for (int i = 0; i < 20; i++) {
        later(EVERY_MS / 2);
        round_add(&members, &second.place);
    }
    assert_in_range(first.looks, 9, 20);
}

static void test_who_takes_itself_out_is_left_alone(void **state)
{
    (void)state;
    first.patience = 2;
    round_add(&members, &first.place);
    round_add(&members, &second.place);
    for (int i = 0; i < 10; i++)
        later(EVERY_MS);
    assert_int_equal(first.looks, 2);
    assert_int_equal(second.looks, 10);
}

static void test_without_members_there_is_no_timer(void **state)
{
    (void)state;
    first.patience = 1;
    round_add(&members, &first.place);
    assert_true(timer_is_running(&members.timer));
    later(EVERY_MS);
    assert_false(timer_is_running(&members.timer));
    round_add(&members, &second.place); /* comes back */
    assert_true(timer_is_running(&members.timer));
}

#define ROUND(test)                                                                                          \
    {                                                                                                        \
#test, test, begin, end, NULL                                                                        \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROUND(test_all_members_are_looked_at_in_each_round_and_nobody_else),
        ROUND(test_one_more_member_puts_nobody_off),
        ROUND(test_who_takes_itself_out_is_left_alone),
        ROUND(test_without_members_there_is_no_timer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
