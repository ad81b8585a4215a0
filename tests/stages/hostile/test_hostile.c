/*
 * Whatever a half-finished program does, the tests of the stages end in time, say in one sentence what was
 * expected and what came, and leave no process behind. Here they are run on programs that misbehave on
 * purpose.
 */
#include "../harness.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How many processes there are, other than the tests, that carry the mark of this run in their
 * environment. */
static int count_left(void)
{
    static char environment[65536];
    char mark[50], path[300];
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    int left = 0;

    snprintf(mark, sizeof mark, "MISBEHAVE_MARK=%d", (int)getpid());
    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        snprintf(path, sizeof path, "/proc/%s/environ", entry->d_name);
        FILE *file = atoi(entry->d_name) > 0 ? fopen(path, "r") : NULL;
        size_t size = file != NULL ? fread(environment, 1, sizeof environment - 1, file) : 0;

        environment[size] = '\0';
        for (size_t i = 0; i < size; i += strlen(environment + i) + 1)
            left += strcmp(environment + i, mark) == 0;
        if (file != NULL)
            fclose(file);
    }
    if (proc != NULL)
        closedir(proc);
    return left;
}

static struct program *begin(const char *misbehaviour, const char *test)
{
    setenv("MISBEHAVE", misbehaviour, 1);
    return run("stage-test", "%s", test);
}

/* It ends in time with one sentence, which has each of the parts in it, and leaves nothing behind. */
static void expect_sentence(struct program *tests, const char *expected, const char *came, const char *end)
{
    const char *parts[] = {expected, came, end};

    expect_exit(tests, 1);
    const char *sentence = strstr(log_of(tests), "Expected ");
    if (sentence == NULL || strstr(sentence + 1, "Expected ") != NULL)
        unmet(tests, "one sentence", "%s came", sentence == NULL ? "none" : "more than one");
    for (int i = 0; i < 3; i++)
        if (strstr(sentence, parts[i]) == NULL)
            unmet(tests, parts[i], "the sentence is: %.300s", sentence);
    if (count_left() > 0)
        unmet(tests, "no process to be left", "%d are", count_left());
}

static const char welcomes[] = "test_the_server_answers_hello_with_welcome";
static const char listens[] = "Expected the server to log `listening for the client on port N`";

static void test_a_server_that_exits_at_once(void)
{
    expect_sentence(begin("exits", welcomes), listens, "but it ended",
                    "exited with status 0, logged nothing");
    expect_sentence(begin("fails", welcomes), listens, "but it ended",
                    "exited with status 3, last logged \"Traceback: something is wrong\"");
    expect_sentence(begin("crashes", welcomes), listens, "but it ended", "was ended by signal 11");
}

static void test_a_server_that_never_listens(void)
{
    expect_sentence(begin("never-listens", welcomes), listens, "no such line came in time",
                    "still runs, logged nothing");
    expect_sentence(begin("stops", welcomes), listens, "no such line came in time",
                    "still runs, logged nothing");
}

static void test_a_server_that_writes_rubbish(void)
{
    expect_sentence(begin("says-rubbish", welcomes), listens, "N was no port",
                    "last logged \"listening for the client on port http\"");
    expect_sentence(begin("floods", welcomes), listens, "no such line came in time",
                    "last logged \"listening for nobody on port 1\"");
    expect_sentence(begin("floods-without-newline", welcomes), listens, "no such line came in time",
                    "last logged \"xxxxx");
}

static void test_a_server_that_says_it_listens_and_does_not(void)
{
    struct door nobody = hold_port("a port");
    char port[10];

    snprintf(port, sizeof port, "%d", nobody.port);
    setenv("MISBEHAVE_PORT", port, 1);
    expect_sentence(begin("lies", welcomes), "to reach port", "but Connection refused", "still runs");
    expect_sentence(begin("ignores-signals", welcomes), "to reach port", "but Connection refused",
                    "still runs");
}

static void test_a_server_that_does_not_answer(void)
{
    struct door door = open_door("the server's control port");
    char port[10];

    snprintf(port, sizeof port, "%d", door.port);
    setenv("MISBEHAVE_PORT", port, 1);
    struct program *tests = begin("lies", "test_the_server_answers_each_ping_with_pong");
    expect_sentence(tests, "Expected `welcome` at the client", "nothing came in time", "still runs");
}

static void test_a_server_that_answers_something_else(void)
{
    static const char *const answers[] = {"hi there\n", "welcome", "wel\xff\n"};
    static const char *const came[] = {"`hi there` came", "after `welcome` the connection was closed",
                                       "`wel\\xff` came"};
    struct door door = open_door("the server's control port");
    char port[10];

    snprintf(port, sizeof port, "%d", door.port);
    setenv("MISBEHAVE_PORT", port, 1);
    bool patient = getenv("TEST_PATIENCE") != NULL;
    if (!patient)
        setenv("TEST_PATIENCE", "10", 1); /* what they wait for comes from here, on a busy machine late */
    for (int i = 0; i < 3; i++) {
        struct program *tests = begin("lies", "test_the_server_answers_each_ping_with_pong");
        door.with = tests;
        struct peer client = expect_caller(&door, "the server");

        expect_line(&client, "hello");
        say(&client, "%s", answers[i]);
        finish(&client);
        expect_sentence(tests, "Expected `welcome` at the client", came[i], "still runs");
    }
    if (!patient)
        unsetenv("TEST_PATIENCE");
}

static void test_a_server_that_does_not_stop(void)
{
    expect_sentence(begin("ignores-signals", "test_version_is_one_line_and_exit_is_0"),
                    "Expected the server to exit with status 0", "it still ran when its time was over",
                    "still runs");
}

static void test_a_server_that_leaves_children(void)
{
    expect_sentence(begin("leaves-children", welcomes), listens, "but it ended",
                    "exited with status 0, logged nothing");
}

static void test_a_client_that_misbehaves(void)
{
    const char *test = "test_the_client_says_hello_first_and_then_waits";
    const char *expected = "Expected a connection to the server's control port";

    expect_sentence(begin("exits", test), expected, "none came", "exited with status 0, logged nothing");
    expect_sentence(begin("floods", test), expected, "none came", "still runs, last logged");
    expect_sentence(begin("leaves-children", test), expected, "none came", "exited with status 0");
}

/* All tests of a stage, or many, on programs that do nothing: they end in time too. */
static struct program *test_the_whole_stage(const char *misbehaviour, const char *pattern)
{
    struct program *tests = begin(misbehaviour, pattern);

    for (int64_t until = now_ms() + 30000; now_ms() < until && !has_logged(tests, "FAILED.*listed below");)
        await_any_log(tests, 1);
    expect_exit(tests, 1);
    if (count_left() > 0)
        unmet(tests, "no process to be left", "%d are", count_left());
    return tests;
}

/* The list is long: its end says where it begins. And how many failed is said once, not by each test that ran ahead. */
static void test_the_whole_stage_on_programs_that_exit_at_once(void)
{
    struct program *tests = test_the_whole_stage("exits", "");
    const char *count = strstr(log_of(tests), " FAILED TEST(S)");

    if (strstr(output_of(tests), "Begin with the first that failed, test_the_server_answers_hello") == NULL)
        unmet(tests, "to be told where to begin", "it was not said");
    if (count != NULL && strstr(count + 1, " FAILED TEST(S)") != NULL)
        unmet(tests, "one count of the failures", "there is another");
}

static void expect_verdict(struct program *tests, const char *text)
{
    const char *verdict = strstr(output_of(tests), "tests have all failed");

    if (verdict == NULL || strstr(verdict, text) == NULL)
        unmet(tests, "the right verdict", "\"%s\" is not in it", text);
}

static void expect_the_first_failure_only(struct program *tests)
{
    expect_verdict(tests, "and the server has never shown itself: the others are left out. Begin with the "
                          "first that failed, test_the_server_answers_hello");
    if (strstr(log_of(tests), "FAILED  ] test_sigint_and_sigterm") != NULL)
        unmet(tests, "the others to be left out", "the last test failed, too");
}

static void test_the_whole_stage_on_programs_that_never_do_anything(void)
{
    expect_the_first_failure_only(test_the_whole_stage("never-listens", ""));
    expect_the_first_failure_only(test_the_whole_stage("floods", ""));
}

static void test_a_client_that_never_calls(void)
{
    static const char verdict[] =
        "and the client has never shown itself: the others are left out. Begin with the "
        "first that failed, test_the_client_says_hello";

    expect_verdict(test_the_whole_stage("never-listens", "test_the_client_*"), verdict);
    expect_verdict(test_the_whole_stage("floods", "test_the_client_*"), verdict);
}

/* Then the tests go on for longer: its other faults may be small. */
static void test_a_client_that_called_once_has_shown_itself(void)
{
    char once[] = "/tmp/tunnel-once-XXXXXX";

    if (mkdtemp(once) == NULL || rmdir(once) != 0)
        unmet(NULL, "a name for a folder", "there is none");
    setenv("ONCE", once, 1);
    expect_verdict(test_the_whole_stage("works-once", "test_the_client_*"), " s: the others are left out");
    rmdir(once);
}

static void test_a_pattern_that_no_test_is_like(void)
{
    struct program *tests = begin("exits", "*typo*");

    expect_exit(tests, 2);
    if (strstr(log_of(tests), "no test has a name like '*typo*'") == NULL)
        unmet(tests, "one line that says that there is no such test", "it was not said");
}

static void test_a_folder_without_programs_is_one_line(void)
{
    struct program *tests = run("no-programs", "%s", "");

    expect_exit(tests, 2);
    if (strstr(log_of(tests), "Expected a program /nonexistent/server, but") == NULL)
        unmet(tests, "one line that says what is missing", "it was not said");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        SPEC(test_a_server_that_exits_at_once),
        SPEC(test_a_server_that_never_listens),
        SPEC(test_a_server_that_writes_rubbish),
        SPEC(test_a_server_that_says_it_listens_and_does_not),
        SPEC(test_a_server_that_does_not_answer),
        SPEC(test_a_server_that_answers_something_else),
        SPEC(test_a_server_that_does_not_stop),
        SPEC(test_a_server_that_leaves_children),
        SPEC(test_a_client_that_misbehaves),
        SPEC(test_the_whole_stage_on_programs_that_exit_at_once),
        SPEC(test_the_whole_stage_on_programs_that_never_do_anything),
        SPEC(test_a_client_that_never_calls),
        SPEC(test_a_client_that_called_once_has_shown_itself),
        SPEC(test_a_pattern_that_no_test_is_like),
        SPEC(test_a_folder_without_programs_is_one_line),
    };
    char mark[20];

    if (argc < 4) {
        fprintf(stderr, "usage: %s TESTS/HOSTILE FOLDER-OF-TESTS RIGHT-CLIENT\n", argv[0]);
        return 2;
    }
    snprintf(mark, sizeof mark, "%d", (int)getpid());
    setenv("MISBEHAVE_MARK", mark, 1);
    setenv("STAGE_TESTS", argv[2], 1);
    setenv("RIGHT_CLIENT", argv[3], 1);
    return spec_run_all(2, argv, tests, sizeof tests / sizeof tests[0]);
}
