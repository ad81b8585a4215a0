/*
 * How it works: connect(2) on a non-blocking socket returns at once with EINPROGRESS; the socket becomes
 * writable when the handshake is over, and its SO_ERROR then says how it went. A timer guards against hosts
 * that never answer. Each failure moves on to the next address, until all have been tried.
 */
#include "dial.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "os.h"
#include "sock.h"

enum { DIAL_MS = 5000, BACKOFF_FIRST_MS = 500, BACKOFF_MOST_MS = 30000 };

/* A port number, or -1. */
static int parse_port(const char *text)
{
    int port = 0;

    for (const char *digit = text; *digit != '\0'; digit++) {
        if (*digit < '0' || *digit > '9' || port > 65535)
            return -1;
        port = port * 10 + (*digit - '0');
    }
    return *text != '\0' && port >= 1 && port <= 65535 ? port : -1;
}

static int set_target(struct target *target, const char *host, size_t length, int port)
{
    if (length == 0 || length >= sizeof target->host || port < 1)
        return -1;
    *target = (struct target){.port = port};
    memcpy(target->host, host, length);
    return 0;
}

int target_parse(struct target *target, const char *text, int default_port)
{
    const char *colon = strrchr(text, ':');
    const char *bracket = text[0] == '[' ? strchr(text, ']') : NULL;

    if (text[0] == '[') { /* [::1]:port or [::1] */
        if (bracket == NULL || (bracket[1] != ':' && bracket[1] != '\0'))
            return -1;
        return set_target(target, text + 1, (size_t)(bracket - text) - 1,
                          bracket[1] == ':' ? parse_port(bracket + 2) : default_port);
    }
    if (default_port == 0 && colon == NULL)
        return set_target(target, "localhost", strlen("localhost"), parse_port(text));
    if (colon == NULL || (default_port != 0 && strchr(text, ':') != colon)) /* no port; or a bare ::1 */
        return set_target(target, text, strlen(text), default_port);
    if (strchr(text, ':') != colon)
        return -1;
    return set_target(target, text, (size_t)(colon - text), parse_port(colon + 1));
}

int target_lookup(struct target *target)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char service[8];

    snprintf(service, sizeof service, "%d", target->port);
    /* No host means this one: localhost needs no look-up (RFC 6761, 6.3), nor a file /etc/hosts. */
    const char *host = strcmp(target->host, "localhost") == 0 ? NULL : target->host;
    int error = getaddrinfo(host, service, &hints, &found);
    if (error != 0) {
        complain("cannot find the host %s: %s", target->host,
                 error == EAI_SYSTEM ? errno_text() : gai_strerror(error));
        return -1;
    }
    target->count = target->first = 0;
    for (struct addrinfo *a = found; a != NULL && target->count < TARGET_ADDRESSES; a = a->ai_next) {
        target->addresses[target->count] = (struct sockaddr_storage){0};
        memcpy(&target->addresses[target->count++], a->ai_addr, a->ai_addrlen);
    }
    freeaddrinfo(found);
    return 0;
}

int target_of_peer(struct target *target, int fd, int port)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;

    *target = (struct target){.port = port};
    if (getpeername(fd, (struct sockaddr *)&peer, &size) != 0 ||
        getnameinfo((struct sockaddr *)&peer, size, target->host, sizeof target->host, NULL, 0,
                    NI_NUMERICHOST) != 0)
        return -1;
    return target_lookup(target);
}

static void close_attempt(struct dial *dial)
{
    timer_stop(&dial->timer);
    if (dial->watch.fd >= 0)
        watch_close(dial->loop, &dial->watch);
}

static void finish(struct dial *dial, int error);
static void on_connected(void *owner, unsigned ready);
static void on_timeout(void *owner);

static int connect_to(struct dial *dial, const struct sockaddr_storage *address)
{
    socklen_t size =
        address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int fd = os_socket(address->ss_family);

    dial->watch.fd = fd;
    if (fd < 0)
        return -1;
    sock_tune(fd);
    if (sock_is_loopback((const struct sockaddr *)address))
        sock_tune_local(fd);
    int result = connect(fd, (const struct sockaddr *)address, size);
    if (result != 0 && errno == EINPROGRESS) /* between programs on one machine it is over by now: ask */
        result = connect(fd, (const struct sockaddr *)address, size);
    if (result == 0) {
        finish(dial, 0);
        return 0;
    }
    if (errno != EALREADY)
        return -1;
    timer_start(dial->loop, &dial->timer, DIAL_MS, on_timeout, dial);
    return watch_start(dial->loop, &dial->watch, fd, WATCH_WRITE, on_connected, dial);
}

/* Every address has failed: the next dial looks the name up again, unless the fault was on this side. */
static void give_up(struct dial *dial)
{
    if (dial->error != EMFILE && dial->error != ENFILE && dial->error != ENOMEM)
        dial->target->count = 0;
    errno = dial->error;
    dial->on_dialed(dial->owner, -1);
}

static void try_next(void *owner)
{
    struct dial *dial = owner;
    struct target *target = dial->target;

    if (target->count == 0 && dial->tried == 0) {
        if (target_lookup(target) != 0)
            dial->error = EHOSTUNREACH;
    }
    if (dial->tried == 0)
        dial->first = target->first; /* which other dials may change */
    while (dial->tried < target->count) {
        dial->at = (dial->first + dial->tried++) % target->count;
        if (connect_to(dial, &target->addresses[dial->at]) == 0)
            return;
        dial->error = errno;
        close_attempt(dial);
    }
    give_up(dial);
}

/* Where nobody listens on a port of this machine, the kernel may pick that very port for the dialing end,
 * and the two SYNs meet (RFC 9293, 3.5: simultaneous open). It would be a connection with oneself. */
static bool is_own_address(int fd, const struct sockaddr_storage *address)
{
    struct sockaddr_storage own = {0};
    socklen_t size = sizeof own;

    return getsockname(fd, (struct sockaddr *)&own, &size) == 0 && memcmp(&own, address, sizeof own) == 0;
}

/* The attempt is over. */
static void finish(struct dial *dial, int error)
{
    int fd = dial->watch.fd;

    if (error == 0 && is_own_address(fd, &dial->target->addresses[dial->at]))
        error = ECONNREFUSED;
    if (error != 0) {
        dial->error = error;
        close_attempt(dial);
        try_next(dial);
        return;
    }
    watch_stop(dial->loop, &dial->watch);
    timer_stop(&dial->timer);
    dial->watch.fd = -1; /* it is handed on */
    dial->target->first = dial->at;
    dial->on_dialed(dial->owner, fd);
}

static void on_connected(void *owner, unsigned ready)
{
    struct dial *dial = owner;

    (void)ready;
    finish(dial, sock_error(dial->watch.fd));
}

static void on_timeout(void *owner)
{
    finish(owner, ETIMEDOUT);
}

void dial_start(struct dial *dial, struct loop *loop, struct target *target,
                void (*on_dialed)(void *owner, int fd), void *owner)
{
    *dial =
        (struct dial){.loop = loop, .target = target, .on_dialed = on_dialed, .owner = owner, .watch.fd = -1};
    timer_start(loop, &dial->timer, 0, try_next, dial);
}

void dial_stop(struct dial *dial)
{
    if (dial->loop != NULL)
        close_attempt(dial);
}

int backoff_ms(int *last_ms)
{
    uint16_t chance;

    *last_ms = *last_ms == 0 ? BACKOFF_FIRST_MS : 2 * *last_ms;
    if (*last_ms > BACKOFF_MOST_MS)
        *last_ms = BACKOFF_MOST_MS;
    if (getentropy(&chance, sizeof chance) != 0)
        chance = 1 << 15; /* then without jitter */
    return *last_ms * 3 / 4 + *last_ms / 2 * chance / 65536;
}
