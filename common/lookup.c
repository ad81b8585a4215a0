/*
 * How it works: getaddrinfo(3) is the one way to ask that knows all that this machine knows: /etc/hosts, DNS,
 * what an administrator has added. But it waits for the answer, ten seconds and more if a name server is
 * silent. So a thread of its own waits, the only one that a stage's programs have, which touches nothing but its question.
 * When the answer is there, the thread closes its end of a pipe; the loop, which watches the other end, is told.
 *
 * Nothing can interrupt getaddrinfo. Who no longer wants the answer lets go of the question, and the thread
 * frees it when it is done. The program's end need not wait for it: exit(3) ends all threads.
 *
 * Why no child process: fork(2) would give it a copy of each open connection, which then could not end
 * before the child does; and the poller would tell us of descriptors that we have closed, as long as the
 * child has them. Besides, getaddrinfo is not safe after a fork on macOS.
 */
#include "lookup.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "os.h"

#ifndef EAI_NODATA
#define EAI_NODATA EAI_NONAME /* not in POSIX: the name exists, but has no address */
#endif

struct question {
    char host[256];
    char port[8];
    int bell;           /* the thread's end of the pipe */
    atomic_int holders; /* the thread, and who wants to know */
    struct addrinfo *found;
    int error;        /* EAI_... or 0 */
    int system_error; /* for EAI_SYSTEM: errno */
};

/* The last one out switches off the light. */
static void let_go(struct question *question)
{
    if (atomic_fetch_sub(&question->holders, 1) > 1)
        return;
    if (question->found != NULL)
        freeaddrinfo(question->found);
    free(question);
}

static void *ask(void *argument)
{
    struct question *question = argument;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    int bell = question->bell;

    pthread_detach(pthread_self()); /* nobody waits for its end */
    question->error = getaddrinfo(question->host, question->port, &hints, &question->found);
    question->system_error = errno;
    let_go(question); /* first: who is told has the question alone */
    close(bell);
    return NULL;
}

static void on_bell(void *owner, unsigned ready)
{
    struct lookup *lookup = owner;
    struct question *question = lookup->question;
    struct answer answer = {0};

    (void)ready;
    if (atomic_load(&question->holders) > 1)
        return; /* no answer yet; who sees that there is one sees all that the thread wrote before */
    lookup->question = NULL;
    watch_close(lookup->loop, &lookup->watch);
    errno = question->system_error;
    if (question->error == 0)
        answer.found = question->found;
    else
        answer.why = question->error == EAI_SYSTEM ? errno_text() : gai_strerror(question->error);
    answer.no_such_name = question->error == EAI_NONAME || question->error == EAI_NODATA;
    lookup->on_answer(lookup->owner, &answer);
    let_go(question);
}

/* The thread begins with all signals blocked: they are the loop's, and the log's. */
static int start_thread(struct question *question)
{
    pthread_t thread;
    sigset_t every, before;

    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    int error = pthread_create(&thread, NULL, ask, question);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return error == 0 ? 0 : -1;
}

/* glibc asks a silent name server again after two seconds then, not five, so that a network that comes up is noticed
 * soon; after ten it fails, as ever (resolv.conf(5)). What a user has set stays. */
static void be_impatient(void)
{
    setenv("RES_OPTIONS", "timeout:2 attempts:5", 0);
}

static struct question *new_question(const char *host, int port)
{
    struct question *question = calloc(1, sizeof *question);

    if (question == NULL)
        return NULL;
    atomic_init(&question->holders, 2);
    snprintf(question->host, sizeof question->host, "%s", host);
    snprintf(question->port, sizeof question->port, "%d", port);
    return question;
}

int lookup_start(struct lookup *lookup, struct loop *loop, const char *host, int port,
                 void (*on_answer)(void *owner, const struct answer *answer), void *owner)
{
    struct question *question = new_question(host, port);
    int pipe[2];

    *lookup = (struct lookup){.loop = loop, .on_answer = on_answer, .owner = owner};
    if (question == NULL || os_pipe(pipe) != 0) {
        free(question);
        return -1;
    }
    be_impatient();
    lookup->question = question;
    question->bell = pipe[1];
    if (watch_start(loop, &lookup->watch, pipe[0], WATCH_READ, on_bell, lookup) == 0 &&
        start_thread(question) == 0)
        return 0;
    int error = errno;
    watch_close(loop, &lookup->watch);
    close(pipe[1]);
    free(question);
    lookup->question = NULL;
    errno = error;
    return -1;
}

void lookup_stop(struct lookup *lookup)
{
    if (!lookup_is_running(lookup))
        return;
    watch_close(lookup->loop, &lookup->watch);
    let_go(lookup->question);
    lookup->question = NULL;
}

bool lookup_is_running(const struct lookup *lookup)
{
    return lookup->question != NULL;
}
