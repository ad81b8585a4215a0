/*
 * How it works: the test is one thread that never blocks but in await(), a poll() of what the test waits
 * for together with the output of all programs. So a program's output is always taken, however much it is,
 * and each wait ends at its deadline.
 *
 * Each program is the leader of a session of its own. At the end of a test its whole process group is
 * killed; what left the group becomes a child of this process (PR_SET_CHILD_SUBREAPER) and is killed as
 * such.
 */
#include "inner.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
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

enum { DRAIN_SECONDS = 8 }; /* that a program takes to stop which does not know that its users are gone */
enum { PROGRAMS = 64, CAPTURE = 512 * 1024, TEST_SECONDS = 40 };

/* How long no test goes well until the others are left out; and where a program has never shown itself. */
enum { HOPELESS_SECONDS = 15, UNSEEN_SECONDS = 6 };

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
    int unread_log; /* what nobody reads, for now; else 0 */
};

/* How a program is started. */
struct start {
    int soft, hard; /* limits on descriptors; 0: the tests' own */
    bool without_streams;
    bool log_is_full;
};

static const char *folder;
static struct program programs[PROGRAMS];
static int program_count;
static int child_ended[2]; /* a pipe: SIGCHLD writes to it */
static int64_t test_began;
static struct spec *ahead[64]; /* tests that run ahead */
static int ahead_count;
static const char *test_name; /* the test's name */
static int passes, skips;
static const char *failures[512]; /* the names of those that failed */
static int failure_count, failed_in_a_row;
static int64_t went_well; /* the time when a test did so the last time, or of the beginning */
static struct sight {
    const char *name;
    bool seen;   /* once at least: it said where it listens, or it called */
    int in_vain; /* how often it did not */
} sights[] = {{.name = "server"}, {.name = "client"}};
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

bool resets_are_told_late(void)
{
#ifdef __APPLE__
    return true;
#else
    return getenv("TEST_AS_ON_MACOS") != NULL; /* see tests/platforms/as-on-macos */
#endif
}

double patience(void)
{
    return 5 * slowness();
}

int64_t deadline(double seconds)
{
    int64_t end = test_began + (int64_t)(slowness() * 1000 * (double)TEST_SECONDS);
    int64_t until = now_ms() + (int64_t)(seconds * 1000);

    return until < end ? until : end;
}

static struct sight *sight_of(const struct program *program)
{
    return &sights[program != NULL && strcmp(program->name, "client") == 0];
}

double patience_for_sight(const struct program *program)
{
    const struct sight *sight = sight_of(program);

    return sight->seen || sight->in_vain < 2 ? patience() : patience() / 5; /* it won't do better now */
}

void note_sight(const struct program *program, bool came)
{
    if (program == NULL)
        return;
    sight_of(program)->seen |= came;
    sight_of(program)->in_vain += !came;
}

/* The name of a program that was never seen, although a few tests have waited for it; else NULL. */
static const char *unseen(void)
{
    for (int i = 0; i < 2; i++)
        if (!sights[i].seen && sights[i].in_vain > 2)
            return sights[i].name;
    return NULL;
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

static void describe_end(const struct program *program, char *text, size_t size)
{
    if (!program->ended)
        snprintf(text, size, "still runs");
    else if (program->killed)
        snprintf(text, size, "was ended by signal %d (%s)", program->status, strsignal(program->status));
    else
        snprintf(text, size, "exited with status %d", program->status);
}

void unmet_as(struct program *program, const char *expected, const char *came)
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
    skips++;
    print_message("skipped: %s: %s\n", test_name, reason);
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
        if (strncmp(line, "skipped: ", 9) == 0)
            print_message("%s", line);
        else if (strncmp(line, "[ ", 2) != 0 && strncmp(line, "[==", 3) != 0 && status != 0 &&
                 line[0] != '\n' && strstr(line, " FAILED TEST(S)") == NULL)
            print_error("%s", line);
    }
    fclose(spec->output);
    if (skipped) {
        skips++;
        _skip(where, where_line);
    }
    if (status != 0)
        _fail(where, where_line);
}

static bool any_is_like(const char *pattern, const struct CMUnitTest *tests, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fnmatch(pattern, tests[i].name, 0) == 0)
            return true;
    return false;
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
    if (argc > 2 && !any_is_like(argv[2], tests, count)) {
        fprintf(stderr, "Expected a pattern such as '*token*', but no test has a name like '%s'.\n", argv[2]);
        return 2;
    }
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    for (size_t i = 0; i < count && argc == 2; i++) {
        struct spec *spec = tests[i].initial_state;

        if (spec->is_slow)
            run_ahead(spec, tests[i].name, argv);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    int failed = _cmocka_run_group_tests(argv[0], tests, count, NULL, NULL);
    if (failed > 1 && failure_count > 0) /* it is far above the end of a long list */
        print_message("Begin with the first that failed, %s.\n", failures[0]);
    return failed == 0 ? 0 : 1;
}

/* Ends the tests that run ahead, as nobody will ask for their results. */
static void end_ahead(void)
{
    for (int i = 0; i < ahead_count; i++)
        if (ahead[i]->process > 0) {
            kill(ahead[i]->process, SIGTERM);
            waitpid(ahead[i]->process, NULL, 0);
        }
}

/* Where nothing works, each of many tests takes its seconds to fail. Then the first of them say enough. It ends as
 * cmocka does. */
static _Noreturn void give_up(void)
{
    end_ahead();
    print_message("The last %d tests have all failed, which took more than %d s", failed_in_a_row,
                  (int)((double)(now_ms() - went_well) / 1000));
    if (unseen() != NULL)
        print_message(", and the %s has never shown itself", unseen());
    print_message(": the others are left out. Begin with the first that failed, %s.\n", failures[0]);
    print_message("[==========] %d test(s) run.\n[  PASSED  ] %d test(s).\n", failure_count + passes + skips,
                  passes);
    print_error("[  FAILED  ] %d test(s), listed below:\n", failure_count);
    for (int i = 0; i < failure_count; i++)
        print_error("[  FAILED  ] %s\n", failures[i]);
    fflush(stdout);
    _exit(1);
}

/* What became of the test before the next one is known now only: whoever fails does not come back to spec_run. */
static void count_last(const char *next)
{
    static int came_back;

    if (test_name == NULL || passes + skips > came_back) {
        failed_in_a_row = 0;
        went_well = now_ms();
    } else if (failure_count < (int)(sizeof failures / sizeof failures[0])) {
        failures[failure_count++] = test_name;
        failed_in_a_row++;
    }
    came_back = passes + skips;
    test_name = next;
    int most = unseen() != NULL ? UNSEEN_SECONDS : HOPELESS_SECONDS;
    if ((double)(now_ms() - went_well) > most * 1000 * slowness())
        give_up();
}

int spec_begin(void **state)
{
    count_last(((struct spec *)*state)->name);
    unsetenv("TUNNEL_SECRET");
    test_began = now_ms();
    return 0;
}

/* The test went well: now the programs are to stop in good order. With sanitizers, this is where a leak
 * shows. */
static void stop_programs(void)
{
    close_sockets();
    for (int i = 0; i < program_count; i++)
        if (!programs[i].ended)
            kill(programs[i].pid, SIGTERM);
    for (int i = 0; i < program_count; i++) {
        struct program *program = &programs[i];
        char expected[100], end[100];
        int64_t until = deadline(patience() + (resets_are_told_late() ? DRAIN_SECONDS : 0));
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
    passes++;
}

/* What the system knows of a process: its parent and the processor time it took. Returns whether it
 * knows it. */
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
        if (program->unread_log > 0)
            close(program->unread_log);
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

bool await_any(struct pollfd *wanted, int count, struct program *needed, int64_t until)
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
        int ready = poll(polls, (nfds_t)extra + 1 + (nfds_t)count, left > 0 ? left : 0);
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
        if (left <= 0 || (needed != NULL && needed->ended))
            return false;
    }
}

bool await(int fd, short events, int64_t until)
{
    struct pollfd wanted = {.fd = fd, .events = events};

    return await_any(&wanted, fd >= 0, NULL, until);
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
                             const struct start *start)
{
    char *argv[64], wrapper[500];
    int count;
    sigset_t none;

    setsid();
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    if (getppid() != parent)
        _exit(127);
    struct rlimit limit = {(rlim_t)start->soft, (rlim_t)start->hard};
    if (start->hard > 0 && setrlimit(RLIMIT_NOFILE, &limit) != 0)
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
    for (int fd = 0; start->without_streams && fd < 3; fd++)
        close(fd);
    execvp(argv[0], argv);
    dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Writes into a pipe until it is full. */
static void fill(int fd)
{
    static const char lines[4096] = "\n";
    int flags = fcntl(fd, F_GETFL);

    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    while (write(fd, lines, sizeof lines) > 0)
        ;
    fcntl(fd, F_SETFL, flags);
}

static struct program *run_words(const struct start *start, const char *name, char *command)
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
    if (start->log_is_full)
        fill(log[1]);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        become(path, command, parent, output, log, start);
    close(output[1]);
    close(log[1]);
    *program = (struct program){.name = name, .pid = pid, .output = {.fd = output[0]}, .log = {.fd = log[0]}};
    program->output.text = calloc(1, CAPTURE);
    program->log.text = calloc(1, CAPTURE);
    if (start->log_is_full) {
        program->unread_log = log[0];
        program->log.fd = -1;
    }
    if (pid < 0 || program->output.text == NULL || program->log.text == NULL)
        unmet(NULL, "to start a program", "%s", strerror(errno));
    program_count++;
    return program;
}

/* An emulator is content with a few; valgrind keeps some for itself, whatever the limit. */
static bool wrapper_needs_descriptors(int limit)
{
    const char *wrapper = getenv("TEST_WRAPPER");

    return wrapper != NULL && (limit < 8 || strstr(wrapper, "valgrind") != NULL);
}

static struct program *run_as(const struct start *start, const char *name, const char *format,
                              va_list arguments)
{
    char command[1000];

    vsnprintf(command, sizeof command, format, arguments);
    return run_words(start, name, command);
}

struct program *run_limited(int soft, int hard, const char *name, const char *format, ...)
{
    va_list arguments;

    if (wrapper_needs_descriptors(soft))
        skip_test("the limits would be the wrapper's too");
    va_start(arguments, format);
    struct program *program = run_as(&(struct start){.soft = soft, .hard = hard}, name, format, arguments);
    va_end(arguments);
    return program;
}

struct program *run_without_streams(const char *name, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    struct program *program = run_as(&(struct start){.without_streams = true}, name, format, arguments);
    va_end(arguments);
    return program;
}

struct program *run_unread(const char *name, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    struct program *program = run_as(&(struct start){.log_is_full = true}, name, format, arguments);
    va_end(arguments);
    return program;
}

void read_log(struct program *program)
{
    program->log.fd = program->unread_log;
    program->unread_log = 0;
    await(-1, 0, now_ms());
}

struct program *run(const char *name, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    struct program *program = run_as(&(struct start){0}, name, format, arguments);
    va_end(arguments);
    return program;
}

int port_for(struct program *program, const char *whom)
{
    char text[100], expected[200];
    int64_t until = deadline(patience_for_sight(program));

    snprintf(text, sizeof text, "listening for %s on port ", whom);
    snprintf(expected, sizeof expected, "the %s to log `%sN` once that port is open", program->name, text);
    for (;;) {
        const char *found = strstr(program->log.text, text);
        int port = found != NULL ? atoi(found + strlen(text)) : 0;

        if (found != NULL && strchr(found, '\n') != NULL) {
            if (port <= 0 || port >= 65536)
                unmet(program, expected, "N was no port");
            note_sight(program, true);
            return port;
        }
        if (program->ended)
            unmet(program, expected, "it ended");
        if (!await(-1, 0, until) || now_ms() > until) {
            note_sight(program, false);
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

/* How long a process had a processor, or stood in line for one: on a busy machine only that tells one that never
 * sleeps. Less than 0: this system does not tell. */
static double looked_up_want(int pid)
{
    unsigned long long running = 0, in_line = 0;
    char path[50];

    snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
    FILE *stat = fopen(path, "r");
    bool is_known = stat != NULL && fscanf(stat, "%llu %llu", &running, &in_line) == 2 && running > 0;
    if (stat != NULL)
        fclose(stat);
    return is_known ? (double)(running + in_line) / 1e9 : -1;
}

void expect_idle(struct program *program)
{
    char expected[100];
    double before = 0, after = 0;
    int parent, pid = (int)program->pid;

    if (!look_up(pid, &parent, &before))
        skip_test("this system does not tell how much processor time a program takes");
    double wanted_before = looked_up_want(pid);
    int64_t began = now_ms(), until = deadline(0.5);
    while (now_ms() < until)
        await(-1, 0, until);
    double wanted = looked_up_want(pid) - wanted_before;
    double passed = (double)(now_ms() - began) / 1000;
    snprintf(expected, sizeof expected, "the %s to wait without using the processor", program->name);
    if (!look_up(pid, &parent, &after))
        unmet_as(program, expected, "it ended");
    if (after - before > 0.15 * passed)
        unmet(program, expected, "it used it for %.2f s of %.2f s", after - before, passed);
    if (wanted_before >= 0 && wanted > 0.9 * passed)
        unmet(program, expected, "it wanted it for %.2f s of %.2f s", wanted, passed);
}

int open_descriptors(struct program *program)
{
    return descriptors_of(program->pid);
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

bool has_ended(struct program *program)
{
    return program->ended;
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
