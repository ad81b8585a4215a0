/* Stage 0, server: an echo server. It reads its command line; the rest is yours. */
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/options.h"

static const char about[] = "Echoes: pipes every connection back into itself.";

int main(int argc, char **argv)
{
    struct options options = {.listen.port = 54287};
    struct usage usage = {"server", about, OPT_LISTEN_PORT | OPT_BIND, ""};
    int status = options_parse(&options, &usage, argc, argv);

    if (status != OPTIONS_OK)
        return status;
    struct loop *loop = loop_new();
    if (loop == NULL)
        return 1;
    say("nobody listens on port %d yet", options.listen.port);
    status = loop_run(loop);
    loop_free(loop);
    return status;
}
