/*
 * How it works: the kernel's random numbers for tokens. To compare, the differences of all characters are collected with
 * "or", and looked at only at the end; strcmp would stop at the first, and the time that it takes
 * would let a stranger guess a secret letter by letter.
 */
#include "secret.h"

#include <stdio.h>
#include <string.h>

#include "log.h"
#include "os.h"

int token_make(char token[TOKEN_SIZE])
{
    unsigned char bytes[(TOKEN_SIZE - 1) / 2];

    if (os_random(bytes, sizeof bytes) != 0)
        return -1;
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(token + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

bool token_is_valid(const char *text)
{
    return strlen(text) == TOKEN_SIZE - 1 && strspn(text, "0123456789abcdefABCDEF") == TOKEN_SIZE - 1;
}

int secret_take(char secret[SECRET_SIZE], const char *text, const char *origin)
{
    size_t length = strcspn(text, "\r\n");

    if (text[length] != '\0' && text[length + strspn(text + length, "\r\n")] != '\0')
        complain("the secret in %s is more than one line", origin);
    else if (length == 0)
        complain("there is no secret in %s", origin);
    else if (length >= SECRET_SIZE)
        complain("the secret in %s is longer than %d bytes", origin, SECRET_SIZE - 1);
    else {
        memcpy(secret, text, length);
        secret[length] = '\0';
        return 0;
    }
    return -1;
}

int secret_read(char secret[SECRET_SIZE], const char *path)
{
    char text[SECRET_SIZE + 3] = {0};
    FILE *file = fopen(path, "r");
    size_t size = file != NULL ? fread(text, 1, sizeof text - 1, file) : 0;
    int result = -1;

    if (file == NULL || ferror(file))
        complain("cannot read the secret from %s: %s", path, errno_text());
    else if (strlen(text) != size)
        complain("the secret in %s is not text", path);
    else
        result = secret_take(secret, text, path);
    if (file != NULL)
        fclose(file);
    return result;
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
