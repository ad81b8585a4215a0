/*
 * How it works: one timer for all. When it is due, the list is emptied into another, and each member goes back as it is looked
 * at. So each is looked at once, and who comes to the list meanwhile waits for the next round.
 */
#include "round.h"

static void on_time(void *owner)
{
    struct round *round = owner;
    struct link due;

    /* `due` takes the place of the list in its ring, and the list is a new one. */
    list_insert(&round->members, &due);
    list_remove(&round->members);
    list_init(&round->members);
    while (!list_is_empty(&due)) {
        struct link *member = due.next;

        list_remove(member);
        list_append(&round->members, member); /* it stays, unless it is moved now */
        round->look_at(member);
    }
    if (!list_is_empty(&round->members))
        timer_start(round->loop, &round->timer, round->every_ms, on_time, round);
}

void round_init(struct round *round, struct loop *loop, int every_ms, void (*look_at)(struct link *member))
{
    *round = (struct round){.loop = loop, .every_ms = every_ms, .look_at = look_at};
    list_init(&round->members);
}

void round_add(struct round *round, struct link *member)
{
    list_remove(member);
    list_append(&round->members, member);
    if (!timer_is_running(&round->timer))
        timer_start(round->loop, &round->timer, round->every_ms, on_time, round);
}

void round_stop(struct round *round)
{
    timer_stop(&round->timer);
}
