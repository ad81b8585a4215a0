/*
 * How it works: recv(2) copies bytes from the kernel into the bucket, send(2) copies them back. What send(2) did not take
 * stays, between from and to, for the next time.
 */
#include "bucket.h"

#include <stdlib.h>
#include <sys/socket.h>

enum { BUCKET_BYTES = 64 << 10 }; /* what a turn moves at most; larger ones were no faster */

struct bucket {
    size_t from, to; /* bytes[from] up to bytes[to] are in it */
    char bytes[BUCKET_BYTES];
};

void buckets_init(struct buckets *buckets, int most_pipes)
{
    *buckets = (struct buckets){.most_pipes = most_pipes};
}

void buckets_clear(struct buckets *buckets)
{
    (void)buckets; /* none is kept: malloc(3) does that better */
}

struct bucket *bucket_borrow(struct buckets *buckets)
{
    struct bucket *bucket = malloc(sizeof *bucket);

    (void)buckets;
    if (bucket != NULL)
        bucket->from = bucket->to = 0;
    return bucket;
}

void bucket_return(struct buckets *buckets, struct bucket *bucket)
{
    (void)buckets;
    free(bucket);
}

bool bucket_is_empty(const struct bucket *bucket)
{
    return bucket->from == bucket->to;
}

ssize_t bucket_fill(struct buckets *buckets, struct bucket *bucket, int source, bool many)
{
    ssize_t count = recv(source, bucket->bytes, sizeof bucket->bytes, 0);

    (void)buckets, (void)many;
    bucket->from = 0;
    bucket->to = count > 0 ? (size_t)count : 0;
    return count;
}

ssize_t bucket_pour(struct bucket *bucket, int sink, bool more)
{
    ssize_t count = send(sink, bucket->bytes + bucket->from, bucket->to - bucket->from, 0);

    (void)more; /* few systems know how to */
    if (count > 0)
        bucket->from += (size_t)count;
    return count;
}
