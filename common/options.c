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

#include "congestion.h"
#include "values.h"

/* Options that every program has. */
enum { OPT_VERBOSE = 1 << 16, OPT_QUIET = 1 << 17, OPT_HELP = 1 << 18, OPT_VERSION = 1 << 19 };

enum { DONE = 0, FAILED = 1, WRONG_USAGE = 2 };

static const struct options defaults = {
    .listen = {.option = "-p"},
    .control = {.port = 60623, .option = "-c"},
    .public = {.port = 60624, .option = "-u"},
    .proxy = {.port = 60625, .option = "-x"},
    .heartbeat_ms = 5000,
    .wait_ms = 15000,
    .spares = 24,
    .drain_ms = 8000,
    .log_level = LOG_NORMAL,
};

static const char a_port[] =
    "a number from 0 to 65535 (0: any free one), for a server also ADDRESS:PORT or [::1]:PORT";
static const char a_number[] = "a whole number from 1";
static const char seconds[] = "a number of seconds, up to a day";

static const struct spec {
    unsigned option;
    char letter; /* 0: none */
    const char *name;
    const char *argument; /* NULL: none */
    const char *valid;    /* what the argument may be */
    const char *help;
} specs[] = {
    {OPT_LISTEN_PORT, 'p', "listen-port", "PORT", a_port, "where to listen (server 54287, client 54286)"},
    {OPT_CONTROL_PORT, 'c', "control-port", "PORT", a_port,
     "the server's port for the control connection (60623)"},
    {OPT_PUBLIC_PORT, 'u', "public-port", "PORT", a_port, "the server's port for users (60624)"},
    {OPT_PROXY_PORT, 'x', "proxy-port", "PORT", a_port, "the server's port for proxy connections (60625)"},
    {OPT_BIND, 'b', "bind", "ADDRESS", NULL, "listen on this address only (all, IPv6 and IPv4)"},
    {OPT_HEARTBEAT, 0, "heartbeat", "SECONDS", seconds,
     "a ping so often; three without an answer mean gone (5)"},
    {OPT_WAIT, 0, "wait", "SECONDS", seconds, "how long a user waits for a proxy connection (15)"},
    {OPT_SPARES, 0, "spares", "N", "a whole number up to 1000",
     "proxy connections kept ready for users to come (24)"},
    {OPT_DRAIN, 0, "drain", "SECONDS", seconds, "how long a stop lets open connections finish (8)"},
    {OPT_SECRET_FILE, 0, "secret-file", "FILE", NULL,
     "holds the secret that both ends share ($TUNNEL_SECRET)"},
    {OPT_PROXY_PROTOCOL, 0, "proxy-protocol", NULL, NULL, "begin each connection to LOCAL with a PROXY line"},
    {OPT_CONGESTION, 0, "congestion", "NAME", NULL,
     "congestion control for what leaves this machine (the system's)"},
    {OPT_COUNT, 'n', "count", "N", a_number, "exit after N pongs"},
    {OPT_VERBOSE, 'v', "verbose", NULL, NULL, "log more"},
    {OPT_QUIET, 'q', "quiet", NULL, NULL, "log only what goes wrong"},
    {OPT_HELP, 'h', "help", NULL, NULL, "show this help"},
    {OPT_VERSION, 'V', "version", NULL, NULL, "show the version"},
};

/* What is no option: usage texts name them, and --help explains them. */
static const struct {
    const char *name, *help;
} words[] = {
    {"LOCAL", "the local app: a port, host:port, [::1]:port, or the path of a Unix socket"},
    {"SERVER", "the host where the server runs, or host:port (localhost)"},
    {"TARGET", "what to dial: host:port, a port, or a Unix socket's path (localhost:54287)"},
};

enum { SPECS = sizeof specs / sizeof specs[0], WORDS = sizeof words / sizeof words[0] };

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

/* --- Help --- */

static void show_option(const struct spec *spec)
{
    const char *argument = spec->argument != NULL ? spec->argument : "";
    const char *blank = spec->argument != NULL ? " " : "";
    char letter[5] = "    ", left[40];

    if (spec->letter != 0)
        snprintf(letter, sizeof letter, "-%c, ", spec->letter);
    snprintf(left, sizeof left, "--%s%s%s", spec->name, blank, argument);
    printf("  %s%-24s %s\n", letter, left, spec->help);
}

static int show_help(const struct usage *usage, const char *program)
{
    const char *blank = usage->arguments[0] != '\0' ? " " : "";

    printf("usage: %s [options]%s%s\n%s\n\n", program, blank, usage->arguments, usage->purpose);
    for (int i = 0; i < WORDS; i++)
        if (strstr(usage->arguments, words[i].name) != NULL)
            printf("  %-28s %s\n", words[i].name, words[i].help);
    for (int i = 0; i < SPECS; i++)
        if (usage->known & specs[i].option)
            show_option(&specs[i]);
    return DONE;
}

/* --bind and --congestion say it for all ports; but one may have an address of its own. Returns OPTIONS_OK, or the status to
 * exit with. */
static int set_all_ports(struct options *options)
{
    struct endpoint *all[] = {&options->listen, &options->control, &options->public, &options->proxy};
    const char *bind = options->bind;

    for (int i = 0; i < 4; i++) {
        all[i]->congestion = options->congestion;
        if (bind != NULL && all[i]->address[0] == '\0' && !value_address(bind, strlen(bind), all[i]))
            return options_wrong("--bind can't be \"%s\": it takes an address of this machine", bind);
    }
    return OPTIONS_OK;
}

/* Sets one option. Returns OPTIONS_OK, or the status to exit with. */
static int set(struct options *options, const struct spec *spec, const char *value)
{
    bool valid = true;

    switch (spec->option) {
    case OPT_LISTEN_PORT: valid = value_endpoint(value, &options->listen); break;
    case OPT_CONTROL_PORT: valid = value_endpoint(value, &options->control); break;
    case OPT_PUBLIC_PORT: valid = value_endpoint(value, &options->public); break;
    case OPT_PROXY_PORT: valid = value_endpoint(value, &options->proxy); break;
    case OPT_BIND: options->bind = value; break;
    case OPT_HEARTBEAT: valid = value_seconds(value, 10, &options->heartbeat_ms); break;
    case OPT_WAIT: valid = value_seconds(value, 1, &options->wait_ms); break;
    case OPT_SPARES: valid = value_number(value, 1000, &options->spares); break;
    case OPT_DRAIN: valid = value_seconds(value, 0, &options->drain_ms); break;
    case OPT_SECRET_FILE: return secret_read(options->secret, value) == 0 ? OPTIONS_OK : FAILED;
    case OPT_PROXY_PROTOCOL: options->proxy_protocol = true; break;
    case OPT_CONGESTION:
        options->congestion = value;
        return congestion_check(value) == 0 ? OPTIONS_OK : FAILED;
    case OPT_COUNT: valid = value_number(value, 1000000000, &options->count) && options->count > 0; break;
    case OPT_VERBOSE: options->log_level = LOG_VERBOSE; break;
    case OPT_QUIET: options->log_level = LOG_QUIET; break;
    default: break;
    }
    return valid ? OPTIONS_OK
                 : options_wrong("--%s can't be \"%s\": it takes %s", spec->name, value, spec->valid);
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

/* What getopt_long did not understand. Returns the status to exit with. */
static int complain_of(int value, const char *word)
{
    if (value == ':')
        return options_wrong("%s needs an argument", word);
    if (optopt > 0 && optopt < 256)
        return options_wrong("unknown option -%c", optopt);
    return options_wrong("unknown option %s", word);
}

/* Goes through the options. Returns OPTIONS_OK, or the status to exit with. */
static int take_options(struct options *options, const struct usage *usage, int argc, char **argv)
{
    struct option longs[SPECS + 1];
    char letters[2 * SPECS + 2];
    int value, status = OPTIONS_OK;

    describe(usage->known, letters, longs);
    opterr = 0;
    while (status == OPTIONS_OK && (value = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        const struct spec *spec = find_spec(value);

        if (spec == NULL)
            return complain_of(value, argv[optind - 1]);
        if (spec->option == OPT_HELP)
            return show_help(usage, argv[0]);
        if (spec->option == OPT_VERSION)
            return printf("%s of ngrok-- 1.0\n", usage->name) > 0 ? DONE : FAILED;
        status = set(options, spec, optarg);
    }
    return status;
}

static bool is_only_to_listen_on(const struct endpoint *port)
{
    return port->address[0] != '\0' || port->port == 0;
}

int options_parse(struct options *options, const struct usage *usage, int argc, char **argv)
{
    struct usage all = *usage;
    const char *secret = getenv("TUNNEL_SECRET");
    int listen_port = options->listen.port;

    *options = defaults;
    options->listen.port = listen_port;
    log_open(usage->name, LOG_NORMAL);
    all.known |= OPT_VERBOSE | OPT_QUIET | OPT_HELP | OPT_VERSION;
    int status = take_options(options, &all, argc, argv);
    if (status == OPTIONS_OK)
        status = take_arguments(options, argc - optind, argv + optind, usage->arguments);
    if (status == OPTIONS_OK && !(usage->known & OPT_BIND) &&
        (is_only_to_listen_on(&options->control) || is_only_to_listen_on(&options->proxy)))
        status = options_wrong(
            "ADDRESS:PORT, and port 0, are for a server; the client's are numbers from 1 to 65535");
    if (status == OPTIONS_OK)
        status = set_all_ports(options);
    if (status == OPTIONS_OK && (usage->known & OPT_SECRET_FILE) && options->secret[0] == '\0' &&
        secret != NULL)
        status = secret_take(options->secret, secret, "TUNNEL_SECRET") == 0 ? OPTIONS_OK : FAILED;
    log_open(usage->name, options->log_level);
    return status;
}
