/* How it works: each takes the text apart to its very end; what is left over makes it wrong. */
#include "values.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool value_number(const char *text, int most, int *number)
{
    char *end;

    errno = 0;
    long value = strtol(text, &end, 10);
    *number = (int)value;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && value <= most;
}

bool value_seconds(const char *text, int least_ms, int *ms)
{
    char *end;
    double value = strtod(text, &end) * 1000;

    if (!((text[0] >= '0' && text[0] <= '9') || text[0] == '.') || *end != '\0' ||
        !(value >= least_ms && value <= 86400e3))
        return false;
    *ms = (int)(value + 0.5);
    return true;
}

bool value_address(const char *text, size_t length, struct endpoint *where)
{
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
        text++;
        length -= 2;
    }
    if (length == 0 || length >= sizeof where->address)
        return false;
    memcpy(where->address, text, length);
    where->address[length] = '\0';
    return true;
}

bool value_endpoint(const char *text, struct endpoint *where)
{
    const char *colon = strrchr(text, ':');

    where->address[0] = '\0';
    if (colon == NULL)
        return value_number(text, 65535, &where->port);
    /* ::1:80 could be an address as a whole: it takes brackets. */
    if (strchr(text, ':') != colon && colon[-1] != ']')
        return false;
    return value_address(text, (size_t)(colon - text), where) && value_number(colon + 1, 65535, &where->port);
}
