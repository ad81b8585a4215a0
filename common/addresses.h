/*
 * addresses: those that a name stands for, and which of them to try next.
 *
 * That an address answers does not make it the right one. It is good when whoever talks with it says so.
 */
#ifndef COMMON_ADDRESSES_H
#define COMMON_ADDRESSES_H

#include <sys/socket.h>

struct addrinfo;

enum standing {
    ADDRESS_NEW,
    ADDRESS_TRIED, /* and nobody has called it good since */
    ADDRESS_GOOD,  /* the one to begin with */
};

struct address {
    struct sockaddr_storage storage;
    socklen_t size;
    enum standing standing;
};

/* All zeros is none. */
struct addresses {
    struct address *all;
    unsigned count;
};

/* Has those that were found, one at least, instead of what it had. What stands in both keeps its standing. Returns 0, or -1 with
 * errno without memory; then it keeps what it had. */
int addresses_set(struct addresses *addresses, const struct addrinfo *found);
/* Frees them: it has none then. */
void addresses_clear(struct addresses *addresses);

/* The next one to try: the good one, or else the first that is new; NULL if there is none. It stays theirs, until they are set
 * anew. */
const struct address *addresses_pick(const struct addresses *addresses);
/* How it went. To call one good makes all others new. It may be none of them any more. */
void addresses_mark(struct addresses *addresses, const struct address *address, enum standing standing);
/* If all were tried in vain, they are all new again. */
void addresses_start_over(struct addresses *addresses);

#endif
