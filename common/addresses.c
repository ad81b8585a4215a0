/*
 * How it works: an array, each with its standing. An answer of the name service takes the old array's place. What stands in
 * both keeps its standing, so that a round through all of them goes on where it was, although name services shuffle their
 * answers.
 */
#include "addresses.h"

#include <netdb.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_same(const struct address *a, const struct address *b)
{
    return a->size == b->size && memcmp(&a->storage, &b->storage, a->size) == 0;
}

int addresses_set(struct addresses *addresses, const struct addrinfo *found)
{
    unsigned count = 1;

    for (const struct addrinfo *a = found->ai_next; a != NULL; a = a->ai_next)
        count++;
    struct address *all = calloc(count, sizeof *all);
    if (all == NULL)
        return -1;
    for (unsigned i = 0; i < count; i++, found = found->ai_next) {
        memcpy(&all[i].storage, found->ai_addr, found->ai_addrlen);
        all[i].size = found->ai_addrlen;
        for (unsigned old = 0; old < addresses->count; old++)
            if (is_same(&all[i], &addresses->all[old]))
                all[i].standing = addresses->all[old].standing;
    }
    addresses_clear(addresses);
    *addresses = (struct addresses){.all = all, .count = count};
    return 0;
}

void addresses_clear(struct addresses *addresses)
{
    free(addresses->all);
    *addresses = (struct addresses){0};
}

const struct address *addresses_pick(const struct addresses *addresses)
{
    const struct address *first_new = NULL;

    for (unsigned i = 0; i < addresses->count; i++) {
        const struct address *address = &addresses->all[i];

        if (address->standing == ADDRESS_GOOD)
            return address;
        if (address->standing == ADDRESS_NEW && first_new == NULL)
            first_new = address;
    }
    return first_new;
}

void addresses_mark(struct addresses *addresses, const struct address *address, enum standing standing)
{
    for (unsigned i = 0; i < addresses->count; i++)
        if (is_same(&addresses->all[i], address))
            addresses->all[i].standing = standing;
        else if (standing == ADDRESS_GOOD)
            addresses->all[i].standing = ADDRESS_NEW;
}

void addresses_start_over(struct addresses *addresses)
{
    if (addresses_pick(addresses) != NULL)
        return;
    for (unsigned i = 0; i < addresses->count; i++)
        addresses->all[i].standing = ADDRESS_NEW;
}
