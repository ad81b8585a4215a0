/*
 * options_parse, with any command line, environment and secret file.
 *
 * The input: a byte that says whose options; then strings ended by '\n' or a zero byte: TUNNEL_SECRET ("": not set), what is
 * in every file ("": there are none; '|' stands for the end of a line), and the arguments.
 */
#include "../../common/options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { WORDS = 32, SECRET_MAX = 100 };

static const struct program {
    const char *name;
    const char *usage;
    unsigned known;
    int listen_port;
} programs[] = {
    {"server", "", OPT_LISTEN_PORT | OPT_BIND, 54287},
    {"client", "[TARGET]", OPT_LISTEN_PORT, 54286},
    {"client", "[SERVER]", OPT_CONTROL_PORT | OPT_HEARTBEAT | OPT_COUNT, 0},
    {"server", "",
     OPT_CONTROL_PORT | OPT_BIND | OPT_HEARTBEAT | OPT_PUBLIC_PORT | OPT_PROXY_PORT | OPT_WAIT | OPT_SPARES |
         OPT_DRAIN | OPT_SECRET_FILE | OPT_CONGESTION,
     0},
    {"client", "LOCAL [SERVER]",
     OPT_CONTROL_PORT | OPT_HEARTBEAT | OPT_PROXY_PORT | OPT_DRAIN | OPT_SECRET_FILE | OPT_CONGESTION |
         OPT_PROXY_PROTOCOL,
     0},
};

/* Cuts the input into strings. Returns how many. */
static int split(const uint8_t *data, size_t size, char *words[WORDS])
{
    int count = 0;

    for (size_t from = 0; from < size && count < WORDS; count++) {
        size_t to = from;
        while (to < size && data[to] != '\n' && data[to] != '\0')
            to++;
        words[count] = exact_string(data + from, to - from);
        from = to + 1;
    }
    return count;
}

static void check_endpoint(const struct endpoint *where, const char *bind)
{
    if (where->port < 0 || where->port > 65535)
        finding("a port that can't be one: %d", where->port);
    if (memchr(where->address, '\0', sizeof where->address) == NULL)
        finding("an address without an end");
    if (where->address[0] == '\0' && bind != NULL)
        finding("%s has no address, in spite of --bind", where->option);
}

static void check_options(const struct options *options)
{
    const int most_ms = 86400 * 1000;

    check_endpoint(&options->listen, options->bind);
    check_endpoint(&options->control, options->bind);
    check_endpoint(&options->public, options->bind);
    check_endpoint(&options->proxy, options->bind);
    if (options->heartbeat_ms < 10 || options->heartbeat_ms > most_ms || options->wait_ms < 1 ||
        options->wait_ms > most_ms || options->drain_ms < 0 || options->drain_ms > most_ms)
        finding("a time that can't be one: %d, %d, %d ms", options->heartbeat_ms, options->wait_ms,
                options->drain_ms);
    if (options->spares < 0 || options->spares > 1000 || options->count < 0)
        finding("%d spares, %d pongs", options->spares, options->count);
    if (memchr(options->secret, '\0', sizeof options->secret) == NULL ||
        strpbrk(options->secret, "\r\n") != NULL)
        finding("a secret that is no line");
}

/* Each word that isn't an option must be among those of the command line. */
static void check_word(const char *word, char **words, int count)
{
    for (int i = 0; i < count; i++)
        if (word == NULL || (word >= words[i] && word <= words[i] + strlen(words[i])))
            return;
    finding("an argument that nobody gave");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *words[WORDS + 1] = {0}, *argv[WORDS + 1] = {"program"}, *file;
    struct options options = {0};

    if (size == 0)
        return 0;
    const struct program *program = &programs[data[0] % (sizeof programs / sizeof programs[0])];
    int count = split(data + 1, size - 1, words), argc = 1;
    for (int i = 2; i < count; i++)
        argv[argc++] = words[i];
    while (count > 1 && (file = strchr(words[1], '|')) != NULL)
        *file = '\n';
    world.environment = count > 0 && words[0][0] != '\0' ? words[0] : NULL;
    world.secret_file = count > 1 && words[1][0] != '\0' ? words[1] : NULL;
    world.secret_file_size = world.secret_file != NULL ? strlen(world.secret_file) : 0;

    descriptors_remember();
    options.listen.port = program->listen_port;
    struct usage usage = {program->name, "Does something.", program->known, program->usage};
    optind = 0; /* a program parses once; have getopt_long start over */
    int status = options_parse(&options, &usage, argc, argv);
    if (status < OPTIONS_OK || status > 2)
        finding("status %d", status);
    if (status == OPTIONS_OK) {
        check_options(&options);
        check_word(options.bind, argv, argc);
        check_word(options.congestion, argv, argc);
        check_word(options.arguments[0], argv, argc);
        check_word(options.arguments[1], argv, argc);
        if (program->usage[0] == 'L' && options.arguments[0] == NULL)
            finding("LOCAL may not be missing");
    }
    descriptors_check();
    for (int i = 0; i < count; i++)
        free(words[i]);
    return 0;
}
