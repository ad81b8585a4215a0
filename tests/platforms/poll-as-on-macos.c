/*
 * Linked into a program, this has poll(2) on Linux tell what it tells on macOS: there is no Mac here, and its poll is
 * not like others'. What it imitates stands in xnu, macOS's kernel, which is published:
 *
 *   bsd/kern/sys_generic.c   poll() makes two kqueue filters of each descriptor: one that reads if POLLIN is asked for,
 *                            one that writes if POLLOUT is. With neither there is none, so nothing is told, not even a
 *                            reset. Of more than OPEN_MAX descriptors it says EINVAL.
 *                            poll_callback() turns what the filters say into events: the end of a stream is POLLHUP, and
 *                            after that no POLLOUT. POLLERR is told of no socket.
 *   bsd/kern/uipc_socket.c   filt_soread_common() calls it the end as soon as the peer has ended its direction;
 *                            filt_sowrite_common() once nothing can be sent any more: after a reset, a refused
 *                            connection, our own shutdown. (This last one is not imitated: Linux does not say.)
 *
 * Elsewhere POLLHUP means that both directions are over. So a program that believes this takes each half-close for
 * a reset on macOS, and one that counts on POLLERR waits for ever.
 */
#undef _FORTIFY_SOURCE /* it wraps poll, which is defined here */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>

enum { MACOS_OPEN_MAX = 10240 };

/* What macOS says where Linux says `told_by_linux`. */
static short as_on_macos(short asked, short told_by_linux)
{
    short told = 0;

    if (told_by_linux & POLLNVAL)
        return POLLNVAL;
    if ((asked & POLLIN) && (told_by_linux & (POLLRDHUP | POLLHUP)))
        told |= POLLIN | POLLHUP;
    if ((asked & POLLOUT) && (told_by_linux & (POLLERR | POLLHUP)))
        told |= POLLHUP;
    if ((asked & POLLIN) && (told_by_linux & (POLLIN | POLLERR)))
        told |= POLLIN;
    if ((asked & POLLOUT) && (told_by_linux & POLLOUT) && !(told & POLLHUP))
        told |= POLLOUT;
    return told;
}

/* How Linux is asked: for the end of one direction, too, and for nothing where macOS would have no filter. */
static struct pollfd to_linux(struct pollfd asked)
{
    if (!(asked.events & (POLLIN | POLLOUT)))
        return (struct pollfd){.fd = -1};
    return (struct pollfd){asked.fd, (short)(asked.events | ((asked.events & POLLIN) ? POLLRDHUP : 0)), 0};
}

int poll(struct pollfd *fds, nfds_t count, int ms)
{
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000L};
    struct pollfd *linux_fds = calloc(count + 1, sizeof *linux_fds);
    int ready = -1;

    if (linux_fds == NULL || count > MACOS_OPEN_MAX) {
        errno = linux_fds == NULL ? EAGAIN : EINVAL;
    } else {
        for (nfds_t i = 0; i < count; i++)
            linux_fds[i] = to_linux(fds[i]);
        ready = ppoll(linux_fds, count, ms >= 0 ? &wait : NULL, NULL);
    }
    for (nfds_t i = 0; i < count && ready >= 0; i++)
        fds[i].revents = as_on_macos(fds[i].events, linux_fds[i].revents);
    free(linux_fds);
    return ready;
}
