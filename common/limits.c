/* How it works: getrlimit(2) and setrlimit(2). */
#include "limits.h"

#include <errno.h>
#include <sys/resource.h>

#include "log.h"
#include "os.h"

enum {
    OWN_DESCRIPTORS = 16,
    OTHERS_LEAST = 2, /* the control connection, and one that has not said who it is */
    PIPE_DESCRIPTORS_MAX = 1024,
};

void limits_raise(void)
{
    const rlim_t most = (rlim_t)os_descriptors_max();
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max < most ? limit.rlim_max : most;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limits_users(limits_connections(), OTHERS_LEAST) < 1)
        complain("%d descriptors are too few for a user; `ulimit -n 1024` allows more", limits_descriptors());
}

int limits_descriptors(void)
{
    const rlim_t most = (rlim_t)os_descriptors_max();
    struct rlimit limit = {.rlim_cur = 256}; /* the least that a system has */

    (void)getrlimit(RLIMIT_NOFILE, &limit);
    return (int)(limit.rlim_cur < most ? limit.rlim_cur : most);
}

static int for_pipes(int descriptors)
{
    int quarter = descriptors / 4;

    return quarter < PIPE_DESCRIPTORS_MAX ? quarter : PIPE_DESCRIPTORS_MAX;
}

int limits_pipes(void)
{
    return for_pipes(limits_descriptors()) / 2;
}

int limits_connections(void)
{
    int descriptors = limits_descriptors();
    int rest = descriptors - for_pipes(descriptors) - OWN_DESCRIPTORS;

    return rest > 0 ? rest : 0;
}

int limits_users(int connections, int others)
{
    return (connections - others) / 2;
}

bool limits_are_reached(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}
