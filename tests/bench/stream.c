/* stream: long transfers over a distance, and the local app of both these and load.c's users.
 *
 *   stream app                        an app on a free port of all addresses, which it prints
 *   stream down ADDRESS PORT N MS     N downloads at once, for MS milliseconds
 *                                     -> a line of N numbers: the bytes that each of them got
 *   stream up ADDRESS PORT MS         an upload -> the bytes that the app got in MS milliseconds
 *
 * The app does what a connection's first line says: `down` is answered with bytes without end; after `up MS` it reads
 * for so long, then says how many bytes came; whatever else comes is sent back, for load.c's small requests. A thread
 * for each connection, and each call may wait: nothing here is as fast as it could be, but a line of 100 Mbit/s is slower,
 * and a sender that waits in send() has no tricks that a tunnel could be missing. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 64 * 1024, DOWNLOADS_MAX = 64 };

static struct sockaddr_in destination = {.sin_family = AF_INET};
static double deadline;
static const char bytes[CHUNK];

static void die(const char *what)
{
    fprintf(stderr, "stream: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void in_thread(void *(*work)(void *), void *argument, pthread_t *thread)
{
    if (pthread_create(thread, NULL, work, argument) != 0)
        die("thread");
}

/* Sends until the peer is gone. */
static void pour(int fd)
{
    while (send(fd, bytes, CHUNK, MSG_NOSIGNAL) > 0)
        ;
}

/* Reads until the deadline or the end, at least once; returns how many bytes came. */
static uint64_t drink(int fd, double until)
{
    char chunk[CHUNK];
    uint64_t total = 0;
    ssize_t n;

    while ((n = recv(fd, chunk, CHUNK, 0)) > 0) {
        total += (uint64_t)n;
        if (now() >= until)
            break;
    }
    return total;
}

/* ---- the app -------------------------------------------------------------------------------------- */

static void *serve(void *argument)
{
    int fd = (int)(intptr_t)argument;
    char line[CHUNK];
    unsigned ms;
    ssize_t n = recv(fd, line, sizeof line - 1, 0); /* a first line is one small packet: it comes whole */

    line[n > 0 ? n : 0] = '\0';
    if (strncmp(line, "down\n", 5) == 0) {
        pour(fd);
    } else if (sscanf(line, "up %u", &ms) == 1) {
        dprintf(fd, "%llu\n", (unsigned long long)drink(fd, now() + ms / 1e3));
        drink(fd, now() + 3600); /* until it is closed: closing with bytes unread would be a reset */
    } else {
        while (n > 0 && send(fd, line, (size_t)n, MSG_NOSIGNAL) == n)
            n = recv(fd, line, sizeof line, 0);
    }
    close(fd);
    return NULL;
}

static _Noreturn void be_app(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;

    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* those it accepts have it, too */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, SOMAXCONN) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        die("listen");
    printf("%d\n", ntohs(address.sin_port));
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;

        if (fd < 0)
            die("accept");
        in_thread(serve, (void *)(intptr_t)fd, &thread);
        pthread_detach(thread);
    }
}

/* ---- its users ------------------------------------------------------------------------------------ */

static int dial(const char *first_line)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&destination, sizeof destination) < 0 ||
        send(fd, first_line, strlen(first_line), MSG_NOSIGNAL) < 0)
        die("connect");
    return fd;
}

static void *download(void *argument)
{
    int fd = dial("down\n");

    *(uint64_t *)argument = drink(fd, deadline);
    close(fd);
    return NULL;
}

static void be_downloads(int count, double seconds)
{
    pthread_t threads[DOWNLOADS_MAX];
    uint64_t got[DOWNLOADS_MAX] = {0};

    deadline = now() + seconds;
    for (int i = 0; i < count; i++)
        in_thread(download, &got[i], &threads[i]);
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        printf("%llu%c", (unsigned long long)got[i], i + 1 < count ? ' ' : '\n');
    }
}

static void *pour_in_thread(void *argument)
{
    pour((int)(intptr_t)argument);
    return NULL;
}

static void be_upload(const char *ms)
{
    char line[64];
    snprintf(line, sizeof line, "up %s\n", ms);
    int fd = dial(line);
    pthread_t thread;

    in_thread(pour_in_thread, (void *)(intptr_t)fd, &thread);
    ssize_t n = recv(fd, line, sizeof line, 0);
    if (n <= 0)
        die("no answer to an upload");
    printf("%.*s", (int)n, line);
}

static _Noreturn void usage(void)
{
    fprintf(stderr, "usage: stream app | stream down ADDRESS PORT N MS | stream up ADDRESS PORT MS\n");
    exit(2);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && strcmp(argv[1], "app") == 0)
        be_app();
    if (argc < 5 || inet_pton(AF_INET, argv[2], &destination.sin_addr) != 1)
        usage();
    destination.sin_port = htons((uint16_t)atoi(argv[3]));
    if (argc == 6 && strcmp(argv[1], "down") == 0 && atoi(argv[4]) <= DOWNLOADS_MAX)
        be_downloads(atoi(argv[4]), atoi(argv[5]) / 1e3);
    else if (argc == 5 && strcmp(argv[1], "up") == 0)
        be_upload(argv[4]);
    else
        usage();
    return 0;
}
