/*
 * How it works, on Linux: a few bytes are copied, as in bucket_memory.c; nothing is quicker. Once they were many, the next
 * ones go through a kernel pipe with splice(2), first from the source into the pipe, then from there to the sink: pages
 * change hands, and nothing is copied into this process. That takes 2.5 times less of the processor's time for each
 * byte, measured.
 *
 * Whatever can't be spliced is copied all the same: where there is no descriptor for a pipe, where the system refuses
 * splice(2) (some sandboxes do), and at urgent data, where it stops.
 *
 * A pipe takes two system calls to make, and two to close, so a few buckets are kept for the next bytes. One is there from
 * the start: even when no memory is left, a pair at a time goes on.
 */
#include "bucket.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PIPE_BYTES = 1 << 20, /* what a turn moves at most; and the most that an ordinary user gets: pipe(7) */
    KEPT_MAX = 16,
};

struct bucket {
    struct bucket *next; /* among those that are kept */
    int out, in;         /* the pipe's ends, to read from and to write into; both 0 where there is none */
    int pipe_size;
    size_t piped;    /* bytes in the pipe; or else: */
    size_t from, to; /* bytes[from] up to bytes[to] are in it */
    char bytes[MANY_BYTES];
};

/* --- Pipes --- */

/* All pipes of a user share 64 MiB; who is beyond gets small ones (pipe(7), pipe-user-pages-soft). So one that is small
 * asks again: by now there may be room. */
static void enlarge_pipe(struct bucket *bucket)
{
    int size = bucket->pipe_size < PIPE_BYTES ? fcntl(bucket->in, F_SETPIPE_SZ, PIPE_BYTES) : -1;

    if (size > 0)
        bucket->pipe_size = size;
}

static bool has_pipe(struct buckets *buckets, struct bucket *bucket)
{
    int fds[2];

    if (bucket->in == 0) {
        if (buckets->pipes >= buckets->most_pipes || pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0)
            return false;
        bucket->out = fds[0];
        bucket->in = fds[1];
        bucket->pipe_size = 0;
        buckets->pipes++;
    }
    enlarge_pipe(bucket);
    return true;
}

static void discard(struct buckets *buckets, struct bucket *bucket)
{
    if (bucket->in != 0) {
        close(bucket->out);
        close(bucket->in);
        buckets->pipes--;
    }
    free(bucket);
}

/* --- Buckets --- */

void buckets_init(struct buckets *buckets, int most_pipes)
{
    *buckets = (struct buckets){.most_pipes = most_pipes};
    bucket_return(buckets, bucket_borrow(buckets));
}

void buckets_clear(struct buckets *buckets)
{
    while (buckets->kept > 0)
        discard(buckets, bucket_borrow(buckets));
}

struct bucket *bucket_borrow(struct buckets *buckets)
{
    struct bucket *bucket = buckets->first;

    if (bucket == NULL)
        return calloc(1, sizeof *bucket);
    buckets->first = bucket->next;
    buckets->kept--;
    return bucket;
}

void bucket_return(struct buckets *buckets, struct bucket *bucket)
{
    if (bucket == NULL)
        return;
    if (bucket->piped > 0 ||
        buckets->kept == KEPT_MAX) { /* emptying a pipe would take as long as reading it */
        discard(buckets, bucket);
        return;
    }
    bucket->from = bucket->to = 0;
    bucket->next = buckets->first;
    buckets->first = bucket;
    buckets->kept++;
}

bool bucket_is_empty(const struct bucket *bucket)
{
    return bucket->from == bucket->to && bucket->piped == 0;
}

/* --- Bytes --- */

/* splice(2) of a socket that is broken would take its error along, unless there are bytes before it. recv(2) shall tell. */
static bool has_bytes(int source)
{
    int bytes = 0;

    return ioctl(source, FIONREAD, &bytes) == 0 && bytes > 0;
}

ssize_t bucket_fill(struct buckets *buckets, struct bucket *bucket, int source, bool many)
{
    ssize_t count = 0;

    bucket->from = bucket->to = 0;
    if (many && has_bytes(source) && has_pipe(buckets, bucket))
        count = splice(source, NULL, bucket->in, NULL, PIPE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (count > 0) {
        bucket->piped = (size_t)count;
        return count;
    }
    count = recv(source, bucket->bytes, sizeof bucket->bytes, 0);
    bucket->to = count > 0 ? (size_t)count : 0;
    return count;
}

ssize_t bucket_pour(struct bucket *bucket, int sink, bool more)
{
    ssize_t count;

    if (bucket->piped > 0) {
        count = splice(bucket->out, NULL, sink, NULL, bucket->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        bucket->piped -= count > 0 ? (size_t)count : 0;
    } else {
        count = send(sink, bucket->bytes + bucket->from, bucket->to - bucket->from, more ? MSG_MORE : 0);
        bucket->from += count > 0 ? (size_t)count : 0;
    }
    return count;
}
