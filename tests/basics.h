/*
 * basics: what the tests of the modules (unit/) and those of the stages (stages/) both need.
 */
#ifndef TESTS_BASICS_H
#define TESTS_BASICS_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

/* How many times longer than on a good machine things may take: TEST_PATIENCE=10 makes it tenfold, for a slow
 * one or valgrind. */
double slowness(void);

/* Fills in a numeric address, IPv4 or IPv6, and returns its size. */
socklen_t make_address(const char *text, int port, struct sockaddr_storage *storage);
/* The socket's own port. */
int port_of(int fd);
bool has_ipv6(void);

/* A socket on address and port (0: any that is free), which nobody else gets by chance as long as it is open; -1
 * with errno if the system refuses. While it does not listen, connections are refused, and another one may be had
 * there by the same call. "::" is all addresses, those of IPv4 too. */
int bound_to(const char *address, int port);

/* When it is closed the other side gets a reset, as from a program that crashes. */
void reset_when_closed(int fd);

/* How many descriptors a process has open; -1: this system tells of our own process only. */
int descriptors_of(pid_t process);

#endif
