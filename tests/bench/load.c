/* load: the users and the local app of the benchmark, where a script would be the bottleneck.
 *
 *   load echo         an echo server on a free port of 127.0.0.1, which it prints
 *   load users ADDRESS PORT
 *                     users of ADDRESS:PORT; takes commands, a line each, answers each with a line:
 *
 *     open N        N more users, all at once; each sends a line and awaits its echo
 *                   -> ok SECONDS                       until the last of them has its echo
 *     ask N MS      the first N users send a line and await its echo, over and over, for MS milliseconds
 *                   -> ok ROUND_TRIPS_A_SECOND P50_US P99_US ROUND_TRIPS
 *     first N       N new users one after another, each gone before the next comes
 *                   -> ok P50_US P99_US                 from connect() to the first byte of the echo
 *     pour MS       the first user sends all it can for MS milliseconds and reads it back
 *                   -> ok BYTES SECONDS                 bytes that came back
 *
 * A line carries its sender's number, so an echo that reaches the wrong user is noticed. What goes wrong
 * is answered with `error WHY`. Users of 127.0.0.1 come from 127.0.0.2 to 127.0.0.9 in turn: one address has
 * only some 28,000 ports for one destination, and each is out of use for a while after its connection ended. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_USERS = 60000,
    BATCH = 512,
    LINE = 16,          /* bytes of a user's line */
    CHUNK = 128 * 1024, /* bytes read or written at a time in bulk */
    PATIENCE = 60       /* seconds until a command is given up */
};

struct user {
    int fd;
    unsigned number;
    unsigned received; /* bytes of the echo so far */
    double asked_at;
};

static struct user users[MAX_USERS];
static unsigned user_count;
static int epoll_fd;
static struct sockaddr_in destination = {.sin_family = AF_INET};
static char chunk[CHUNK];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void allow_many_descriptors(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void watch(int fd, uint32_t events, void *owner, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = owner};
    if (epoll_ctl(epoll_fd, operation, fd, &event) < 0)
        die("epoll_ctl");
}

static void set_nodelay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* ---- the echo server ------------------------------------------------------------------------------ */

/* What could not be sent back yet; nothing is read meanwhile. */
struct echo {
    int fd;
    char *rest;
    size_t start, length;
};

static void echo_close(struct echo *echo)
{
    close(echo->fd);
    free(echo->rest);
    free(echo);
}

static void echo_keep(struct echo *echo, const char *bytes, size_t length)
{
    echo->rest = malloc(length);
    if (!echo->rest)
        die("malloc");
    memcpy(echo->rest, bytes, length);
    echo->start = 0;
    echo->length = length;
    watch(echo->fd, EPOLLOUT, echo, EPOLL_CTL_MOD);
}

static void echo_flush(struct echo *echo)
{
    ssize_t n = send(echo->fd, echo->rest + echo->start, echo->length - echo->start, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        echo_close(echo);
        return;
    }
    echo->start += n > 0 ? (size_t)n : 0;
    if (echo->start == echo->length) {
        free(echo->rest);
        echo->rest = NULL;
        watch(echo->fd, EPOLLIN, echo, EPOLL_CTL_MOD);
    }
}

static void echo_turn(struct echo *echo)
{
    ssize_t n = recv(echo->fd, chunk, CHUNK, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        echo_close(echo);
        return;
    }
    ssize_t sent = send(echo->fd, chunk, (size_t)n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        echo_close(echo);
    else if (sent < n)
        echo_keep(echo, chunk + (sent > 0 ? sent : 0), (size_t)(n - (sent > 0 ? sent : 0)));
}

static void echo_accept(int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct echo *echo = calloc(1, sizeof *echo);
        if (!echo)
            die("calloc");
        echo->fd = fd;
        set_nodelay(fd);
        watch(fd, EPOLLIN, echo, EPOLL_CTL_ADD);
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        die("accept");
}

static _Noreturn void serve_echoes(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) < 0 ||
        listen(listener, SOMAXCONN) < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        die("listen");
    watch(listener, EPOLLIN, NULL, EPOLL_CTL_ADD);
    printf("%d\n", ntohs(address.sin_port));
    for (;;) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(epoll_fd, events, BATCH, -1);
        for (int i = 0; i < n; i++) {
            struct echo *echo = events[i].data.ptr;
            if (!echo)
                echo_accept(listener);
            else if (echo->rest)
                echo_flush(echo);
            else
                echo_turn(echo);
        }
    }
}

/* ---- users ---------------------------------------------------------------------------------------- */

/* Returns NULL, or what went wrong. Does not wait for the connection. */
static const char *dial(struct user *user)
{
    static unsigned dialled;
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + dialled % 8)};
    bool is_local = destination.sin_addr.s_addr == htonl(INADDR_LOOPBACK);
    int on = 1;
    user->number = dialled++;
    user->received = 0;
    user->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (user->fd < 0)
        return strerror(errno);
    set_nodelay(user->fd);
    setsockopt(user->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (is_local && bind(user->fd, (struct sockaddr *)&from, sizeof from) < 0)
        return strerror(errno);
    if (connect(user->fd, (struct sockaddr *)&destination, sizeof destination) < 0 && errno != EINPROGRESS)
        return strerror(errno);
    return NULL;
}

static const char *ask(struct user *user)
{
    char line[LINE + 1];
    snprintf(line, sizeof line, "user %010u\n", user->number);
    user->received = 0;
    user->asked_at = now();
    if (send(user->fd, line, LINE, MSG_NOSIGNAL) != LINE)
        return "a line could not be sent";
    return NULL;
}

/* Sets *whole once the whole line has come back. */
static const char *hear(struct user *user, bool *whole)
{
    char expected[LINE + 1], line[LINE];
    ssize_t n = recv(user->fd, line, LINE - user->received, 0);
    *whole = false;
    if (n < 0)
        return errno == EAGAIN ? NULL : strerror(errno);
    if (n == 0)
        return "a user was hung up on";
    snprintf(expected, sizeof expected, "user %010u\n", user->number);
    if (memcmp(line, expected + user->received, (size_t)n) != 0)
        return "a user got bytes that are not its own";
    user->received += (unsigned)n;
    *whole = user->received == LINE;
    return NULL;
}

static const char *open_users(unsigned more)
{
    if (user_count + more > MAX_USERS)
        return "too many users";
    double start = now();
    unsigned dialled = 0, served = 0;
    const char *wrong = NULL;
    while (served < more) {
        if (now() - start > PATIENCE)
            return "not all users were served in time";
        for (int i = 0; i < BATCH && dialled < more; i++, dialled++) {
            struct user *user = &users[user_count++];
            if ((wrong = dial(user)))
                return wrong;
            watch(user->fd, EPOLLOUT, user, EPOLL_CTL_ADD);
        }
        struct epoll_event events[BATCH];
        int n = epoll_wait(epoll_fd, events, BATCH, dialled < more ? 0 : 1000);
        for (int i = 0; i < n && !wrong; i++) {
            struct user *user = events[i].data.ptr;
            bool whole = false;
            if (events[i].events & EPOLLOUT) {
                wrong = ask(user);
                watch(user->fd, EPOLLIN, user, EPOLL_CTL_MOD);
            } else {
                wrong = hear(user, &whole);
            }
            served += whole;
        }
        if (wrong)
            return wrong;
    }
    printf("ok %.6f\n", now() - start);
    return NULL;
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(const float *sorted, size_t count, double share)
{
    return count ? 1e6 * (double)sorted[(size_t)(share * (double)(count - 1))] : 0;
}

static const char *ask_users(unsigned asking, double seconds)
{
    static float took[1 << 22];
    size_t count = 0, room = sizeof took / sizeof *took;
    if (asking > user_count)
        return "not so many users";
    const char *wrong = NULL;
    double start = now(), end = start + seconds, t = start;
    for (unsigned i = 0; i < asking && !wrong; i++)
        wrong = ask(&users[i]);
    unsigned outstanding = asking;
    while (outstanding && !wrong) {
        if (t > end + PATIENCE)
            return "not all users were answered in time";
        struct epoll_event events[BATCH];
        int n = epoll_wait(epoll_fd, events, BATCH, 1000);
        for (int i = 0; i < n && !wrong; i++) {
            struct user *user = events[i].data.ptr;
            bool whole;
            wrong = hear(user, &whole);
            if (!whole)
                continue;
            t = now();
            if (count < room)
                took[count++] = (float)(t - user->asked_at);
            if (t < end)
                wrong = ask(user);
            else
                outstanding--;
        }
        t = now();
    }
    if (wrong)
        return wrong;
    qsort(took, count, sizeof *took, compare);
    printf("ok %.1f %.1f %.1f %zu\n", (double)count / (t - start), percentile(took, count, 0.5),
           percentile(took, count, 0.99), count);
    return NULL;
}

static bool wait_for(int fd, uint32_t what)
{
    struct epoll_event event = {.events = what};
    int own = epoll_create1(0);
    epoll_ctl(own, EPOLL_CTL_ADD, fd, &event);
    int n = epoll_wait(own, &event, 1, PATIENCE * 1000);
    close(own);
    return n == 1;
}

static const char *first_bytes(unsigned count)
{
    float *took = calloc(count, sizeof *took);
    const char *wrong = took ? NULL : "no memory";
    for (unsigned i = 0; i < count && !wrong; i++) {
        struct user user;
        bool whole = false;
        double start = now();
        wrong = dial(&user);
        if (!wrong && wait_for(user.fd, EPOLLOUT))
            wrong = ask(&user);
        if (!wrong && !wait_for(user.fd, EPOLLIN))
            wrong = "no echo in time";
        took[i] = (float)(now() - start);
        while (!wrong && !whole)
            wrong = hear(&user, &whole);
        close(user.fd);
    }
    if (!wrong) {
        qsort(took, count, sizeof *took, compare);
        printf("ok %.1f %.1f\n", percentile(took, count, 0.5), percentile(took, count, 0.99));
    }
    free(took);
    return wrong;
}

static const char *pour(double seconds)
{
    if (!user_count)
        return "no user";
    int fd = users[0].fd;
    double start = now(), t = start;
    size_t sent = 0, received = 0;
    while (t < start + seconds || received < sent) {
        struct epoll_event event = {.events = 0};
        uint32_t interest = t < start + seconds ? EPOLLIN | EPOLLOUT : EPOLLIN;
        watch(fd, interest, &users[0], EPOLL_CTL_MOD);
        if (epoll_wait(epoll_fd, &event, 1, 1000) < 0 || t > start + seconds + PATIENCE)
            return "not all came back in time";
        ssize_t n = (event.events & EPOLLIN) ? recv(fd, chunk, CHUNK, 0) : 0;
        if (n < 0 || (n == 0 && (event.events & EPOLLIN)))
            return "hung up on";
        received += (size_t)n;
        n = (event.events & EPOLLOUT) ? send(fd, chunk, CHUNK, MSG_NOSIGNAL) : 0;
        if (n < 0 && errno != EAGAIN)
            return strerror(errno);
        sent += n > 0 ? (size_t)n : 0;
        t = now();
    }
    watch(fd, EPOLLIN, &users[0], EPOLL_CTL_MOD);
    printf("ok %zu %.6f\n", received, t - start);
    return NULL;
}

static int be_users(void)
{
    char command[128];
    unsigned n, ms;
    while (fgets(command, sizeof command, stdin)) {
        const char *wrong = "what?";
        if (sscanf(command, "open %u", &n) == 1)
            wrong = open_users(n);
        else if (sscanf(command, "ask %u %u", &n, &ms) == 2)
            wrong = ask_users(n, ms / 1e3);
        else if (sscanf(command, "first %u", &n) == 1)
            wrong = first_bytes(n);
        else if (sscanf(command, "pour %u", &ms) == 1)
            wrong = pour(ms / 1e3);
        if (wrong)
            printf("error %s\n", wrong);
    }
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    allow_many_descriptors();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        die("epoll_create1");
    if (argc == 2 && strcmp(argv[1], "echo") == 0)
        serve_echoes();
    if (argc == 4 && strcmp(argv[1], "users") == 0 &&
        inet_pton(AF_INET, argv[2], &destination.sin_addr) == 1) {
        destination.sin_port = htons((uint16_t)atoi(argv[3]));
        return be_users();
    }
    fprintf(stderr, "usage: load echo | load users ADDRESS PORT\n");
    return 2;
}
