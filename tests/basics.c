#include "basics.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DESCRIPTORS = 4096 }; /* none that a test opens has a higher number */

double slowness(void)
{
    const char *factor = getenv("TEST_PATIENCE");

    return factor != NULL && atof(factor) > 0 ? atof(factor) : 1;
}

/* ---- addresses and ports ---- */

socklen_t make_address(const char *text, int port, struct sockaddr_storage *storage)
{
    struct sockaddr_in *four = (struct sockaddr_in *)storage;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)storage;

    *storage = (struct sockaddr_storage){0};
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        return sizeof *four;
    }
    inet_pton(AF_INET6, text, &six->sin6_addr);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons((uint16_t)port);
    return sizeof *six;
}

int port_of(int fd)
{
    struct sockaddr_storage storage = {0};
    socklen_t size = sizeof storage;

    getsockname(fd, (struct sockaddr *)&storage, &size);
    return ntohs(storage.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&storage)->sin6_port
                                               : ((struct sockaddr_in *)&storage)->sin_port);
}

bool has_ipv6(void)
{
    int fd = bound_to("::1", 0);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

int bound_to(const char *address, int port)
{
    struct sockaddr_storage storage;
    socklen_t size = make_address(address, port, &storage);
    int fd = socket(storage.ss_family, SOCK_STREAM, 0), only_v6 = strcmp(address, "::") != 0;

    if (fd < 0)
        return -1;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)); /* beside one that does not listen */
    if (storage.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof only_v6);
    if (bind(fd, (struct sockaddr *)&storage, size) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

void reset_when_closed(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

/* ---- descriptors ---- */

static int count_own(void)
{
    int count = 0;

    for (int fd = 0; fd < DESCRIPTORS; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

int descriptors_of(pid_t process)
{
    char path[50];
    int count = 0;

    if (process == getpid()) /* which can be known on any system */
        return count_own();
    snprintf(path, sizeof path, "/proc/%d/fd", (int)process);
    DIR *directory = opendir(path);
    if (directory == NULL)
        return -1;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count - 2; /* . and .. */
}
