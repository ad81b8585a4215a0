/* target_parse, with any text. The first byte says whether there is a default port. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../common/dial.h"
#include "world.h"

/* What was understood, written down in full, must be understood as the same. */
static void check_again(const struct target *target)
{
    struct target again;
    char text[300];
    bool brackets = strchr(target->host, ':') != NULL || target->host[0] == '[';

    if (strchr(target->host, ']') != NULL)
        return; /* no name of a host, and can't be written in brackets */
    snprintf(text, sizeof text, brackets ? "[%s]:%d" : "%s:%d", target->host, target->port);
    for (int default_port = 0; default_port < 2; default_port++)
        if (target_parse(&again, text, default_port) != 0 || strcmp(again.host, target->host) != 0 ||
            again.port != target->port)
            finding("%s is understood in another way the second time", text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct target target;

    if (size == 0)
        return 0;
    char *text = exact_string(data + 1, size - 1);
    int default_port = (data[0] & 1) ? 60623 : 0;
    if (target_parse(&target, text, default_port) == 0) {
        if (target.host[0] == '\0' || strlen(target.host) > strlen(text) + strlen("localhost"))
            finding("a host that was not in the text");
        if (target.port < 1 || target.port > 65535 || target.count != 0)
            finding("port %d, %d addresses", target.port, target.count);
        check_again(&target);
    }
    free(text);
    return 0;
}
