/* list: objects that stand in a row. */
#include "unit.h"

#include "../../common/list.h"

struct member {
    struct link place;
    char letter;
};

static struct link list;
static struct member a, b, c;

static int begin(void **state)
{
    (void)state;
    list_init(&list);
    a = (struct member){.letter = 'a'};
    b = (struct member){.letter = 'b'};
    c = (struct member){.letter = 'c'};
    return 0;
}

/* The list has these members, in this order, seen from either end. */
static void expect_members(const char *letters)
{
    size_t count = 0;

    for (struct link *link = list.next; link != &list; link = link->next)
        assert_int_equal(((struct member *)link)->letter, letters[count++]);
    assert_int_equal(letters[count], '\0');
    for (struct link *link = list.previous; link != &list; link = link->previous)
        assert_int_equal(((struct member *)link)->letter, letters[--count]);
    assert_int_equal(count, 0);
}

static void test_a_new_list_is_empty(void **state)
{
    (void)state;
    assert_true(list_is_empty(&list));
    expect_members("");
}

static void test_a_list_that_is_all_zeros_is_empty(void **state)
{
    (void)state;
    assert_true(list_is_empty(&(struct link){0}));
}

static void test_members_are_appended_at_the_end(void **state)
{
    (void)state;
    list_append(&list, &a.place);
    assert_false(list_is_empty(&list));
    list_append(&list, &b.place);
    list_append(&list, &c.place);
    expect_members("abc");
}

static void test_a_member_is_inserted_after_another_or_as_the_first(void **state)
{
    (void)state;
    list_insert(&list, &a.place);
    list_insert(&a.place, &c.place);
    list_insert(&a.place, &b.place);
    expect_members("abc");
    list_remove(&c.place);
    list_insert(&list, &c.place);
    expect_members("cab");
}

static void test_any_member_may_leave(void **state)
{
    (void)state;
    list_append(&list, &a.place);
    list_append(&list, &b.place);
    list_append(&list, &c.place);
    list_remove(&b.place);
    expect_members("ac");
    list_remove(&a.place);
    expect_members("c");
    list_remove(&c.place);
    assert_true(list_is_empty(&list));
}

static void test_removing_what_is_in_no_list_does_nothing(void **state)
{
    (void)state;
    list_remove(&a.place);
    list_append(&list, &a.place);
    list_remove(&a.place);
    list_remove(&a.place);
    expect_members("");
    list_append(&list, &a.place);
    expect_members("a");
}

#define LIST(test)                                                                                           \
    {                                                                                                        \
#test, test, begin, NULL, NULL                                                                       \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIST(test_a_new_list_is_empty),
        LIST(test_a_list_that_is_all_zeros_is_empty),
        LIST(test_members_are_appended_at_the_end),
        LIST(test_a_member_is_inserted_after_another_or_as_the_first),
        LIST(test_any_member_may_leave),
        LIST(test_removing_what_is_in_no_list_does_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
