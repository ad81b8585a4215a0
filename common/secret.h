/*
 * secret: tokens that can't be guessed, secrets out of files, and comparing both without giving them away.
 */
#ifndef COMMON_SECRET_H
#define COMMON_SECRET_H

#include <stdbool.h>

enum {
    TOKEN_SIZE = 33,   /* 32 hexadecimal digits, 128 random bits, and '\0' */
    SECRET_SIZE = 101, /* at most, with its '\0': it is sent as a part of a line */
};

/* Makes a new token from the kernel's random numbers. Returns 0, or -1 with errno. */
int token_make(char token[TOKEN_SIZE]);
/* Whether text looks like one. */
bool token_is_valid(const char *text);

/* Copies a secret, one line of text, or reads it from a file. Returns 0, or -1 and says in the log what is wrong with it; origin
 * is where it came from. */
int secret_take(char secret[SECRET_SIZE], const char *text, const char *origin);
int secret_read(char secret[SECRET_SIZE], const char *path);

/* Whether line is WORD, a space and secret; or just WORD, where secret is "". Takes the same time wherever
 * a wrong secret differs from the right one, so that measuring it tells nobody how far they were right. */
bool secret_matches(const char *line, const char *word, const char *secret);

#endif
