/* How it works: a socket option, tried out on a socket that is good for nothing else. */
#include "congestion.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "os.h"

/* What tcp(7) calls tcp_allowed_congestion_control: "reno cubic". An administrator may choose any. */
static void read_allowed(char *names, size_t size)
{
    FILE *file = fopen("/proc/sys/net/ipv4/tcp_allowed_congestion_control", "r");

    snprintf(names, size, "none");
    if (file == NULL)
        return;
    if (fgets(names, (int)size, file) != NULL)
        names[strcspn(names, "\n")] = '\0';
    fclose(file);
}

int congestion_check(const char *name)
{
    int fd = os_socket(AF_INET);
    int result = fd >= 0 ? os_congestion(fd, name) : -1;
    char allowed[200];

    if (result != 0) {
        const char *why = errno == ENOENT ? "there is none of that name" : errno_text();
        read_allowed(allowed, sizeof allowed);
        complain("cannot choose the congestion control %s: %s; allowed here: %s (more: sysctl %s, as root)",
                 name, why, allowed, "net.ipv4.tcp_allowed_congestion_control");
    }
    if (fd >= 0)
        close(fd);
    return result;
}

void congestion_choose(int fd, const char *name)
{
    if (name != NULL)
        (void)os_congestion(fd, name);
}
