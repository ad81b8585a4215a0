/*
 * list: objects that stand in a row, so that one can leave from the middle at no cost.
 *
 * The list and its members are links of one ring. A member has its link as the first thing in its struct, so
 * that a pointer to the link is a pointer to the member, too: (struct relay *)list.next is the first relay.
 * Nothing is allocated. An empty list is a ring of one; a member in no list is all zeros.
 */
#ifndef COMMON_LIST_H
#define COMMON_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct link {
    struct link *previous;
    struct link *next;
};

static inline void list_init(struct link *list)
{
    list->previous = list->next = list;
}

/* Also true of a list before list_init: what was never filled can be cleared. */
static inline bool list_is_empty(const struct link *list)
{
    return list->next == list || list->next == NULL;
}

/* Puts member behind the link named after: the list itself to become the first, its previous to become the
 * last. */
static inline void list_insert(struct link *after, struct link *member)
{
    member->previous = after;
    member->next = after->next;
    after->next->previous = member;
    after->next = member;
}

static inline void list_append(struct link *list, struct link *member)
{
    list_insert(list->previous, member);
}

/* Takes member out of the list that it is in. Does nothing with one that is in none. */
static inline void list_remove(struct link *member)
{
    if (member->next == NULL)
        return;
    member->previous->next = member->next;
    member->next->previous = member->previous;
    member->previous = member->next = NULL;
}

#endif
