/*
 * world: what is around the code that is being fuzzed, and how to say that it did wrong.
 *
 * The modules of common/ are compiled with a few functions of the system renamed (see ./run), so that they end up here:
 * - The clock stands still until a target moves it on. So a run never waits, and is the same each time.
 * - When the loop has nothing to do and would wait, the target takes its next step instead: world.on_idle. A loop
 *   that never comes to that is spinning, which is a finding.
 * - Files and environment are pieces of the input. The kernel may take less than it is given.
 */
#ifndef FUZZ_WORLD_H
#define FUZZ_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>

struct world {
    void (*on_idle)(void *owner); /* everything that can be done without waiting is done */
    void *owner;
    size_t send_most;        /* bytes that the kernel takes at a time; 0: as many as it has room for */
    const char *secret_file; /* what each file contains; NULL: there are none */
    size_t secret_file_size;
    const char *environment; /* each of its variables; NULL: there are none */
};

extern struct world world;

void world_move_clock(int ms);

/* A finding: says what is wrong, and ends the process the way libFuzzer notices. */
__attribute__((format(printf, 1, 2))) noreturn void finding(const char *format, ...);

/* Remembers which descriptors are open; then says whether these are the same. */
void descriptors_remember(void);
void descriptors_check(void);

/* A malloc'd string, no byte longer than it must be. */
char *exact_string(const uint8_t *bytes, size_t size);

/* What libFuzzer calls: once, and then for each input. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
