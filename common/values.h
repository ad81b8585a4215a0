/*
 * values: what the arguments of options may be. Each function returns whether text is such a value, and puts it into its last
 * argument; what that holds where text is not is of no use.
 */
#ifndef COMMON_VALUES_H
#define COMMON_VALUES_H

#include <stdbool.h>
#include <stddef.h>

#include "listener.h"

/* A whole number from 0 to most. */
bool value_number(const char *text, int most, int *number);
/* Seconds, with a fraction if need be, from least_ms up to a day. */
bool value_seconds(const char *text, int least_ms, int *ms);
/* PORT, ADDRESS:PORT or [ADDRESS]:PORT. */
bool value_endpoint(const char *text, struct endpoint *where);
/* What may be an address, of length bytes, perhaps in brackets, as IPv6 ones are in front of a port. */
bool value_address(const char *text, size_t length, struct endpoint *where);

#endif
