/*
 * How it works: what was typed is taken apart, and is an address at once or a name. Dials pick the addresses of a name one
 * after the other. When all have been tried in vain, the name is looked up; only then they are all new again, and the next
 * round begins.
 */
#include "target.h"

#include <errno.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "log.h"

enum {
    ANSWER_AGES_MS = 10000, /* from then on the host may have moved */
    ASK_AGAIN_MS = 300,     /* at the earliest, if the last answer was of no use */
    PATH_MOST = 103,        /* bytes, fit into sun_path on every system */
};

/* ---- what was typed ---- */

/* The only one, which needs no look-up. */
static int set_address(struct target *target, void *address, socklen_t size)
{
    struct addrinfo only = {.ai_addr = address, .ai_addrlen = size};

    return addresses_set(&target->addresses, &only);
}

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

/* Numbers are addresses already. So is localhost, whatever a name service would say: getaddrinfo(3) without a host knows
 * this machine's. */
static int set_target(struct target *target, const char *host, size_t length, int port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *found;
    char service[12];

    if (length == 0 || length >= sizeof target->host || port < 1)
        return -1;
    target->port = port;
    memcpy(target->host, host, length);
    snprintf(target->text, sizeof target->text, "%s port %d", target->host, port);
    snprintf(service, sizeof service, "%d", port);
    bool is_local = strcasecmp(target->host, "localhost") == 0;
    if (getaddrinfo(is_local ? NULL : target->host, service, &hints, &found) != 0)
        return 0; /* it is a name */
    int result = addresses_set(&target->addresses, found);
    freeaddrinfo(found);
    target->host[0] = '\0';
    return result;
}

static int set_path(struct target *target, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) > PATH_MOST || strcspn(path, ":") < strcspn(path, "/")) /* host:port/..., http://... */
        return -1;
    memcpy(address.sun_path, path, strlen(path));
    snprintf(target->text, sizeof target->text, "the socket %s", path);
    return set_address(target, &address, sizeof address);
}

int target_parse(struct target *target, const char *text, int default_port)
{
    const char *colon = strrchr(text, ':');
    const char *bracket = text[0] == '[' ? strchr(text, ']') : NULL;

    *target = (struct target){0};
    list_init(&target->waiting);
    if (strchr(text, '/') != NULL)
        return default_port == 0 ? set_path(target, text) : -1;
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

int target_of_peer(struct target *target, int fd, int port)
{
    struct address peer = {.size = sizeof peer.storage};
    struct sockaddr *address = (struct sockaddr *)&peer.storage;

    target_clear(target);
    if (getpeername(fd, address, &peer.size) != 0)
        return -1;
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
    getnameinfo(address, peer.size, target->host, sizeof target->host, NULL, 0, NI_NUMERICHOST);
    snprintf(target->text, sizeof target->text, "%s port %d", target->host, port);
    target->host[0] = '\0';
    if (set_address(target, address, peer.size) != 0)
        return -1;
    target->addresses.all[0].standing = ADDRESS_GOOD;
    return 0;
}

void target_clear(struct target *target)
{
    lookup_stop(&target->lookup);
    addresses_clear(&target->addresses);
    *target = (struct target){0};
    list_init(&target->waiting);
}

/* ---- looking names up ---- */

static void on_answered(void *owner, const struct answer *answer)
{
    struct target *target = owner;
    struct loop *loop = target->lookup.loop;
    const char *why = answer->why;

    if (why == NULL && addresses_set(&target->addresses, answer->found) != 0)
        why = errno_text();
    target->answered_ms = loop_now_ms(loop);
    snprintf(target->trouble, sizeof target->trouble, "%s", why != NULL ? why : "");
    if (answer->no_such_name && target->addresses.count == 0) {
        complain("cannot find the host %s: %s", target->host, why);
        loop_stop(loop, 1);
        return;
    }
    while (!list_is_empty(&target->waiting)) {
        struct target_waiter *waiter = (struct target_waiter *)target->waiting.next;
        list_remove(&waiter->place);
        waiter->on_answer(waiter->owner);
    }
}

static int ask(struct target *target, struct loop *loop)
{
    if (target->host[0] == '\0' || lookup_is_running(&target->lookup))
        return 0;
    int result = lookup_start(&target->lookup, loop, target->host, target->port, on_answered, target);
    if (result != 0)
        snprintf(target->trouble, sizeof target->trouble, "%s", errno_text());
    return result;
}

int target_lookup(struct target *target, struct loop *loop)
{
    if (ask(target, loop) == 0)
        return 0;
    complain("cannot find the host %s: %s", target->host, target->trouble);
    return -1;
}

void target_refresh(struct target *target, struct loop *loop)
{
    bool has_one = addresses_pick(&target->addresses) != NULL;
    uint64_t age_ms = loop_now_ms(loop) - target->answered_ms;

    if (age_ms >= (has_one ? ANSWER_AGES_MS : ASK_AGAIN_MS))
        ask(target, loop);
    if (!lookup_is_running(&target->lookup))
        addresses_start_over(&target->addresses);
}

bool target_wait(struct target *target, struct target_waiter *waiter, void (*on_answer)(void *owner),
                 void *owner)
{
    if (!lookup_is_running(&target->lookup))
        return false;
    *waiter = (struct target_waiter){.on_answer = on_answer, .owner = owner};
    list_append(&target->waiting, &waiter->place);
    return true;
}
