/* A sample local app: a plain web server with one page, for something to see at the end of the tunnel.
 * It knows nothing of tunnels, and listens on this machine's own addresses only.
 *
 * How it works: a thread for each of the two addresses (127.0.0.1, and ::1 where there is IPv6) accepts
 * connections and gives each a thread of its own. That one reads a request, answers it, and does so again
 * until the connection ends. main only waits for the signal to stop.
 *
 *   GET  /          the page (page.html, turned into an array by make) with the request that asked for it
 *   GET  /download  10 MB, and their checksum in the header X-Checksum
 *   POST /upload    the same bytes back, and their checksum
 *   GET  /clock     the time, once a second, as long as someone listens (Server-Sent Events)
 *   GET  /slow      an answer after 3 seconds
 *   GET  /one       which connection brought this request, and how many requests it has brought so far */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 256,
    HEAD_MAX = 8 * 1024, /* a request's lines before its body */
    UPLOAD_MAX = 8 * 1024 * 1024,
    DOWNLOAD_SIZE = 10 * 1000 * 1000,
    SILENCE_S = 30, /* a connection that is stuck for so long is closed */
};

static const unsigned char page[] = {
#include "build/page.inc"
    , 0};

struct app {
    int port;
    atomic_int open;         /* connections right now */
    atomic_uint connections; /* connections so far */
    uint32_t download_checksum;
    unsigned char download[DOWNLOAD_SIZE];
};

struct listener {
    struct app *app;
    int fd;
};

struct connection {
    struct app *app;
    FILE *in, *out; /* both are the socket */
    unsigned number;
    unsigned requests;
    /* the request that is being answered */
    char head[HEAD_MAX];
    char method[8];
    char target[1024];
    bool keep_alive;
    unsigned char *body;
    size_t body_size;
};

static void say(const char *format, ...)
{
    char text[1200], now[16];
    struct timespec time;
    struct tm local;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c != '\0'; c++) /* some of it comes from strangers: a terminal must survive it */
        if (*c < ' ' || *c > '~')
            *c = '?';
    clock_gettime(CLOCK_REALTIME, &time);
    strftime(now, sizeof now, "%H:%M:%S", localtime_r(&time.tv_sec, &local));
    fprintf(stderr, "%s.%03d app: %s\n", now, (int)(time.tv_nsec / 1000000), text);
}

/* FNV-1a: three lines in any language; page.html has it too. It finds accidents, not attacks. */
static uint32_t checksum(const unsigned char *bytes, size_t size)
{
    uint32_t hash = 2166136261;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 16777619;
    return hash;
}

/* ---- answering ------------------------------------------------------------------------------------ */

static bool is(const struct connection *c, const char *method)
{
    return strcmp(c->method, method) == 0;
}

/* Sends a whole answer; `headers` are those that not every answer has. */
static void answer(struct connection *c, const char *status, const char *headers, const void *body,
                   size_t size)
{
    say("connection %u: %s %s: %s", c->number, c->method, c->target, status);
    fprintf(c->out,
            "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\nConnection: %s\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n",
            status, headers, size, c->keep_alive ? "keep-alive" : "close");
    if (!is(c, "HEAD"))
        fwrite(body, 1, size, c->out);
}

static void answer_text(struct connection *c, const char *status, const char *text)
{
    answer(c, status, "Content-Type: text/plain; charset=utf-8\r\n", text, strlen(text));
}

/* For a request after which no other can be read. */
static bool refuse(struct connection *c, const char *status)
{
    c->keep_alive = false;
    answer_text(c, status, "Sorry, this app cannot do that.\n");
    return false;
}

/* Text from a stranger becomes text on the page, never markup. */
static void write_escaped(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '<')
            fputs("&lt;", out);
        else if (*text == '&')
            fputs("&amp;", out);
        else if (*text != '\r')
            putc(*text, out);
    }
}

static void on_page(struct connection *c)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    const char *at = (const char *)page, *mark;

    if (out == NULL) {
        refuse(c, "503 Service Unavailable");
        return;
    }
    for (; (mark = strstr(at, "{{")) != NULL; at = strstr(mark, "}}") + 2) {
        fwrite(at, 1, (size_t)(mark - at), out);
        if (strncmp(mark, "{{request}}", 11) == 0)
            write_escaped(out, c->head);
        else /* {{port}} */
            fprintf(out, "%d", c->app->port);
    }
    fputs(at, out);
    fclose(out);
    answer(c, "200 OK", "Content-Type: text/html; charset=utf-8\r\n", text, size);
    free(text);
}

static void answer_bytes(struct connection *c, const unsigned char *bytes, size_t size, uint32_t sum)
{
    char headers[80];

    snprintf(headers, sizeof headers, "Content-Type: application/octet-stream\r\nX-Checksum: %08x\r\n",
             (unsigned)sum);
    answer(c, "200 OK", headers, bytes, size);
}

static void on_download(struct connection *c)
{
    answer_bytes(c, c->app->download, DOWNLOAD_SIZE, c->app->download_checksum);
}

static void on_upload(struct connection *c)
{
    answer_bytes(c, c->body, c->body_size, checksum(c->body, c->body_size));
}

/* An answer without a length: it lasts until the browser leaves. */
static void on_clock(struct connection *c)
{
    struct timespec now;
    struct tm local;
    char time[16];
    long wait_ns = 0;

    say("connection %u: %s %s: 200 OK, once a second from now on", c->number, c->method, c->target);
    c->keep_alive = false;
    fputs("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
          "Connection: close\r\n\r\n",
          c->out);
    if (is(c, "HEAD"))
        return;
    fputs("retry: 1000\n", c->out); /* milliseconds after which a browser that lost the clock asks again */
    do {
        nanosleep(&(struct timespec){.tv_nsec = wait_ns}, NULL);
        clock_gettime(CLOCK_REALTIME, &now);
        strftime(time, sizeof time, "%H:%M:%S", localtime_r(&now.tv_sec, &local));
        fprintf(c->out, "data: %s\n\n", time);
        wait_ns = 999999999 - now.tv_nsec; /* to the next full second */
    } while (fflush(c->out) == 0);
    say("connection %u: nobody listens to the clock any more", c->number);
}

static void on_slow(struct connection *c)
{
    sleep(3);
    answer_text(c, "200 OK", "Sorry to keep you waiting.\n");
}

static void on_one(struct connection *c)
{
    char text[80];

    snprintf(text, sizeof text, "{\"connection\": %u, \"request\": %u}\n", c->number, c->requests);
    answer(c, "200 OK", "Content-Type: application/json\r\n", text, strlen(text));
}

static void route(struct connection *c)
{
    static const struct {
        const char *method, *path;
        void (*on_request)(struct connection *);
    } routes[] = {
        {"GET", "/", on_page},       {"GET", "/download", on_download}, {"POST", "/upload", on_upload},
        {"GET", "/clock", on_clock}, {"GET", "/slow", on_slow},         {"GET", "/one", on_one},
    };

    c->requests++;
    c->target[strcspn(c->target, "?")] = '\0'; /* no page here takes a query */
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(c->target, routes[i].path) != 0)
            continue;
        if (is(c, routes[i].method) || (is(c, "HEAD") && strcmp(routes[i].method, "GET") == 0))
            routes[i].on_request(c);
        else
            answer(c, "405 Method Not Allowed",
                   routes[i].method[0] == 'G' ? "Allow: GET, HEAD\r\n" : "Allow: POST\r\n", NULL, 0);
        return;
    }
    answer_text(c, "404 Not Found", "There is no such page here.\n");
}

/* ---- reading a request: false when there is none, or none that can be answered ---------------------- */

/* The value of a header: the rest of its line and all that follows; "" if there is none. */
static const char *header(const struct connection *c, const char *name)
{
    const size_t length = strlen(name);

    for (const char *line = strchr(c->head, '\n'); line != NULL; line = strchr(line, '\n'))
        if (strncasecmp(++line, name, length) == 0 && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " \t");
    return "";
}

static bool read_head(struct connection *c)
{
    size_t size = 0, line = 0;
    char minor[2];

    strcpy(c->method, "?");
    strcpy(c->target, "?");
    do { /* a line at a time, up to an empty one */
        size += line;
        if (size + 1 >= sizeof c->head)
            return refuse(c, "431 Request Header Fields Too Large");
        if (fgets(c->head + size, (int)(sizeof c->head - size), c->in) == NULL)
            return false;
        line = strlen(c->head + size);
    } while (c->head[size] != '\n' && strcmp(c->head + size, "\r\n") != 0);
    c->head[size] = '\0';

    if (sscanf(c->head, "%7[A-Z] %1023s HTTP/1.%1[01]", c->method, c->target, minor) != 3 ||
        c->target[0] != '/')
        return refuse(c, "400 Bad Request");
    c->keep_alive = minor[0] == '1' && strncasecmp(header(c, "Connection"), "close", 5) != 0;
    return true;
}

/* Whatever the request, its body is read: the next request starts behind it. */
static bool read_body(struct connection *c)
{
    const char *length = header(c, "Content-Length");
    char *end;

    c->body_size = strtoul(length, &end, 10);
    if (header(c, "Transfer-Encoding")[0] != '\0')
        return refuse(c, "411 Length Required");
    if (length[0] != '\0' && (strspn(length, "0123456789") == 0 || strchr(" \r\n", *end) == NULL))
        return refuse(c, "400 Bad Request");
    if (c->body_size > UPLOAD_MAX)
        return refuse(c, "413 Content Too Large");
    if ((c->body = malloc(c->body_size + 1)) == NULL)
        return refuse(c, "503 Service Unavailable");
    if (strncasecmp(header(c, "Expect"), "100-continue", 12) == 0) {
        fputs("HTTP/1.1 100 Continue\r\n\r\n", c->out);
        fflush(c->out);
    }
    return fread(c->body, 1, c->body_size, c->in) == c->body_size;
}

/* ---- connections ---------------------------------------------------------------------------------- */

static void hang_up(struct connection *c)
{
    fclose(c->in);
    if (c->out != NULL)
        fclose(c->out);
    atomic_fetch_sub(&c->app->open, 1);
    free(c);
}

/* Closing with bytes unread would reset the connection, and the reset could overtake the last answer: so
 * what still comes is read first. */
static void hang_up_gently(struct connection *c)
{
    const struct timeval patience = {.tv_sec = 2};
    const time_t end = time(NULL) + 5;
    char rest[16 * 1024];

    setsockopt(fileno(c->in), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    shutdown(fileno(c->out), SHUT_WR);
    for (ssize_t n = 1, left = (ssize_t)8 * UPLOAD_MAX; n > 0 && left > 0 && time(NULL) < end; left -= n)
        n = recv(fileno(c->in), rest, sizeof rest, 0);
    hang_up(c);
}

static void *serve(void *owner)
{
    struct connection *c = owner;

    do {
        c->keep_alive = false;
        if (read_head(c) && read_body(c))
            route(c);
        free(c->body);
        c->body = NULL;
    } while (fflush(c->out) == 0 && c->keep_alive);
    hang_up_gently(c);
    return NULL;
}

static void on_connection(struct app *app, int fd)
{
    const struct timeval silence = {.tv_sec = SILENCE_S};
    const int on = 1;
    struct connection *c = calloc(1, sizeof *c);
    pthread_t thread;

    if (c == NULL || (c->in = fdopen(fd, "r")) == NULL) {
        close(fd);
        free(c);
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* an answer's last bytes go at once */
    c->app = app;
    c->number = atomic_fetch_add(&app->connections, 1) + 1;
    atomic_fetch_add(&app->open, 1);
    if ((c->out = fdopen(dup(fd), "w")) == NULL || pthread_create(&thread, NULL, serve, c) != 0)
        hang_up(c);
    else
        pthread_detach(thread);
}

static void *accept_forever(void *owner)
{
    const struct listener *listener = owner;
    const struct timespec moment = {.tv_nsec = 10000000};

    for (;;) {
        int fd = -1;
        if (atomic_load(&listener->app->open) < CONNECTIONS_MAX)
            fd = accept(listener->fd, NULL, NULL);
        if (fd >= 0)
            on_connection(listener->app, fd);
        else
            nanosleep(&moment, NULL); /* too many at once: this one waits until another ends */
    }
    return NULL;
}

/* ---- starting ------------------------------------------------------------------------------------- */

static int listen_on(const struct sockaddr *address, socklen_t size)
{
    const int on = 1;
    int fd = socket(address->sa_family, SOCK_STREAM, 0);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* after a restart the port is free at once */
    if (bind(fd, address, size) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int problem = errno;
    close(fd);
    errno = problem;
    return -1;
}

/* Listens on the same port of 127.0.0.1 and of ::1, if there is IPv6; *port becomes the one that 0 led to.
 * -1 with errno if it can't. */
static int listen_local(int *port, int fds[2])
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t size = sizeof v4;

    for (;;) {
        v4.sin_port = htons((uint16_t)*port);
        fds[0] = listen_on((struct sockaddr *)&v4, sizeof v4);
        if (fds[0] < 0)
            return -1;
        getsockname(fds[0], (struct sockaddr *)&v4, &size);
        v6.sin6_port = v4.sin_port;
        fds[1] = listen_on((struct sockaddr *)&v6, sizeof v6);
        if (fds[1] >= 0 || errno != EADDRINUSE)
            break;
        close(fds[0]);
        if (*port != 0)
            return -1;
        /* any port would do, and this one was free in IPv4 only: try the next */
    }
    *port = ntohs(v4.sin_port);
    return 0;
}

/* Bytes of which none can get lost, doubled or out of place without another checksum (xorshift). */
static void make_download(struct app *app)
{
    uint32_t random = 1;

    for (size_t i = 0; i < DOWNLOAD_SIZE; i++) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        app->download[i] = (unsigned char)random;
    }
    app->download_checksum = checksum(app->download, DOWNLOAD_SIZE);
}

/* The port a text names, -1 if it names none. */
static int parse_port(const char *text)
{
    const size_t digits = strspn(text, "0123456789");
    const long port = strtol(text, NULL, 10);

    return digits == 0 || digits > 5 || text[digits] != '\0' || port > 65535 ? -1 : (int)port;
}

int main(int argc, char **argv)
{
    static struct app app; /* all zeros: the download is not in the program's file */
    static struct listener listeners[2];
    const bool help = argc == 2 && (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0);
    int fds[2], signal_number;
    sigset_t stop;
    pthread_t thread;

    app.port = argc == 2 ? parse_port(argv[1]) : 8080;
    if (argc > 2 || app.port < 0) {
        fputs("usage: app [PORT]   a sample web app on localhost; PORT is 8080 if left out, 0 for any\n",
              help ? stdout : stderr);
        return help ? 0 : 2;
    }

    signal(SIGPIPE, SIG_IGN); /* writing to someone who left shall be an error, not the end */
    sigemptyset(&stop);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &stop, NULL); /* in every thread: they wait for sigwait below */

    if (listen_local(&app.port, fds) < 0) {
        say("cannot listen on port %d: %s (to take another: app PORT)", app.port, strerror(errno));
        return 1;
    }
    make_download(&app);
    for (int i = 0; i < 2 && fds[i] >= 0; i++) {
        listeners[i] = (struct listener){&app, fds[i]};
        if (pthread_create(&thread, NULL, accept_forever, &listeners[i]) != 0) {
            say("cannot start a thread");
            return 1;
        }
    }
    say("listening on port %d", app.port);
    sigwait(&stop, &signal_number);
    say("stopped");
    _exit(0); /* and no exit: that would wait for the streams that other threads are at */
}
