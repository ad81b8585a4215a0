/* What two connections see of each other once they are joined: the same as if there were nothing between
 * them. */
#include "spec.h"

enum { MANY = 8 * 1000 * 1000, PAIRS = 10 };

void test_what_one_side_says_reaches_the_other(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair pair = join(way);

        for (int i = 0; i < 3; i++) {
            say(&pair.user, "question %d", i);
            expect_bytes(&pair.app, i == 0 ? "question 0" : i == 1 ? "question 1" : "question 2");
            say(&pair.app, "answer");
            expect_bytes(&pair.user, "answer");
        }
    }
}

void test_bytes_both_ways_at_once_arrive_as_they_were_sent(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair pair = join(way);

        exchange(&pair.user, &pair.app, MANY, MANY);
        finish(&pair.user);
        expect_end(&pair.app);
        finish(&pair.app);
        expect_end(&pair.user);
    }
}

void test_pairs_are_joined_apart_from_each_other(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair pairs[PAIRS];

        for (int i = 0; i < PAIRS; i++)
            pairs[i] = i == 0 ? join(way) : join_another(way, &pairs[0]);
        for (int i = PAIRS - 1; i >= 0; i--) { /* whoever was mixed up would hear another's number */
            say(&pairs[i].user, "user %d", i);
            say(&pairs[i].app, "app %d", i);
        }
        for (int i = 0; i < PAIRS; i++) {
            char of_user[] = "user 0", of_app[] = "app 0";

            of_user[5] = of_app[4] = (char)('0' + i);
            expect_bytes(&pairs[i].app, of_user);
            expect_bytes(&pairs[i].user, of_app);
        }
        for (int i = 0; i < PAIRS; i += 2) {
            leave(&pairs[i].user);
            expect_end(&pairs[i].app);
        }
        for (int i = 1; i < PAIRS; i += 2)
            exchange(&pairs[i].user, &pairs[i].app, 100000, 100000);
    }
}

void test_a_user_that_closes_its_side_still_gets_its_answer(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair pair = join(way);

        say(&pair.user, "question");
        finish(&pair.user);
        expect_bytes(&pair.app, "question");
        expect_end(&pair.app);
        exchange(&pair.app, &pair.user, 1000000, 0);
        finish(&pair.app);
        expect_end(&pair.user);
    }
}

void test_an_app_that_closes_its_side_still_hears_the_user(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair pair = join(way);

        say(&pair.app, "that is all");
        finish(&pair.app);
        expect_bytes(&pair.user, "that is all");
        expect_end(&pair.user);
        exchange(&pair.user, &pair.app, 1000000, 0);
        finish(&pair.user);
        expect_end(&pair.app);
    }
}

void test_an_app_that_speaks_first_is_heard(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair pair = join(way);

        say(&pair.app, "SSH-2.0-banner\r\n");
        expect_bytes(&pair.user, "SSH-2.0-banner\r\n");
    }
}

void test_an_answer_before_the_end_of_the_question_reaches_the_user(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair pair = join(way);

        say(&pair.user, "a long ");
        expect_bytes(&pair.app, "a long ");
        say(&pair.app, "too long");
        leave(&pair.app);
        /* The app has gone. What the user says can't be delivered any more, but the answer can. */
        if (!comes_within(&pair.user, patience()))
            unmet(pair.program, "the answer at the user", "nothing came in time");
        say(&pair.user, "question");
        expect_bytes(&pair.user, "too long");
        expect_closed(&pair.user, "nothing more after the answer");
    }
}

void test_a_reset_by_the_user_reaches_the_app_as_a_reset(void)
{
    for (int way = 0; way < count_ways_with_resets(); way++) {
        struct pair pair = join(way);

        say(&pair.user, "x");
        expect_bytes(&pair.app, "x");
        reset(&pair.user);
        expect_reset(&pair.app);
    }
}

void test_a_reset_by_the_app_reaches_the_user_as_a_reset(void)
{
    for (int way = 0; way < count_ways_with_resets(); way++) {
        struct pair pair = join(way);

        say(&pair.app, "x");
        expect_bytes(&pair.user, "x");
        reset(&pair.app);
        expect_reset(&pair.user);
    }
}

void test_a_side_that_does_not_read_stops_only_its_own_pair(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair stopped = join(way), other = join_another(way, &stopped);
        size_t size = stuff(&stopped.user);

        exchange(&other.user, &other.app, 1000000, 1000000);
        exchange(&stopped.app, &stopped.user, 100000, 0); /* the other direction goes on too */
        finish(&stopped.user);
        expect_stuffed(&stopped.app, size);
        expect_end(&stopped.app);
    }
}

void test_joined_connections_cost_nothing_while_nothing_is_said(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair idle = join(way), half_closed = join_another(way, &idle),
                    stopped = join_another(way, &idle);

        finish(&half_closed.user);
        expect_end(&half_closed.app);
        stuff(&stopped.user);
        exchange(&idle.user, &idle.app, 1000, 1000);
        expect_idle(idle.program);
        if (way >= 2)
            expect_idle(idle.client.program);
    }
}

void test_joined_connections_leave_no_descriptor_behind(void)
{
    for (int way = 0; way < count_ways(); way++) {
        struct pair first = join(way);

        exchange(&first.user, &first.app, 100000, 100000); /* what is kept for later use is there by then */
        int before = open_descriptors(first.program);
        if (before < 0)
            skip_test("this system does not tell what descriptors a program has open");
        for (int i = 0; i < PAIRS; i++) {
            struct pair pair = join_another(way, &first);

            exchange(&pair.user, &pair.app, 1000, 1000);
            if (i % 3 == 0) {
                reset(&pair.user);
                expect_closed(&pair.app, "the end, as the user was reset");
            } else if (i % 3 == 1) {
                reset(&pair.user);
                reset(&pair.app);
            } else {
                finish(&pair.user);
                expect_end(&pair.app);
                leave(&pair.app);
                expect_end(&pair.user);
            }
        }
        expect_descriptors(first.program, before + 4);
    }
}
