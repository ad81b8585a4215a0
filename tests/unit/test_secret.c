/* secret: tokens that can't be guessed, and comparing them. */
#include "unit.h"

#include <string.h>

#include "../../common/secret.h"

static void test_a_token_has_32_hexadecimal_digits(void **state)
{
    char token[TOKEN_SIZE];

    (void)state;
    assert_int_equal(token_make(token), 0);
    assert_int_equal(strlen(token), 32);
    assert_int_equal(strspn(token, "0123456789abcdef"), 32);
}

static void test_no_two_tokens_are_alike_in_any_digit(void **state)
{
    bool differs[32] = {false};
    char first[TOKEN_SIZE], token[TOKEN_SIZE];

    (void)state;
    token_make(first);
    for (int i = 0; i < 64; i++) { /* a digit of chance stays the same once in 16^64 times */
        token_make(token);
        assert_string_not_equal(token, first);
        for (int d = 0; d < 32; d++)
            differs[d] = differs[d] || token[d] != first[d];
    }
    for (int d = 0; d < 32; d++)
        assert_true(differs[d]);
}

static void test_what_looks_like_a_token_is_one(void **state)
{
    char token[TOKEN_SIZE];

    (void)state;
    token_make(token);
    assert_true(token_is_valid(token));
    assert_true(token_is_valid("0123456789abcdef0123456789abcdef"));
    assert_false(token_is_valid(""));
    assert_false(token_is_valid("0123456789abcdef0123456789abcde"));
    assert_false(token_is_valid("0123456789abcdef0123456789abcdef0"));
    assert_false(token_is_valid("0123456789abcdef0123456789abcdeg"));
    assert_false(token_is_valid(" 123456789abcdef0123456789abcdef"));
    assert_false(token_is_valid("0123456789abcdef 123456789abcdef"));
}

static void test_the_right_secret_matches(void **state)
{
    (void)state;
    assert_true(secret_matches("hello open sesame", "hello", "open sesame"));
    assert_true(secret_matches("proxy 0123456789abcdef", "proxy", "0123456789abcdef"));
}

static void test_without_a_secret_the_word_alone_matches(void **state)
{
    (void)state;
    assert_true(secret_matches("hello", "hello", ""));
    assert_false(secret_matches("hello ", "hello", ""));
    assert_false(secret_matches("hello sesame", "hello", ""));
    assert_false(secret_matches("", "hello", ""));
}

static void test_anything_else_does_not(void **state)
{
    (void)state;
    assert_false(secret_matches("hello", "hello", "sesame"));
    assert_false(secret_matches("hello ", "hello", "sesame"));
    assert_false(secret_matches("hello sesam", "hello", "sesame"));
    assert_false(secret_matches("hello sesamE", "hello", "sesame"));
    assert_false(secret_matches("hello xesame", "hello", "sesame"));
    assert_false(secret_matches("hello sesame ", "hello", "sesame"));
    assert_false(secret_matches("hello sesame2", "hello", "sesame"));
    assert_false(secret_matches("hello  sesame", "hello", "sesame"));
    assert_false(secret_matches("hellosesame", "hello", "sesame"));
    assert_false(secret_matches("Hello sesame", "hello", "sesame"));
    assert_false(secret_matches("proxy sesame", "hello", "sesame"));
    assert_false(secret_matches("sesame", "hello", "sesame"));
    assert_false(secret_matches("", "hello", "sesame"));
}

static void test_a_very_long_line_does_not_match(void **state)
{
    char line[1000];

    (void)state;
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    assert_false(secret_matches(line, "hello", "sesame"));
    memcpy(line, "hello sesame", 12);
    assert_false(secret_matches(line, "hello", "sesame"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_token_has_32_hexadecimal_digits),
        cmocka_unit_test(test_no_two_tokens_are_alike_in_any_digit),
        cmocka_unit_test(test_what_looks_like_a_token_is_one),
        cmocka_unit_test(test_the_right_secret_matches),
        cmocka_unit_test(test_without_a_secret_the_word_alone_matches),
        cmocka_unit_test(test_anything_else_does_not),
        cmocka_unit_test(test_a_very_long_line_does_not_match),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
