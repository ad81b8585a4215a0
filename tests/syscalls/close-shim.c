/* Makes one close fail the way it fails on Linux: an error is returned, but the descriptor is closed all the same
 * (close(2), NOTES). strace -e inject can't do that: it leaves the call out.
 *
 * LD_PRELOAD=close-shim.so CLOSE_FAILS="5 EINTR": the fifth call; it says so in one line. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int close(int fd)
{
    static int calls;
    const char *fails = getenv("CLOSE_FAILS");
    int result = (int)syscall(SYS_close, fd);

    if (fails == NULL || ++calls != atoi(fails))
        return result;
    if (write(STDERR_FILENO, "close fails\n", strlen("close fails\n")) < 0)
        abort();
    errno = strstr(fails, "EINTR") != NULL ? EINTR : EIO;
    return -1;
}
