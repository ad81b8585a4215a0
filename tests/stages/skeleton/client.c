/* Stage 0, client: joins each connection that it accepts to one to TARGET. It reads its command line; the rest is yours. */
#include "../common/log.h"
#include "../common/loop.h"
#include "../common/options.h"

static const char about[] = "Joins every connection that it accepts with one of its own to TARGET.";

int main(int argc, char **argv)
{
    struct options options = {.listen.port = 54286};
    struct usage usage = {"client", about, OPT_LISTEN_PORT | OPT_BIND, "[TARGET]"};
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
