/*
 * names: a name service of the test's own. Include it in one file of a test program: the linker then takes
 * getaddrinfo from here instead of the C library's. Numbers are told as ever; every name has the addresses in
 * `known`, in that order.
 */
#ifndef TESTS_NAMES_H
#define TESTS_NAMES_H

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *known[32];
static int names_error = EAI_NONAME;                             /* what is answered if there are none */
static int names_errno;                                          /* along with EAI_SYSTEM */
static atomic_int lookups;                                       /* names asked for so far */
static pthread_mutex_t names_silent = PTHREAD_MUTEX_INITIALIZER; /* while it is locked, nothing is answered */

static void names_begin(void)
{
    memset(known, 0, sizeof known);
    lookups = 0;
    names_error = EAI_NONAME;
}

static struct addrinfo *make_answer(const char *address, int port, struct addrinfo *next)
{
    struct addrinfo *info = calloc(1, sizeof *info + sizeof(struct sockaddr_in6));
    struct sockaddr_in *v4 = (struct sockaddr_in *)(info + 1);
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(info + 1);

    info->ai_next = next;
    info->ai_addr = (struct sockaddr *)(info + 1);
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        info->ai_addrlen = sizeof *v4;
    } else {
        inet_pton(AF_INET6, address, &v6->sin6_addr);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        info->ai_addrlen = sizeof *v6;
    }
    return info;
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    unsigned char bytes[16];
    int port = atoi(service), names = 0;

    *found = NULL;
    if (host == NULL) /* localhost */
        *found = make_answer("::1", port, make_answer("127.0.0.1", port, NULL));
    else if (inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1)
        *found = make_answer(host, port, NULL);
    if (*found != NULL)
        return 0;
    if (hints->ai_flags & AI_NUMERICHOST)
        return EAI_NONAME;
    lookups++;
    pthread_mutex_lock(&names_silent);
    while (known[names] != NULL)
        names++;
    while (names > 0)
        *found = make_answer(known[--names], port, *found);
    pthread_mutex_unlock(&names_silent);
    errno = names_errno;
    return *found != NULL ? 0 : names_error;
}

void freeaddrinfo(struct addrinfo *info)
{
    while (info != NULL) {
        struct addrinfo *next = info->ai_next;
        free(info);
        info = next;
    }
}

#endif
