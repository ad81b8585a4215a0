/*
 * How it works: getentropy(3) for tokens. To compare, the differences of all characters are collected with
 * "or", and looked at only at the end; strcmp would stop at the first, and the time that it takes
 * would let a stranger guess a secret letter by letter.
 */
#include "secret.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

int token_make(char token[TOKEN_SIZE])
{
    unsigned char bytes[(TOKEN_SIZE - 1) / 2];

    if (getentropy(bytes, sizeof bytes) != 0)
        return -1;
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(token + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

bool token_is_valid(const char *text)
{
    return strlen(text) == TOKEN_SIZE - 1 && strspn(text, "0123456789abcdefABCDEF") == TOKEN_SIZE - 1;
}

bool secret_matches(const char *line, const char *word, const char *secret)
{
    char expected[256] = {0}, said[256] = {0};
    unsigned difference = 0;

    snprintf(expected, sizeof expected, "%s%s%s", word, secret[0] != '\0' ? " " : "", secret);
    snprintf(said, sizeof said, "%s", line);
    for (size_t i = 0; i < sizeof said; i++)
        difference |= (unsigned)(said[i] ^ expected[i]);
    return difference == 0;
}
