/*
 * congestion: how fast a connection that leaves this machine may send.
 *
 * Congestion control (RFC 5681) finds out how much a line carries, and shares it with others. There are several kinds, and
 * each system has one that it takes by itself. CUBIC, Linux's (RFC 9438), takes each lost packet for a sign that the line is
 * full; BBR measures what the line carries, and is much faster where packets get lost for other reasons, as in the air or over
 * an ocean.
 */
#ifndef COMMON_CONGESTION_H
#define COMMON_CONGESTION_H

/* Returns 0 if this program may choose the congestion control of that name; else -1, and says in the log which ones it
 * may. */
int congestion_check(const char *name);

/* Chooses it for a socket, before it is connected or listens: what is accepted inherits it. NULL: the system's. */
void congestion_choose(int fd, const char *name);

#endif
