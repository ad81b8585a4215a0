/*
 * How it works: one table holds all options with their help. From it and the list of those that the program
 * knows, the arguments for getopt_long(3) are made, and --help too.
 */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Options that every program has. */
enum { OPT_VERBOSE = 1 << 16, OPT_QUIET = 1 << 17, OPT_HELP = 1 << 18, OPT_VERSION = 1 << 19 };

enum { DONE = 0, FAILED = 1, WRONG_USAGE = 2 };

static const struct options defaults = {
    .control_port = 60623,
    .public_port = 60624,
    .proxy_port = 60625,
    .heartbeat_ms = 5000,
    .wait_ms = 10000,
    .spares = 8,
    .drain_ms = 10000,
    .log_level = LOG_NORMAL,
};

static const struct spec {
    unsigned option;
    char letter; /* 0: none */
    const char *name;
    const char *argument; /* NULL: none */
    const char *help;
} specs[] = {
    {OPT_LISTEN_PORT, 'p', "listen-port", "PORT", "where to listen (server 54287, client 54286)"},
    {OPT_CONTROL_PORT, 'c', "control-port", "PORT", "the server's port for the control connection (60623)"},
    {OPT_PUBLIC_PORT, 'u', "public-port", "PORT", "the server's port for users (60624)"},
    {OPT_PROXY_PORT, 'x', "proxy-port", "PORT", "the server's port for proxy connections (60625)"},
    {OPT_BIND, 'b', "bind", "ADDRESS", "listen on this address only (all, IPv6 and IPv4)"},
    {OPT_HEARTBEAT, 0, "heartbeat", "SECONDS", "a ping so often; three without an answer mean gone (5)"},
    {OPT_WAIT, 0, "wait", "SECONDS", "how long a user waits for a proxy connection (10)"},
    {OPT_SPARES, 0, "spares", "N", "proxy connections kept ready for users to come (8)"},
    {OPT_DRAIN, 0, "drain", "SECONDS", "how long a stop lets open connections finish (10)"},
    {OPT_SECRET_FILE, 0, "secret-file", "FILE", "holds the secret that both ends share ($TUNNEL_SECRET)"},
    {OPT_COUNT, 'n', "count", "N", "exit after N pongs"},
    {OPT_VERBOSE, 'v', "verbose", NULL, "log more"},
    {OPT_QUIET, 'q', "quiet", NULL, "log only what goes wrong"},
    {OPT_HELP, 'h', "help", NULL, "show this help"},
    {OPT_VERSION, 'V', "version", NULL, "show the version"},
};

enum { SPECS = sizeof specs / sizeof specs[0] };

int options_wrong(const char *format, ...)
{
    char text[200];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    complain("%s (see --help)", text);
    return WRONG_USAGE;
}

static int show_help(const char *name, unsigned known, const char *arguments)
{
    printf("usage: %s [options]%s%s\n", name, arguments[0] != '\0' ? " " : "", arguments);
    for (int i = 0; i < SPECS; i++) {
        const struct spec *spec = &specs[i];
        char left[40];

        if (!(known & spec->option))
            continue;
        snprintf(left, sizeof left, "--%s%s%s", spec->name, spec->argument ? " " : "",
                 spec->argument ? spec->argument : "");
        if (spec->letter != 0)
            printf("  -%c, %-24s %s\n", spec->letter, left, spec->help);
        else
            printf("      %-24s %s\n", left, spec->help);
    }
    return DONE;
}

/* A whole number from 0 to most. Returns whether text is one. */
static bool parse_number(const char *text, int most, int *number)
{
    char *end;

    errno = 0;
    long value = strtol(text, &end, 10);
    *number = (int)value;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && value <= most;
}

/* Seconds, from least_ms up to a day. Returns whether text is that. */
static bool parse_seconds(const char *text, int least_ms, int *ms)
{
    char *end;
    double value = strtod(text, &end) * 1000;

    if (!((text[0] >= '0' && text[0] <= '9') || text[0] == '.') || *end != '\0' ||
        !(value >= least_ms && value <= 86400e3))
        return false;
    *ms = (int)(value + 0.5);
    return true;
}

/* A secret is sent as the end of a line: so it is one, and not too long. */
static int take_secret(struct options *options, const char *secret, const char *origin)
{
    size_t length = strcspn(secret, "\r\n");

    if (secret[length] != '\0' && secret[length + strspn(secret + length, "\r\n")] != '\0')
        complain("the secret in %s is more than one line", origin);
    else if (length == 0)
        complain("there is no secret in %s", origin);
    else if (length >= sizeof options->secret)
        complain("the secret in %s is longer than %zu bytes", origin, sizeof options->secret - 1);
    else {
        memcpy(options->secret, secret, length);
        options->secret[length] = '\0';
        return OPTIONS_OK;
    }
    return FAILED;
}

static int read_secret_file(struct options *options, const char *path)
{
    char text[sizeof options->secret + 3] = {0};
    FILE *file = fopen(path, "r");
    size_t size = file != NULL ? fread(text, 1, sizeof text - 1, file) : 0;
    int status;

    if (file == NULL || ferror(file)) {
        complain("cannot read the secret from %s: %s", path, errno_text());
        status = FAILED;
    } else if (strlen(text) != size) {
        complain("the secret in %s is not text", path);
        status = FAILED;
    } else {
        status = take_secret(options, text, path);
    }
    if (file != NULL)
        fclose(file);
    return status;
}

/* Sets one option. Returns OPTIONS_OK, or the status to exit with. */
static int set(struct options *options, const struct spec *spec, const char *value)
{
    bool valid = true;

    switch (spec->option) {
    case OPT_LISTEN_PORT: valid = parse_number(value, 65535, &options->listen_port); break;
    case OPT_CONTROL_PORT: valid = parse_number(value, 65535, &options->control_port); break;
    case OPT_PUBLIC_PORT: valid = parse_number(value, 65535, &options->public_port); break;
    case OPT_PROXY_PORT: valid = parse_number(value, 65535, &options->proxy_port); break;
    case OPT_BIND: options->bind = value; break;
    case OPT_HEARTBEAT: valid = parse_seconds(value, 10, &options->heartbeat_ms); break;
    case OPT_WAIT: valid = parse_seconds(value, 1, &options->wait_ms); break;
    case OPT_SPARES: valid = parse_number(value, 1000, &options->spares); break;
    case OPT_DRAIN: valid = parse_seconds(value, 0, &options->drain_ms); break;
    case OPT_SECRET_FILE: return read_secret_file(options, value);
    case OPT_COUNT: valid = parse_number(value, 1000000000, &options->count) && options->count > 0; break;
    case OPT_VERBOSE: options->log_level = LOG_VERBOSE; break;
    case OPT_QUIET: options->log_level = LOG_QUIET; break;
    default: break;
    }
    return valid ? OPTIONS_OK : options_wrong("--%s can't be \"%s\"", spec->name, value);
}

/* Makes the descriptions that getopt_long wants: of the known options only. A long option's value is its
 * place in specs. */
static void describe(unsigned known, char *letters, struct option *longs)
{
    *letters++ = ':'; /* have it tell a missing argument from an unknown option */
    for (int i = 0; i < SPECS; i++) {
        const struct spec *spec = &specs[i];

        if (!(known & spec->option))
            continue;
        *longs++ =
            (struct option){spec->name, spec->argument ? required_argument : no_argument, NULL, 256 + i};
        if (spec->letter != 0)
            *letters++ = spec->letter;
        if (spec->letter != 0 && spec->argument != NULL)
            *letters++ = ':';
    }
    *letters = '\0';
    *longs = (struct option){0};
}

static const struct spec *find_spec(int value)
{
    for (int i = 0; i < SPECS; i++)
        if (value == 256 + i || value == specs[i].letter)
            return &specs[i];
    return NULL;
}

/* The words after the options: as many as the usage text names, those in brackets may be left out. */
static int take_arguments(struct options *options, int argc, char **argv, const char *usage)
{
    int most = usage[0] != '\0', least = usage[0] != '\0' && usage[0] != '[';

    for (const char *c = usage; *c != '\0'; c++)
        if (*c == ' ') {
            most++;
            least += c[1] != '[';
        }
    if (argc > most)
        return options_wrong("unexpected argument \"%s\"", argv[most]);
    if (argc < least)
        return options_wrong("%.*s is missing", (int)strcspn(usage, " "), usage);
    for (int i = 0; i < argc; i++)
        options->arguments[i] = argv[i];
    return OPTIONS_OK;
}

int options_parse(struct options *options, const char *name, int argc, char **argv, unsigned known,
                  const char *arguments)
{
    struct option longs[SPECS + 1];
    char letters[2 * SPECS + 2];
    const char *secret = getenv("TUNNEL_SECRET");
    int listen_port = options->listen_port, value, status = OPTIONS_OK;

    *options = defaults;
    options->listen_port = listen_port;
    log_open(name, LOG_NORMAL);
    known |= OPT_VERBOSE | OPT_QUIET | OPT_HELP | OPT_VERSION;
    describe(known, letters, longs);
    opterr = 0;
    optind = 0; /* glibc and musl: start afresh */
    while (status == OPTIONS_OK && (value = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        const struct spec *spec = find_spec(value);

        if (value == ':')
            return options_wrong("%s needs an argument", argv[optind - 1]);
        if (spec == NULL)
            return optopt > 0 && optopt < 256 ? options_wrong("unknown option -%c", optopt)
                                              : options_wrong("unknown option %s", argv[optind - 1]);
        if (spec->option == OPT_HELP)
            return show_help(name, known, arguments);
        if (spec->option == OPT_VERSION)
            return printf("%s of ngrok-- 1.0\n", name) > 0 ? DONE : FAILED;
        status = set(options, spec, optarg);
    }
    if (status == OPTIONS_OK)
        status = take_arguments(options, argc - optind, argv + optind, arguments);
    if (status == OPTIONS_OK && (known & OPT_SECRET_FILE) && options->secret[0] == '\0' && secret != NULL)
        status = take_secret(options, secret, "TUNNEL_SECRET");
    log_open(name, options->log_level);
    return status;
}
