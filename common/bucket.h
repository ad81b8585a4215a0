/*
 * bucket: carries bytes from one socket to another. A pump has one only while bytes are in flight, so an idle pair of
 * connections costs no more than its two sockets.
 *
 * There are two kinds, and the Makefile picks one:
 *   bucket_memory.c   this process's memory, by recv(2) and send(2): any Unix. Read it first.
 *   bucket_pipe.c     Linux: what is more than a few bytes goes through a kernel pipe, by splice(2), and is never copied
 *                     into this process.
 */
#ifndef COMMON_BUCKET_H
#define COMMON_BUCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct bucket;

enum { MANY_BYTES = 16 << 10 }; /* in one turn: bulk, for which a pipe is worth its system calls */

/* Where they are kept. */
struct buckets {
    struct bucket *first; /* empty ones that wait for the next bytes */
    int kept;             /* so many */
    int pipes;            /* open now, those in use too */
    int most_pipes;
};

/* most_pipes: of two descriptors each. */
void buckets_init(struct buckets *buckets, int most_pipes);
/* Frees those that are kept; the others must have been returned. */
void buckets_clear(struct buckets *buckets);

/* An empty one, to be returned; NULL, with errno, without memory. */
struct bucket *bucket_borrow(struct buckets *buckets);
/* Takes it back, with whatever is in it. NULL is none. */
void bucket_return(struct buckets *buckets, struct bucket *bucket);
bool bucket_is_empty(const struct bucket *bucket);

/* Takes what has come, as much as an empty bucket holds. many: the last turn brought many bytes. Returns what recv(2) would:
 * the bytes taken, 0 at the end of the stream, or -1 with errno. */
ssize_t bucket_fill(struct buckets *buckets, struct bucket *bucket, int source, bool many);
/* Sends what is in it, as far as there is room. more: something follows at once, and a few bytes shall wait for it. Returns
 * what send(2) would. */
ssize_t bucket_pour(struct bucket *bucket, int sink, bool more);

#endif
