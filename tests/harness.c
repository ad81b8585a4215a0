/*
 * How it works: the test is one thread that never blocks but in await(), a poll() of what the test waits for together with the
 * output of all programs. So a program's output is always taken, however much it is, and each wait ends at its deadline.
 *
 * Each program is the leader of a session of its own. At the end of a test its whole process group is killed; what left the
 * group becomes a child of this process (PR_SET_CHILD_SUBREAPER) and is killed as such.
 */
#define TESTS_HARNESS_C
#include "harness.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

enum { PROGRAMS = 64, CAPTURE = 512 * 1024, DESCRIPTORS = 65536, TEST_SECONDS = 40 };

/* What a program wrote to its standard output or standard error: the last CAPTURE bytes of it at most. */
struct capture {
    int fd; /* -1: ended */
    size_t length;
    char *text;
};

struct program {
    const char *name;
    pid_t pid;
    bool ended;
    bool killed;
    int status; /* once ended: its exit status, or the signal that killed it */
    struct capture output, log;
};

static const char *folder;
static struct program programs[PROGRAMS];
static int program_count;
static bool is_open[DESCRIPTORS]; /* the test's sockets */
static int child_ended[2];        /* a pipe: SIGCHLD writes to it */
static int64_t test_began;
static struct spec *ahead[64]; /* tests that run ahead */
static int ahead_count;
static int silent_starts; /* how many programs never said on which port they listen */
static const char *where = __FILE__;
static int where_line = __LINE__;

/* ---- tests ---- */

void here(const char *file, int line)
{
    where = file;
    where_line = line;
}

int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static double slowness(void)
{
    const char *factor = getenv("TEST_PATIENCE");

    return factor != NULL && atof(factor) > 0 ? atof(factor) : 1;
}

double patience(void)
{
    return 5 * slowness();
}

static int64_t deadline(double seconds)
{
    int64_t end = test_began + (int64_t)(TEST_SECONDS * slowness() * 1000);
    int64_t until = now_ms() + (int64_t)(seconds * 1000);

    return until < end ? until : end;
}

/* The last line of a capture that is not empty, fit to be shown. */
static void last_line(const struct capture *capture, char *line, size_t size)
{
    size_t end = capture->length, start;

    while (end > 0 && isspace((unsigned char)capture->text[end - 1]))
        end--;
    for (start = end; start > 0 && capture->text[start - 1] != '\n' && end - start < size - 1;)
        start--;
    for (size_t i = start; i < end; i++)
        *line++ = isprint((unsigned char)capture->text[i]) ? capture->text[i] : '?';
    *line = '\0';
}

static bool await(int fd, short events, int64_t until);

static void describe_end(const struct program *program, char *text, size_t size)
{
    if (!program->ended)
        snprintf(text, size, "still runs");
    else if (program->killed)
        snprintf(text, size, "was ended by signal %d (%s)", program->status, strsignal(program->status));
    else
        snprintf(text, size, "exited with status %d", program->status);
}

static _Noreturn void unmet_as(struct program *program, const char *expected, const char *came)
{
    char line[300], end[100];

    await(-1, 0, now_ms()); /* the newest of the log */
    if (program == NULL) {
        print_error("Expected %s, but %s.\n", expected, came);
    } else {
        last_line(&program->log, line, sizeof line);
        describe_end(program, end, sizeof end);
        if (line[0] != '\0')
            print_error("Expected %s, but %s; the %s, which %s, last logged \"%s\".\n", expected, came,
                        program->name, end, line);
        else
            print_error("Expected %s, but %s; the %s, which %s, logged nothing.\n", expected, came,
                        program->name, end);
    }
    _fail(where, where_line);
    abort(); /* not reached: _fail leaves the test */
}

void unmet(struct program *program, const char *expected, const char *format, ...)
{
    char came[400];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(came, sizeof came, format, arguments);
    va_end(arguments);
    unmet_as(program, expected, came);
}

void skip_test(const char *reason)
{
    print_message("%s: ", reason);
    _skip(where, where_line);
}

static void on_child_ended(int signal)
{
    int saved = errno;

    (void)signal;
    (void)!write(child_ended[1], "", 1);
    errno = saved;
}

/* The tests themselves are to stop: leave nothing behind. */
static void on_stop(int signal)
{
    for (int i = 0; i < program_count; i++)
        kill(-programs[i].pid, SIGKILL);
    for (int i = 0; i < ahead_count; i++)
        if (ahead[i]->process > 0)
            kill(ahead[i]->process, SIGTERM);
    _exit(128 + signal);
}

/* Runs one test in a process of its own: this program, with the test's name as the pattern. */
static void run_ahead(struct spec *spec, const char *name, char **argv)
{
    if (ahead_count == (int)(sizeof ahead / sizeof ahead[0]))
        return;
    spec->output = tmpfile();
    spec->process = spec->output != NULL ? fork() : 0;
    if (spec->process == 0 && spec->output != NULL) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
        dup2(fileno(spec->output), 1);
        dup2(fileno(spec->output), 2);
        execv(argv[0], (char *[]){argv[0], argv[1], (char *)(uintptr_t)name, NULL});
        _exit(127);
    }
    if (spec->process > 0)
        ahead[ahead_count++] = spec;
}

/* Waits for a test that runs ahead, and takes its result as this test's. It has deadlines of its own. */
static void take_result(struct spec *spec)
{
    char line[1000];
    int status;
    bool skipped = false;

    while (waitpid(spec->process, &status, 0) != spec->process)
        ;
    spec->process = -1;
    rewind(spec->output);
    while (fgets(line, sizeof line, spec->output) != NULL) {
        skipped |= strstr(line, "SKIPPED") != NULL;
        if (strncmp(line, "[ ", 2) != 0 && strncmp(line, "[==", 3) != 0 && status != 0 && line[0] != '\n' &&
            line[1] != ' ')
            print_error("%s", line);
    }
    fclose(spec->output);
    if (skipped)
        _skip(where, where_line);
    if (status != 0)
        _fail(where, where_line);
}

int spec_run_all(int argc, char **argv, const struct CMUnitTest *tests, size_t count)
{
    char path[1000];

    if (argc < 2) {
        fprintf(stderr, "usage: %s FOLDER [PATTERN]   runs the tests on FOLDER/server and FOLDER/client\n",
                argv[0]);
        return 2;
    }
    folder = argv[1];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, i == 0 ? "server" : "client");
        if (access(path, X_OK) != 0) {
            fprintf(stderr, "Expected a program %s, but it can't be run: %s.\n", path, strerror(errno));
            return 2;
        }
    }
#ifdef __linux__
    prctl(PR_SET_CHILD_SUBREAPER, 1);
#endif
    if (pipe(child_ended) != 0)
        return 2;
    for (int i = 0; i < 2; i++) {
        fcntl(child_ended[i], F_SETFD, FD_CLOEXEC);
        fcntl(child_ended[i], F_SETFL, O_NONBLOCK);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, on_child_ended);
    signal(SIGINT, on_stop);
    signal(SIGTERM, on_stop);
    signal(SIGHUP, on_stop);
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    for (size_t i = 0; i < count && argc == 2; i++) {
        struct spec *spec = tests[i].initial_state;

        if (spec->is_slow)
            run_ahead(spec, tests[i].name, argv);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    return _cmocka_run_group_tests(argv[0], tests, count, NULL, NULL) == 0 ? 0 : 1;
}

int spec_begin(void **state)
{
    (void)state;
    unsetenv("TUNNEL_SECRET");
    test_began = now_ms();
    return 0;
}

/* By a reset, so that nobody has a reason to wait for what comes next. */
static void close_sockets(void)
{
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (is_open[fd]) {
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
            close(fd);
            is_open[fd] = false;
        }
}

/* The test went well: now the programs are to stop in good order. With sanitizers, this is where a leak shows. */
static void stop_programs(void)
{
    close_sockets();
    for (int i = 0; i < program_count; i++)
        if (!programs[i].ended)
            kill(programs[i].pid, SIGTERM);
    for (int i = 0; i < program_count; i++) {
        struct program *program = &programs[i];
        char expected[100], end[100];
        int64_t until = deadline(patience());
        bool was_running = !program->ended;

        while (!program->ended && await(-1, 0, until))
            ;
        describe_end(program, end, sizeof end);
        snprintf(expected, sizeof expected, "the %s to stop with status 0 on SIGTERM when the test was over",
                 program->name);
        if (was_running && (!program->ended || program->killed || program->status != 0))
            unmet_as(program, expected, end[0] == 's' ? "it still ran 5 s later" : end);
    }
}

void spec_run(void **state)
{
    struct spec *spec = *state;

    if (spec->process > 0) {
        take_result(spec);
    } else {
        spec->test();
        stop_programs();
    }
}

/* What the system knows of a process: its parent and the processor time it took. Returns whether it knows it. */
static bool look_up(int pid, int *parent, double *seconds)
{
    char path[50], line[1000] = "";
    unsigned long user, kernel;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *stat = fopen(path, "r");
    if (stat == NULL)
        return false;
    const char *rest = fgets(line, sizeof line, stat) != NULL ? strrchr(line, ')') : NULL;
    fclose(stat);
    if (rest == NULL ||
        sscanf(rest, ") %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", parent, &user, &kernel) != 3)
        return false;
    *seconds = (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
    return true;
}

static bool runs_ahead(int pid)
{
    for (int i = 0; i < ahead_count; i++)
        if (ahead[i]->process == pid)
            return true;
    return false;
}

/* Kills every child of this process but those; returns whether there was any. */
static bool kill_children(void)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    double seconds;
    int parent;
    bool any = false;

    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        int pid = atoi(entry->d_name);

        if (pid > 0 && look_up(pid, &parent, &seconds) && parent == getpid() && !runs_ahead(pid)) {
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
            any = true;
        }
    }
    if (proc != NULL)
        closedir(proc);
    return any;
}

int spec_end(void **state)
{
    (void)state;
    close_sockets();
    for (int i = 0; i < program_count; i++) {
        struct program *program = &programs[i];

        kill(-program->pid, SIGKILL);
        kill(program->pid, SIGKILL);
        waitpid(program->pid, NULL, 0); /* only now can its number become another process's */
        for (int j = 0; j < 2; j++) {
            struct capture *capture = j == 0 ? &program->output : &program->log;

            if (capture->fd >= 0)
                close(capture->fd);
            free(capture->text);
        }
        *program = (struct program){0};
    }
    program_count = 0;
    while (kill_children()) /* the children of those that were killed became ours, and so on */
        ;
    return 0;
}

/* ---- waiting ---- */

/* Takes what a program wrote, a bounded part at a time. */
static bool collect(struct capture *capture)
{
    if (capture->length > CAPTURE - 65536) { /* it writes and writes: forget the older half */
        memmove(capture->text, capture->text + capture->length / 2, capture->length - capture->length / 2);
        capture->length -= capture->length / 2;
    }
    ssize_t size = read(capture->fd, capture->text + capture->length, 65535);
    if (size > 0) {
        for (ssize_t i = 0; i < size; i++) /* so that the text is a string */
            if (capture->text[capture->length + (size_t)i] == '\0')
                capture->text[capture->length + (size_t)i] = '?';
        capture->length += (size_t)size;
        capture->text[capture->length] = '\0';
    } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(capture->fd);
        capture->fd = -1;
    }
    return size > 0;
}

static void reap(void)
{
    char bytes[64];

    while (read(child_ended[0], bytes, sizeof bytes) > 0)
        ;
    for (int i = 0; i < program_count; i++) {
        struct program *program = &programs[i];

        siginfo_t info = {0};

        if (program->ended || waitid(P_PID, (id_t)program->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
            info.si_pid == 0)
            continue;
        program->ended = true;
        program->killed = info.si_code != CLD_EXITED;
        program->status = info.si_status;
        for (int j = 0; j < 16 && program->log.fd >= 0 && collect(&program->log); j++)
            ;
        for (int j = 0; j < 16 && program->output.fd >= 0 && collect(&program->output); j++)
            ;
    }
}

/* A wait for descriptors is over, too, when this program ends: nobody else could make them ready. */
static struct program *needed;

/* Waits until one of the descriptors is ready (its revents say so), or else, with no descriptors, until any program wrote
 * something or ended. Returns false when that did not happen until then; a deadline that has passed still takes what is there. */
static bool await_any(struct pollfd *wanted, int count, int64_t until)
{
    for (;;) {
        struct pollfd polls[2 * PROGRAMS + 3];
        struct capture *captures[2 * PROGRAMS];
        int extra = 0, left = (int)(until - now_ms());
        bool came = false;

        for (int i = 0; i < program_count; i++)
            for (int j = 0; j < 2; j++) {
                struct capture *capture = j == 0 ? &programs[i].output : &programs[i].log;

                if (capture->fd >= 0) {
                    captures[extra] = capture;
                    polls[extra++] = (struct pollfd){.fd = capture->fd, .events = POLLIN};
                }
            }
        polls[extra] = (struct pollfd){.fd = child_ended[0], .events = POLLIN};
        for (int i = 0; i < count; i++)
            polls[extra + 1 + i] = wanted[i];
        int ready = poll(polls, (nfds_t)(extra + 1 + count), left > 0 ? left : 0);
        if (ready < 0)
            continue; /* a signal */
        for (int i = 0; i < extra; i++)
            if (polls[i].revents != 0)
                came |= collect(captures[i]);
        if (polls[extra].revents != 0) {
            came = true;
            reap();
        }
        if (count > 0)
            came = false;
        for (int i = 0; i < count; i++) {
            wanted[i].revents = polls[extra + 1 + i].revents;
            came |= wanted[i].revents != 0;
        }
        if (came)
            return true;
        if (left <= 0 || (count > 0 && needed != NULL && needed->ended))
            return false;
    }
}

/* fd -1: waits for the programs alone. */
static bool await(int fd, short events, int64_t until)
{
    struct pollfd wanted = {.fd = fd, .events = events};

    return await_any(&wanted, fd >= 0, until);
}

/* ---- programs ---- */

static int split(char *words, char **argv, int most)
{
    int count = 0;

    for (char *rest, *word = strtok_r(words, " ", &rest); word != NULL && count < most;
         word = strtok_r(NULL, " ", &rest))
        argv[count++] = word;
    return count;
}

static _Noreturn void become(const char *path, char *command, pid_t parent, const int *output, const int *log,
                             int soft, int hard)
{
    char *argv[64], wrapper[500];
    int count;
    sigset_t none;

    setsid();
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
#endif
    if (hard > 0 && setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)soft, (rlim_t)hard}) != 0)
        _exit(127);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, 0);
    dup2(output[1], 1);
    dup2(log[1], 2);
    if (nothing > 2)
        close(nothing);
    snprintf(wrapper, sizeof wrapper, "%s",
             getenv("TEST_WRAPPER") != NULL ? getenv("TEST_WRAPPER") : ""); /* valgrind */
    count = split(wrapper, argv, 20);
    argv[count++] = (char *)(uintptr_t)path;
    count += split(command, argv + count, 40);
    argv[count] = NULL;
    execvp(argv[0], argv);
    dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static struct program *run_words(int soft, int hard, const char *name, char *command)
{
    struct program *program = &programs[program_count];
    int output[2], log[2];
    char path[1000];
    pid_t parent = getpid();

    if (program_count == PROGRAMS || pipe(output) != 0 || pipe(log) != 0)
        unmet(NULL, "to start a program", "%s", strerror(errno));
    for (int i = 0; i < 2; i++) {
        fcntl(output[i], F_SETFD, FD_CLOEXEC);
        fcntl(log[i], F_SETFD, FD_CLOEXEC);
    }
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    fcntl(log[0], F_SETFL, O_NONBLOCK);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        become(path, command, parent, output, log, soft, hard);
    close(output[1]);
    close(log[1]);
    *program = (struct program){.name = name, .pid = pid, .output = {.fd = output[0]}, .log = {.fd = log[0]}};
    program->output.text = calloc(1, CAPTURE);
    program->log.text = calloc(1, CAPTURE);
    if (pid < 0 || program->output.text == NULL || program->log.text == NULL)
        unmet(NULL, "to start a program", "%s", strerror(errno));
    program_count++;
    return program;
}

struct program *run_limited(int soft, int hard, const char *name, const char *format, ...)
{
    char command[1000];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    return run_words(soft, hard, name, command);
}

struct program *run(const char *name, const char *format, ...)
{
    char command[1000];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    return run_words(0, 0, name, command);
}

int port_for(struct program *program, const char *whom)
{
    char text[100], expected[200];
    int64_t until = deadline(silent_starts < 2 ? patience() : patience() / 5); /* it won't do better now */

    snprintf(text, sizeof text, "listening for %s on port ", whom);
    snprintf(expected, sizeof expected, "the %s to log `%sN` once that port is open", program->name, text);
    for (;;) {
        const char *found = strstr(program->log.text, text);
        int port = found != NULL ? atoi(found + strlen(text)) : 0;

        if (found != NULL && strchr(found, '\n') != NULL) {
            if (port > 0 && port < 65536)
                return port;
            unmet(program, expected, "N was no port");
        }
        if (program->ended)
            unmet(program, expected, "it ended");
        if (!await(-1, 0, until) || now_ms() > until) {
            silent_starts++;
            unmet(program, expected, "no such line came in time");
        }
    }
}

bool has_logged(struct program *program, const char *regex)
{
    regex_t compiled;

    await(-1, 0, now_ms());
    if (regcomp(&compiled, regex, REG_EXTENDED | REG_NOSUB | REG_NEWLINE) != 0)
        unmet(NULL, "a regular expression", "\"%s\" is none", regex);
    bool found = regexec(&compiled, program->log.text, 0, NULL, 0) == 0;
    regfree(&compiled);
    return found;
}

void expect_log(struct program *program, const char *regex, const char *expected)
{
    int64_t until = deadline(patience());

    while (!has_logged(program, regex)) {
        if (program->ended)
            unmet_as(program, expected, "it ended without");
        if (!await(-1, 0, until) || now_ms() > until)
            unmet_as(program, expected, "no such line came in time");
    }
}

void await_any_log(struct program *program, double seconds)
{
    int64_t until = deadline(seconds);

    while (program->log.length == 0 && !program->ended && await(-1, 0, until) && now_ms() < until)
        ;
}

const char *log_of(struct program *program)
{
    await(-1, 0, now_ms());
    return program->log.text;
}

const char *output_of(struct program *program)
{
    await(-1, 0, now_ms());
    return program->output.text;
}

void expect_exit(struct program *program, int status)
{
    char expected[100], end[100];
    int64_t until = deadline(patience());

    while (!program->ended && await(-1, 0, until) && now_ms() < until)
        ;
    snprintf(expected, sizeof expected, "the %s to exit with status %d", program->name, status);
    describe_end(program, end, sizeof end);
    if (!program->ended)
        unmet_as(program, expected, "it still ran when its time was over");
    if (program->killed || program->status != status) {
        char came[110];

        snprintf(came, sizeof came, "it %s", end);
        unmet_as(program, expected, came);
    }
}

void expect_running(struct program *program)
{
    char expected[100];

    await(-1, 0, now_ms());
    snprintf(expected, sizeof expected, "the %s to go on", program->name);
    if (program->ended)
        unmet_as(program, expected, "it ended");
}

void send_signal(struct program *program, int number)
{
    if (!program->ended)
        kill(program->pid, number);
}

void kill_program(struct program *program)
{
    int64_t until = deadline(patience());

    kill(-program->pid, SIGKILL);
    while (!program->ended && await(-1, 0, until))
        ;
}

void expect_idle(struct program *program)
{
    char expected[100];
    double before, after;
    int parent;

    if (!look_up((int)program->pid, &parent, &before))
        skip_test("this system does not tell how much processor time a program takes");
    int64_t began = now_ms(), until = deadline(0.5);
    while (now_ms() < until)
        await(-1, 0, until);
    double passed = (double)(now_ms() - began) / 1000;
    snprintf(expected, sizeof expected, "the %s to wait without using the processor", program->name);
    if (!look_up((int)program->pid, &parent, &after))
        unmet_as(program, expected, "it ended");
    if (after - before > 0.15 * passed)
        unmet(program, expected, "it used it for %.2f s of %.2f s", after - before, passed);
}

int open_descriptors(struct program *program)
{
    char path[50];
    int count = 0;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)program->pid);
    DIR *directory = opendir(path);
    if (directory == NULL)
        return -1;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count - 2;
}

void expect_descriptors(struct program *program, int most)
{
    char expected[100];
    int count;

    snprintf(expected, sizeof expected, "the %s to have %d open descriptors at most", program->name, most);
    for (int64_t until = deadline(patience()); (count = open_descriptors(program)) > most;
         await(-1, 0, now_ms() + 5))
        if (now_ms() > until)
            unmet(program, expected, "it has %d", count);
}

/* ---- connections ---- */

static int keep(int fd)
{
    if (fd < 0 || fd >= DESCRIPTORS)
        unmet(NULL, "another socket for the test", "%s", strerror(errno));
    is_open[fd] = true;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void close_socket(int *fd)
{
    if (*fd < 0)
        return;
    is_open[*fd] = false;
    close(*fd);
    *fd = -1;
}

static socklen_t make_address(struct sockaddr_storage *storage, const char *address, int port)
{
    struct sockaddr_in *four = (struct sockaddr_in *)storage;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)storage;

    memset(storage, 0, sizeof *storage);
    if (strchr(address, ':') == NULL) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        inet_pton(AF_INET, address, &four->sin_addr);
        return sizeof *four;
    }
    six->sin6_family = AF_INET6;
    six->sin6_port = htons((uint16_t)port);
    inet_pton(AF_INET6, address, &six->sin6_addr);
    return sizeof *six;
}

/* Returns 0 or the error. room 0: as much as the system thinks fit. */
static int try_dial(const char *address, int port, int room, int *fd)
{
    struct sockaddr_storage storage;
    socklen_t length = make_address(&storage, address, port);
    int error = 0;
    socklen_t size = sizeof error;

    *fd = keep(socket(storage.ss_family, SOCK_STREAM, 0));
    setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (room > 0)
        setsockopt(*fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (connect(*fd, (struct sockaddr *)&storage, length) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return errno;
    if (!await(*fd, POLLOUT, deadline(patience())))
        return ETIMEDOUT;
    getsockopt(*fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

struct peer dial_address(const char *name, struct program *with, const char *address, int port)
{
    struct peer peer = {.name = name, .with = with};
    int error = try_dial(address, port, 0, &peer.fd);

    if (error != 0 && error != ECONNRESET) { /* which comes after it was reached */
        char expected[200];

        snprintf(expected, sizeof expected, "%s to reach port %d at %s", name, port, address);
        unmet_as(with, expected, strerror(error));
    }
    return peer;
}

struct peer dial(const char *name, struct program *with, int port)
{
    return dial_address(name, with, "127.0.0.1", port);
}

struct peer dial_narrowly(const char *name, struct program *with, int port)
{
    struct peer peer = {.name = name, .with = with};

    if (try_dial("127.0.0.1", port, 1, &peer.fd) != 0)
        unmet(with, "the port that was logged to be open", "port %d is not", port);
    return peer;
}

void widen(struct peer *peer)
{
    setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &(int){1 << 20}, sizeof(int));
}

struct peer dial_when_open(const char *name, struct program *with, int port)
{
    struct peer peer = {.name = name, .with = with};

    for (int64_t until = deadline(patience()); try_dial("127.0.0.1", port, 0, &peer.fd) != 0;
         await(-1, 0, now_ms() + 5)) {
        close_socket(&peer.fd);
        if (with->ended || now_ms() > until)
            unmet(with, "the port that was given to be open", "port %d is not", port);
    }
    return peer;
}

void expect_refused(struct program *with, const char *address, int port, const char *what)
{
    int fd, error = try_dial(address, port, 0, &fd);

    close_socket(&fd);
    if (error == 0)
        unmet_as(with, what, "a connection was accepted");
}

void expect_refused_soon(struct program *with, int port, const char *what)
{
    int fd, error;

    for (int64_t until = deadline(patience());; await(-1, 0, now_ms() + 5)) {
        error = try_dial("127.0.0.1", port, 0, &fd);
        close_socket(&fd);
        if (error == ECONNREFUSED)
            return;
        if (now_ms() > until)
            unmet(with, what, "port %d is still open", port);
    }
}

bool has_ipv6(void)
{
    struct sockaddr_storage storage;
    socklen_t length = make_address(&storage, "::1", 0);
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    bool can = fd >= 0 && bind(fd, (struct sockaddr *)&storage, length) == 0;

    if (fd >= 0)
        close(fd);
    return can;
}

static int port_of(int fd)
{
    struct sockaddr_storage storage;
    socklen_t length = sizeof storage;

    getsockname(fd, (struct sockaddr *)&storage, &length);
    return ntohs(storage.ss_family == AF_INET ? ((struct sockaddr_in *)&storage)->sin_port
                                              : ((struct sockaddr_in6 *)&storage)->sin6_port);
}

int own_port(struct peer *peer)
{
    return port_of(peer->fd);
}

/* Who was waiting for what, for a failure's sentence. */
static _Noreturn void unmet_at(struct peer *peer, const char *expected, const char *came)
{
    char sentence[500];

    snprintf(sentence, sizeof sentence, "%s at %s", expected, peer->name);
    unmet_as(peer->with, sentence, came);
}

void say_bytes(struct peer *peer, const void *bytes, size_t size)
{
    int64_t until = deadline(patience());

    for (size_t sent = 0; sent < size;) {
        ssize_t more = send(peer->fd, (const char *)bytes + sent, size - sent, MSG_NOSIGNAL);

        if (more > 0)
            sent += (size_t)more;
        else if (errno != EAGAIN)
            unmet_at(peer, "to be heard", strerror(errno));
        else if (!await(peer->fd, POLLOUT, until))
            unmet_at(peer, "to be heard", "nobody read what was said");
    }
}

void say(struct peer *peer, const char *format, ...)
{
    char text[1000];
    va_list arguments;

    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    say_bytes(peer, text, (size_t)size);
}

/* Reads at most size bytes, at least one; 0 at the end; -1 after a reset; -2 when nothing comes in time. */
static ssize_t hear(struct peer *peer, void *bytes, size_t size, int64_t until)
{
    for (;;) {
        ssize_t got = recv(peer->fd, bytes, size, 0);

        if (got >= 0 || (errno != EAGAIN && errno != EINTR))
            return got < 0 ? -1 : got;
        if (!await(peer->fd, POLLIN, until))
            return -2;
    }
}

static const char *what_came(ssize_t got)
{
    return got == 0    ? "the connection was closed"
           : got == -1 ? "the connection was reset"
                       : "nothing came in time";
}

/* Bytes as they can be shown in a sentence. */
static const char *shown(const char *bytes, size_t size)
{
    static char text[300];
    size_t length = 0;

    for (size_t i = 0; i < size && length < sizeof text - 8; i++)
        length +=
            (size_t)(isprint((unsigned char)bytes[i]) ? snprintf(text + length, 8, "%c", bytes[i])
                     : bytes[i] == '\n'               ? snprintf(text + length, 8, "\\n")
                                        : snprintf(text + length, 8, "\\x%02x", (unsigned char)bytes[i]));
    text[length] = '\0';
    return text;
}

const char *next_line(struct peer *peer, const char *expected)
{
    static char line[200];
    int64_t until = deadline(patience());
    char came[400];

    for (size_t length = 0; length < sizeof line; length++) {
        ssize_t got = hear(peer, line + length, 1, until);

        if (got == 1 && line[length] == '\n') {
            line[length] = '\0';
            return line;
        }
        if (got != 1) {
            if (length == 0)
                unmet_at(peer, expected, what_came(got));
            snprintf(came, sizeof came, "after `%s` %s", shown(line, length), what_came(got));
            unmet_at(peer, expected, came);
        }
    }
    snprintf(came, sizeof came, "a line came that has no end: `%.100s`", shown(line, sizeof line));
    unmet_at(peer, expected, came);
}

void expect_line(struct peer *peer, const char *line)
{
    char expected[200], came[400];
    snprintf(expected, sizeof expected, "`%s`", line);
    const char *got = next_line(peer, expected);

    snprintf(came, sizeof came, "`%s` came", shown(got, strlen(got)));
    if (strcmp(got, line) != 0)
        unmet_at(peer, expected, came);
}

void expect_bytes(struct peer *peer, const char *bytes)
{
    char got[1000], expected[300], came[400];
    int64_t until = deadline(patience());
    size_t size = strlen(bytes);

    snprintf(expected, sizeof expected, "the bytes `%s`", shown(bytes, size));
    for (size_t length = 0; length < size && length < sizeof got;) {
        ssize_t more = hear(peer, got + length, size - length, until);

        if (more <= 0 && length == 0)
            unmet_at(peer, expected, what_came(more));
        if (more <= 0 || memcmp(got, bytes, length + (size_t)more) != 0) {
            snprintf(came, sizeof came, "`%s` came%s%s", shown(got, length + (size_t)(more > 0 ? more : 0)),
                     more <= 0 ? ", then " : "", more <= 0 ? what_came(more) : "");
            unmet_at(peer, expected, came);
        }
        length += (size_t)more;
    }
}

char next_byte(struct peer *peer)
{
    char byte = '\0';
    ssize_t got = hear(peer, &byte, 1, deadline(patience()));

    if (got != 1)
        unmet_at(peer, "another byte", what_came(got));
    return byte;
}

/* Expects that nothing more comes but `end`: 0 an end, -1 a reset, 1 any of them. */
static void expect_last(struct peer *peer, int end, const char *expected)
{
    char bytes[200], came[400];
    ssize_t got = hear(peer, bytes, sizeof bytes, deadline(patience()));

    if (got == end || (end == 1 && (got == 0 || got == -1)))
        return;
    if (got <= 0)
        unmet_at(peer, expected, what_came(got));
    snprintf(came, sizeof came, "`%s` came", shown(bytes, (size_t)got));
    unmet_at(peer, expected, came);
}

void expect_end(struct peer *peer)
{
    expect_last(peer, 0, "the end of what the other side says");
}

void expect_reset(struct peer *peer)
{
    expect_last(peer, -1, "a reset");
    close_socket(&peer->fd);
}

void expect_closed(struct peer *peer, const char *why)
{
    expect_last(peer, 1, why);
    close_socket(&peer->fd);
}

void expect_closed_after_anything(struct peer *peer, const char *why)
{
    char bytes[1000];
    int64_t until = deadline(patience());
    ssize_t got;

    while ((got = hear(peer, bytes, sizeof bytes, until)) > 0)
        ;
    if (got == -2)
        unmet_at(peer, why, "it stayed open");
    close_socket(&peer->fd);
}

void expect_nothing_yet(struct peer *peer)
{
    char bytes[200], came[400];
    ssize_t got = hear(peer, bytes, sizeof bytes, now_ms());

    if (got == -2)
        return;
    if (got <= 0)
        unmet_at(peer, "nothing yet", what_came(got));
    snprintf(came, sizeof came, "`%s` came", shown(bytes, (size_t)got));
    unmet_at(peer, "nothing yet", came);
}

bool comes_within(struct peer *peer, double seconds)
{
    return await(peer->fd, POLLIN, deadline(seconds));
}

bool hears(struct peer *peer, const char *text, double seconds)
{
    char heard[1000] = "";
    int64_t until = deadline(seconds);

    for (size_t length = 0; length < sizeof heard - 1;) {
        ssize_t got = hear(peer, heard + length, sizeof heard - 1 - length, until);

        if (got <= 0)
            return false;
        length += (size_t)got;
        if (strstr(heard, text) != NULL)
            return true;
    }
    return false;
}

void finish(struct peer *peer)
{
    shutdown(peer->fd, SHUT_WR);
}

void reset(struct peer *peer)
{
    setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
    close_socket(&peer->fd);
}

void leave(struct peer *peer)
{
    close_socket(&peer->fd);
}

/* ---- many bytes ---- */

/* Bytes from one peer to another: the i-th of them is pattern(seed, i). */
struct flow {
    struct peer *from, *to;
    unsigned seed;
    size_t size, sent, got;
};

static unsigned char pattern(unsigned seed, size_t i)
{
    unsigned mixed = ((unsigned)i + seed * 7919) * 2654435761U;

    return (unsigned char)(mixed >> 24 ^ mixed >> 13);
}

/* Pieces of all sizes up to 64 KiB. */
static size_t piece(size_t position, size_t left)
{
    size_t size = 1 + (position * 7 + 12345) % 65536;

    return size < left ? size : left;
}

static void send_some(struct flow *flow)
{
    static unsigned char bytes[65536];
    size_t size = piece(flow->sent, flow->size - flow->sent);

    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern(flow->seed, flow->sent + i);
    ssize_t sent = send(flow->from->fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        unmet_at(flow->from, "that all bytes are taken", strerror(errno));
    flow->sent += sent > 0 ? (size_t)sent : 0;
}

static void receive_some(struct flow *flow)
{
    static unsigned char bytes[65536];
    ssize_t got = recv(flow->to->fd, bytes, piece(flow->got, flow->size - flow->got), 0);
    char came[100];

    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        snprintf(came, sizeof came, "after %zu of %zu bytes %s", flow->got, flow->size, what_came(got));
        unmet_at(flow->to, "all bytes that were sent", came);
    }
    for (ssize_t i = 0; i < got; i++)
        if (bytes[i] != pattern(flow->seed, flow->got + (size_t)i)) {
            snprintf(came, sizeof came, "byte %zu is another one", flow->got + (size_t)i);
            unmet_at(flow->to, "each byte as it was sent", came);
        }
    flow->got += (size_t)got;
}

static void run_flows(struct flow *flows, int count)
{
    int64_t until = deadline(3 * patience());

    for (;;) {
        struct pollfd polls[4];
        bool done = true;

        for (int i = 0; i < count; i++) {
            struct flow *flow = &flows[i];

            polls[2 * i] =
                (struct pollfd){.fd = flow->sent < flow->size ? flow->from->fd : -1, .events = POLLOUT};
            polls[2 * i + 1] =
                (struct pollfd){.fd = flow->got < flow->size ? flow->to->fd : -1, .events = POLLIN};
            done &= flow->got == flow->size;
        }
        if (done)
            return;
        if (!await_any(polls, 2 * count, until) || now_ms() > until) {
            char came[200];
            int late = flows[0].got < flows[0].size ? 0 : 1;

            snprintf(came, sizeof came, "only %zu of %zu bytes came in time", flows[late].got,
                     flows[late].size);
            unmet_at(flows[late].to, "all bytes that were sent", came);
        }
        for (int i = 0; i < count; i++) {
            if (polls[2 * i].revents != 0)
                send_some(&flows[i]);
            if (polls[2 * i + 1].revents != 0)
                receive_some(&flows[i]);
        }
    }
}

void exchange(struct peer *left, struct peer *right, size_t from_left, size_t from_right)
{
    struct flow flows[2] = {{.from = left, .to = right, .seed = 1, .size = from_left},
                            {.from = right, .to = left, .seed = 2, .size = from_right}};

    run_flows(flows, 2);
}

void expect_echo(struct peer *peer, size_t size)
{
    run_flows(&(struct flow){.from = peer, .to = peer, .seed = 3, .size = size}, 1);
}

size_t stuff(struct peer *peer)
{
    struct flow flow = {.from = peer, .to = peer, .seed = 4, .size = SIZE_MAX};

    while (await(peer->fd, POLLOUT, deadline(0.2)))
        send_some(&flow);
    return flow.sent;
}

void expect_stuffed(struct peer *peer, size_t size)
{
    run_flows(&(struct flow){.from = peer, .to = peer, .seed = 4, .size = size, .sent = size}, 1);
}

/* ---- doors ---- */

/* Binds a socket, or ends the test. Port 0 is any free one. */
static int bind_socket(const char *address, int port)
{
    struct sockaddr_storage storage;
    socklen_t length = make_address(&storage, address, port);
    int fd = keep(socket(storage.ss_family, SOCK_STREAM, 0));
    int only = strcmp(address, "::") != 0; /* all addresses are those of IPv4 too */

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (storage.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    if (bind(fd, (struct sockaddr *)&storage, length) != 0)
        unmet(NULL, "a free port for the test", "%s", strerror(errno));
    return fd;
}

struct door hold_port(const char *name)
{
    struct door door = {.fd = bind_socket(has_ipv6() ? "::" : "0.0.0.0", 0), .name = name};

    door.port = port_of(door.fd);
    return door;
}

struct door open_door_ipv6(const char *name)
{
    struct door door = hold_port(name); /* on all addresses, so that this number is nobody else's */

    door.fd = bind_socket("::1", door.port);
    open_it(&door);
    return door;
}

struct door open_door(const char *name)
{
    struct door door = {.fd = bind_socket("127.0.0.1", 0), .name = name};

    door.port = port_of(door.fd);
    open_it(&door);
    return door;
}

void open_it(struct door *door)
{
    if (listen(door->fd, 4096) != 0)
        unmet(NULL, "to listen", "%s", strerror(errno));
}

struct peer expect_caller(struct door *door, const char *name)
{
    struct peer peer = {.name = name, .with = door->with};
    char expected[200];

    snprintf(expected, sizeof expected, "a connection to %s", door->name);
    needed = door->with;
    bool came = await(door->fd, POLLIN, deadline(patience()));
    needed = NULL;
    if (!came)
        unmet_as(door->with, expected, "none came");
    peer.fd = keep(accept(door->fd, NULL, NULL));
    setsockopt(peer.fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return peer;
}

void expect_no_caller_yet(struct door *door)
{
    char expected[200];

    snprintf(expected, sizeof expected, "no connection to %s yet", door->name);
    if (await(door->fd, POLLIN, now_ms()))
        unmet_as(door->with, expected, "one came");
}

bool has_caller_within(struct door *door, double seconds)
{
    return await(door->fd, POLLIN, deadline(seconds));
}

/* ---- time ---- */

void expect_later_than(struct program *program, int64_t since, double seconds, const char *what)
{
    double passed = (double)(now_ms() - since) / 1000;
    char expected[200];

    snprintf(expected, sizeof expected, "%s after %.2f s at the soonest", what, seconds);
    if (passed < seconds - 0.002) /* the clocks round to milliseconds */
        unmet(program, expected, "it came after %.2f s", passed);
}

void expect_sooner_than(struct program *program, int64_t since, double seconds, const char *what)
{
    double passed = (double)(now_ms() - since) / 1000;
    char expected[200];

    snprintf(expected, sizeof expected, "%s after %.2f s at the latest", what, seconds * slowness());
    if (passed > seconds * slowness())
        unmet(program, expected, "it came after %.2f s", passed);
}
