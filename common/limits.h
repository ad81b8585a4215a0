/*
 * limits: how many descriptors the system lets this process have, and what they are for.
 *
 * With a limit of 1024, as many systems have it:
 *     256   a quarter, 1024 at most, for pipes: two descriptors each, so 128 pipes
 *      16   for the program itself: standard streams, the loop, listeners, and some that come and go
 *     752   for connections
 */
#ifndef COMMON_LIMITS_H
#define COMMON_LIMITS_H

#include <stdbool.h>

/* Raises the process's limit as far as it goes, and says in the log if that is too little for anybody. */
void limits_raise(void);

int limits_descriptors(void); /* all */
int limits_pipes(void);       /* pipes, of two each */
int limits_connections(void);

/* How many users fit into so many connections, beside so many others. A user takes two: at the server its own and its proxy
 * connection, at the client that and the private connection. With 752 connections and 10 others: 371 users. */
int limits_users(int connections, int others);

/* Whether this errno says that there was no descriptor or no memory left. It is nobody's fault, and may be over in a moment. */
bool limits_are_reached(int error);

#endif
