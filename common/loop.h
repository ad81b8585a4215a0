/*
 * loop: waits for what happens next, and calls whoever asked to be told.
 *
 * A program that talks to many peers at once must never wait for one of them. So it hands every
 * descriptor to one loop, says what it would like to do there (read, write), and is called back at
 * the moment at which this works without waiting. Clocks and the signals that stop the program
 * come through the same loop: everything happens one after the other, in one thread.
 *
 * Watches and timers live inside the objects that need them and cost no allocation. All zeros is a
 * stopped one. A callback may start, change or stop any watch and any timer, its own included, and
 * may free the memory they are in once they are stopped.
 */
#ifndef COMMON_LOOP_H
#define COMMON_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "list.h"

struct loop;

enum {
    WATCH_READ = 1,  /* there is something to read: bytes, the end of the stream, a connection to accept */
    WATCH_WRITE = 2, /* there is room to write */
    WATCH_GONE = 4,  /* broken, or over in both directions; told whether asked for or not */
};

struct watch {
    int fd; /* belongs to the owner, never closed here */
    uint8_t interest;
    bool active;
    void (*on_ready)(void *owner, unsigned ready); /* ready: WATCH_ bits; comes again until you act on it */
    void *owner;
};

struct timer {
    struct link place; /* among the loop's timers, ordered by time */
    uint64_t due_ms;
    void (*on_due)(void *owner);
    void *owner;
};

/* Also prepares the process: its limit on open descriptors is raised as far as it goes, and a lost peer
 * raises no SIGPIPE. Returns NULL if the system refuses, and says so in the log. Freed with loop_free. */
struct loop *loop_new(void);
void loop_free(struct loop *loop);

/* Works until loop_stop, or SIGINT or SIGTERM. Returns the status that the program is to exit with: that
 * given to loop_stop, 0 after a signal, 1 if waiting keeps failing. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int status);

/* Descriptors that are set aside for the relay's pipes: a quarter of the process's limit, or 1024 of many.
 * And how many connections the process can have beside these, and beside a few descriptors of its own. */
int loop_reserve(const struct loop *loop);
int loop_capacity(const struct loop *loop);

/* On the first SIGINT or SIGTERM calls on_stop instead of stopping. A second one stops at once. */
void loop_on_stop(struct loop *loop, void (*on_stop)(void *owner), void *owner);

/* Milliseconds since some moment in the past, as of this turn of the loop. Never goes back. */
uint64_t loop_now_ms(const struct loop *loop);

/* Calls on_ready(owner, ...) from now on when fd is ready for interest, WATCH_READ, WATCH_WRITE, both or 0
 * (then only WATCH_GONE is told). Returns -1, with errno, if the system refuses. */
int watch_start(struct loop *loop, struct watch *watch, int fd, unsigned interest,
                void (*on_ready)(void *owner, unsigned ready), void *owner);
int watch_change(struct loop *loop, struct watch *watch, unsigned interest); /* starts a stopped one again */
void watch_close(struct loop *loop, struct watch *watch);                    /* watch_stop, and closes fd */
void watch_stop(struct loop *loop, struct watch *watch);                     /* before its fd is closed */

/* Calls on_due(owner) once, in ms milliseconds; 0: when the events of this turn are done. Starts over if it
 * was running. Quick when most timers of a program run for about the same time: see loop.c. */
void timer_start(struct loop *loop, struct timer *timer, int ms, void (*on_due)(void *owner), void *owner);
void timer_stop(struct timer *timer);
bool timer_is_running(const struct timer *timer);

#endif
