/* Makes malloc and calloc fail, to see what a program does without memory: LD_PRELOAD=malloc-shim.so MALLOC_FAILS=file
 *
 * The file holds one number, 32 bits: how many of a thousand calls fail. It is mapped, so whoever writes
 * another number there changes it while the program runs. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* glibc's own, under the names that it keeps for such purposes. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);

static volatile unsigned *per_thousand;

__attribute__((constructor)) static void open_switch(void)
{
    const char *path = getenv("MALLOC_FAILS");
    int fd = path != NULL ? open(path, O_RDONLY) : -1;
    void *page = fd >= 0 ? mmap(NULL, sizeof *per_thousand, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;

    if (page != MAP_FAILED)
        per_thousand = page;
    if (fd >= 0)
        close(fd);
}

/* Spread evenly by a generator of the simplest kind, so that a run can be repeated. */
static int fails(void)
{
    static unsigned state = 1;

    state = state * 1103515245 + 12345;
    if (per_thousand == NULL || (state >> 16) % 1000 >= *per_thousand)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails() ? NULL : __libc_calloc(count, size);
}
