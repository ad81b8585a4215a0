/*
 * secret: tokens that can't be guessed, and comparing them without giving them away.
 */
#ifndef COMMON_SECRET_H
#define COMMON_SECRET_H

#include <stdbool.h>

enum { TOKEN_SIZE = 33 }; /* 32 hexadecimal digits, 128 random bits, and '\0' */

/* Makes a new token from the kernel's random numbers. Returns 0, or -1 with errno. */
int token_make(char token[TOKEN_SIZE]);
/* Whether text looks like one. */
bool token_is_valid(const char *text);

/* Whether line is WORD, a space and secret; or just WORD, where secret is "". Takes the same time wherever
 * a wrong secret differs from the right one, so that measuring it tells nobody how far they were right. */
bool secret_matches(const char *line, const char *word, const char *secret);

#endif
