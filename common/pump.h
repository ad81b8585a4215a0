/*
 * pump: moves the bytes of one direction, as far as this works without waiting. It is always in one of three states:
 *
 *                   bytes have come
 *    FILLING  --------------------------->  DRAINING
 *   waits for its  <---------------------  waits for its
 *      source       all have gone out          sink
 *        |                                      |
 *        | end of the stream,                   | an end is
 *        | or an end is broken                  | broken
 *        +--------------->  ENDED  <------------+
 *
 * It reads nothing while it has something to send. So a sink that takes nothing stops its source, too.
 */
#ifndef COMMON_PUMP_H
#define COMMON_PUMP_H

#include <stdbool.h>
#include <stdint.h>

#include "bucket.h"

enum pump_state { FILLING, DRAINING, ENDED };

struct pump {
    struct bucket *bucket; /* NULL unless it is draining */
    uint64_t moved;        /* bytes so far */
    uint32_t
        arrived; /* of them, when pump_is_stuck was last asked: the low bits, which do for a comparison */
    uint16_t in_vain; /* so often it has been asked since more had arrived */
    bool many;        /* the last turn moved many bytes: so will the next one, most likely */
    uint8_t state;    /* enum pump_state */
};

/* What came of a turn. After all but the first it is for the caller to end the pump. */
enum pumped {
    GOES_ON,
    SOURCE_ENDED,  /* it will send nothing more, and all that it sent has gone out */
    SOURCE_BROKEN, /* the same, but this was no orderly end */
    SINK_BROKEN,   /* it takes nothing any more */
    NO_MEMORY,     /* for a bucket */
};

/* One turn: takes in what has come from source, and sends it to sink as far as it goes. If there is more, the loop tells
 * of it again. last: what has come is known to be the last. Both descriptors must not block; they stay the caller's. */
enum pumped pump_turn(struct pump *pump, struct buckets *buckets, int source, int sink, bool last);
/* To be asked now and then, with the bytes that have left the pump but not arrived at the sink yet. Whether nothing more has
 * arrived there the last so many times. */
bool pump_is_stuck(struct pump *pump, uint64_t under_way, int times);
/* No more turns. What is still in flight is lost. */
void pump_end(struct pump *pump, struct buckets *buckets);

#endif
