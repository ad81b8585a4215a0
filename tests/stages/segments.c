/* What a connection's kernel knows, and <netinet/tcp.h> does not tell: so it stands apart from those who include that. */
#include "harness.h"

#ifdef __linux__
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

int segments_heard(struct peer *peer)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;

    return getsockopt(peer->fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? (int)info.tcpi_segs_in : -1;
}
#else
int segments_heard(struct peer *peer)
{
    (void)peer;
    return -1;
}
#endif
