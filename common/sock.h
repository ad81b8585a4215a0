/*
 * sock: what one TCP connection of a tunnel is set to, and what it tells of itself.
 *
 * A socket that was tuned sends small messages at once, and notices within about a minute that its peer has vanished
 * without a word (where the system can't do better, and on Linux before 6.15: within a quarter of an hour, if bytes were
 * under way).
 */
#ifndef COMMON_SOCK_H
#define COMMON_SOCK_H

#include <stdbool.h>
#include <sys/socket.h>

/* What sock_tune sets: home routers forget a connection that is silent, some after 30 s. */
enum { KEEPALIVE_MS = 12000 };

/* Sets a socket to that. Also a listening one: what it accepts inherits it. */
void sock_tune(int fd);
/* The same for a connection that stays on this machine, and what makes it quick. Before connect or listen; may follow
 * sock_tune. */
void sock_tune_local(int fd);
/* Whether this address, IPv4 or IPv6, is one of 127.0.0.0/8 or ::1. */
bool sock_is_loopback(const struct sockaddr *address);

/* Has the kernel of a socket that was tuned ask the peer's for a sign of life after ms milliseconds of silence, rounded up
 * to seconds, and again and again; after three that were not answered the connection is broken. */
void sock_keepalive(int fd, int ms);
/* Whether the peer's kernel has sent or answered anything lately: within two periods of that keepalive. */
bool sock_heard_lately(int fd, int keepalive_ms);

/* Sets an option that is a number. A socket that lacks it still works: not worth losing a connection for. */
void sock_option(int fd, int level, int name, int value);
/* The error that the kernel holds for this socket, an errno, or 0; asking clears it. */
int sock_error(int fd);
/* Whether this connection was reset or given up; told once, as it clears the error, too. */
bool sock_is_broken(int fd);

/* Sends one line of at most 254 bytes; the format has no '\n'. Returns 0, or -1 with errno if it can't all go at once. */
__attribute__((format(printf, 2, 3))) int sock_send_line(int fd, const char *format, ...);
/* Has close() send a reset: the peer learns that this was no orderly end. */
void sock_reset_on_close(int fd);
/* Sends one last line, then closes fd in a way that lets the line arrive. */
void sock_refuse(int fd, const char *line);

/* Who is at the other end. Where that can't be known any more, or is no host (a Unix socket), the address is "unknown". */
struct peer {
    char address[64]; /* "192.0.2.7" or "2001:db8::7" */
    char port[8];
    char text[80]; /* "192.0.2.7:41234" or "[2001:db8::7]:41234" */
};
struct peer sock_peer(int fd);
/* The own port; -1 where there is none (a Unix socket), or with errno if it can't be known. */
int sock_port(int fd);

/* Who holds more than half of the connections to a port of ours, if anybody does; else one of those who hold some. Looks at
 * every descriptor, which takes its time: for a complaint now and then. */
struct crowd {
    struct peer peer; /* at the other end of one of them */
    int count;        /* of connections from that address */
};
struct crowd sock_crowd(int port);

#endif
