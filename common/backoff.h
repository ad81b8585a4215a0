/*
 * backoff: how long to wait before another try.
 */
#ifndef COMMON_BACKOFF_H
#define COMMON_BACKOFF_H

enum { BACKOFF_FIRST_MS = 500, BACKOFF_MOST_MS = 30000 };

/* *last_ms is doubled each time, from 0.5 s up to 30 s; 0 starts over. The result is that, give or take a quarter by
 * chance, so that many who lost the same host don't come back at once. */
int backoff_ms(int *last_ms);

#endif
