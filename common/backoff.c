/* How it works: exponential backoff, with jitter: the pause doubles, and chance moves it a little. */
#include "backoff.h"

#include <stdint.h>

#include "os.h"

int backoff_ms(int *last_ms)
{
    uint16_t chance;

    *last_ms = *last_ms == 0 ? BACKOFF_FIRST_MS : 2 * *last_ms;
    if (*last_ms > BACKOFF_MOST_MS)
        *last_ms = BACKOFF_MOST_MS;
    if (os_random(&chance, sizeof chance) != 0)
        chance = 1 << 15; /* then without jitter */
    return *last_ms * 3 / 4 + *last_ms / 2 * chance / 65536;
}
