/*
 * How it works: a file takes what it is given. A pipe, a terminal or a socket needs a reader, and there may be none: the
 * pipe is full, someone has pressed Ctrl-S. Then write(2) would wait, and with it every user.
 *
 * Making stderr non-blocking is no way out: it is shared with the shell and the other programs there, which would be
 * told EAGAIN, too. So select(2) is asked first whether there is room. It may be wrong: a terminal that has room for half a
 * line has room, and another program can be quicker to use it. So a timer interrupts a write that takes too long.
 */
#include "outlet.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "os.h"

enum {
    TRY_MS = 10,    /* how long one write may take */
    TRIES = 3,      /* more than one: on a busy machine the timer may go off before the write has begun */
    REST_MS = 1000, /* after the last: waiting is not to cost more than a small part of the time */
};

static bool needs_a_reader;
static bool is_torn;          /* the beginning of a line has left, but not its end */
static uint64_t rest_over_ms; /* no try before this time */

/* systemd.exec(5): JOURNAL_STREAM is "device:inode" of the socket that leads to the journal. */
static bool is_journal(const struct stat *stream)
{
    const char *journal = getenv("JOURNAL_STREAM");
    char own[64];

    snprintf(own, sizeof own, "%ju:%ju", (uintmax_t)stream->st_dev, (uintmax_t)stream->st_ino);
    return journal != NULL && strcmp(journal, own) == 0;
}

static void on_alarm(int number)
{
    (void)number; /* it has interrupted write(2): that is all it is for */
}

static void prepare_signals(void)
{
    struct sigaction action = {0}; /* without SA_RESTART: the write is not to begin anew */
    sigset_t set;

    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file as large as it may be (ulimit -f): write(2) says so */
}

enum outlet outlet_open(void)
{
    struct stat stream = {0};

    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            open("/dev/null", O_RDWR); /* becomes fd, the lowest number that is free */
    prepare_signals();
    bool is_terminal = isatty(STDERR_FILENO);
    fstat(STDERR_FILENO, &stream);
    needs_a_reader = is_terminal || S_ISFIFO(stream.st_mode) || S_ISSOCK(stream.st_mode);
    if (is_terminal)
        return OUTLET_TERMINAL;
    return is_journal(&stream) ? OUTLET_JOURNAL : OUTLET_OTHER;
}

/* select and not poll, which does not know terminals on every system. */
static bool has_room(void)
{
    struct timeval no_time = {0};
    fd_set output;

    FD_ZERO(&output);
    FD_SET(STDERR_FILENO, &output);
    return select(STDERR_FILENO + 1, NULL, &output, NULL, &no_time) != 0;
}

/* SIGALRM is to come in ms milliseconds, and again after each ms more: the first may be too early, before write(2) has
 * begun. 0: no more. */
static void set_alarm(int ms)
{
    struct timeval time = {.tv_usec = (suseconds_t)ms * 1000};

    setitimer(ITIMER_REAL, &(struct itimerval){time, time}, NULL);
}

/* Returns how many bytes have left; if not all have, with errno. */
static size_t write_all(const char *text, size_t length)
{
    size_t done = 0;

    for (int i = 0; i < TRIES && done < length; i++) {
        ssize_t written = write(STDERR_FILENO, text + done, length - done);

        if (written < 0 && errno != EINTR)
            return done;
        if (written > 0)
            done += (size_t)written;
    }
    if (done < length)
        errno = EAGAIN;
    return done;
}

static size_t write_in_time(const char *text, size_t length)
{
    set_alarm(TRY_MS);
    size_t done = write_all(text, length);
    int error = errno;

    set_alarm(0);
    if (done < length && error == EAGAIN)
        rest_over_ms = os_now_ms() + REST_MS;
    errno = error;
    return done;
}

static bool put(const char *text, size_t length)
{
    size_t done = 0;

    if (!needs_a_reader)
        done = write_all(text, length);
    else if (os_now_ms() >= rest_over_ms && has_room())
        done = write_in_time(text, length);
    else
        errno = EAGAIN;
    if (done > 0)
        is_torn = done < length;
    return done == length;
}

bool outlet_put(const char *line, size_t length)
{
    return (!is_torn || put("\n", 1)) && put(line, length);
}
