/*
 * round: looks at each member of a list now and then, as long as there are any.
 */
#ifndef COMMON_ROUND_H
#define COMMON_ROUND_H

#include "list.h"
#include "loop.h"

struct round {
    struct loop *loop;
    struct link members;
    struct timer timer; /* runs while there are any */
    int every_ms;
    void (*look_at)(struct link *member);
};

/* look_at is called every so many milliseconds for each member. It may move that member to another list, this one included, or
 * free it. */
void round_init(struct round *round, struct loop *loop, int every_ms, void (*look_at)(struct link *member));
/* Takes the member out of the list that it is in; list_remove takes it out of this one. Its first look comes in every_ms at
 * the latest. */
void round_add(struct round *round, struct link *member);
/* No more looks. The members stay where they are. */
void round_stop(struct round *round);

#endif
