/* target_parse, with any text. The first byte says whether there is a default port. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../common/target.h"
#include "world.h"

/* What was understood, written down in full, must be understood as the same. */
static void check_again(const struct target *target, const char *host)
{
    struct target again;
    char text[300];
    bool brackets = strchr(host, ':') != NULL || host[0] == '[';

    if (strchr(host, ']') != NULL)
        return; /* no name of a host, and can't be written in brackets */
    snprintf(text, sizeof text, brackets ? "[%s]:%d" : "%s:%d", host, target->port);
    for (int default_port = 0; default_port < 2; default_port++) {
        if (target_parse(&again, text, default_port) != 0 || strcmp(again.text, target->text) != 0 ||
            again.port != target->port || again.addresses.count != target->addresses.count)
            finding("%s is understood in another way the second time", text);
        target_clear(&again);
    }
}

static void check_host(const struct target *target, const char *text)
{
    char host[sizeof target->text], port[16];

    snprintf(host, sizeof host, "%s", target->text);
    snprintf(port, sizeof port, " port %d", target->port);
    char *end = host + strlen(host) - strlen(port);
    if (strlen(host) <= strlen(port) || strcmp(end, port) != 0)
        finding("\"%s\" does not say port %d", target->text, target->port);
    *end = '\0';
    if (strcmp(host, "localhost") != 0 && strstr(text, host) == NULL)
        finding("a host that was not in the text");
    if (target->port < 1 || target->port > 65535)
        finding("port %d", target->port);
    check_again(target, host);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct target target;

    if (size == 0)
        return 0;
    char *text = exact_string(data + 1, size - 1);
    int default_port = (data[0] & 1) ? 60623 : 0;
    if (target_parse(&target, text, default_port) == 0) {
        if ((target.host[0] == '\0') != (target.addresses.count > 0))
            finding("a name with %u addresses, or neither", target.addresses.count);
        if (strchr(text, '/') == NULL)
            check_host(&target, text);
        else if (strstr(target.text, text) == NULL || default_port != 0)
            finding("%s is not the path", target.text);
    }
    target_clear(&target);
    free(text);
    return 0;
}
