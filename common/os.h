/*
 * os: what systems know under different names, or only some of them. os_linux.c is Linux's, os_bsd.c that of macOS,
 * FreeBSD, NetBSD and OpenBSD; the Makefile picks one. All the rest of common/ is POSIX, but for
 * pollers, buckets and getopt_long(3), which all of them have.
 *
 * Descriptors from here do not block, and are not inherited by other programs. What sets an option returns nothing: a
 * socket that lacks it still works, and that is not worth losing a connection for.
 */
#ifndef COMMON_OS_H
#define COMMON_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As socket(2) for a stream, accept(2) and pipe(2): descriptors, or -1 with errno. */
int os_socket(int family);
int os_accept(int listener);
int os_pipe(int fds[2]);

/* Whether a socket that listens on all addresses can hear IPv6 and IPv4. */
bool os_has_dual_sockets(void);

/* Milliseconds since some moment in the past. Never goes back; goes on while the machine sleeps, where the
 * system has such a clock. */
uint64_t os_now_ms(void);

/* Bytes that nobody can guess. Returns 0, or -1 with errno. */
int os_random(void *bytes, size_t size);

/* More descriptors than that are of no use to this process, whatever its limit says. */
int os_descriptors_max(void);

/* For a socket that will connect(2): any port that is free will do. */
void os_use_all_ports(int fd);
/* The peer's kernel is asked for a sign of life when it has been silent for a while; after three questions without an
 * answer the connection is broken. */
void os_keepalive(int fd);
/* The while, in seconds, before the first question and between two. */
void os_keepalive_period(int fd, int seconds);
/* Bytes under way that nobody acknowledges: the connection is broken within a minute, if the system can do that. A peer
 * that is there, but reads nothing, may take as long as it likes. */
void os_give_up_the_dead(int fd);
/* Chooses a congestion control by its name. Returns 0, or -1 with errno. */
int os_congestion(int fd, const char *name);
/* What makes a connection within this machine quick. */
void os_tune_local(int fd);

/* Bytes that were written but not yet acknowledged by the peer's kernel; 0 if that can't be known. */
int os_unacknowledged(int fd);
/* Whether the loop would be told so late of room to write that congestion control suffers: os_linux.c says why. */
bool os_tells_of_room_late(int fd);
/* Whether the peer's kernel has sent anything within the last so many milliseconds; true if that can't be known. */
bool os_heard_within(int fd, unsigned ms);

#endif
