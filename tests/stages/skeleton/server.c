/* Stage 0, server: an echo server. It reads its command line; the rest is yours. */
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/options.h"

int main(int argc, char **argv)
{
    struct options options = {.listen_port = 54287};
    int status = options_parse(&options, "server", argc, argv, OPT_LISTEN_PORT | OPT_BIND, "");

    if (status != OPTIONS_OK)
        return status;
    struct loop *loop = loop_new();
    if (loop == NULL)
        return 1;
    say("nobody listens on port %d yet", options.listen_port);
    status = loop_run(loop);
    loop_free(loop);
    return status;
}
