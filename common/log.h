/*
 * log: what a program has to say, a line each, on stderr: "12:34:56.789 server: text" on a terminal, with the date in
 * front in a file or a pipe, without any time under systemd, which adds its own.
 *
 * say() tells what happened, say_more() what only a curious reader wants to know (-v), complain() what
 * went wrong. -q silences the first two. A complaint that keeps coming is printed once a second, with a
 * count of those left out: a flood of strangers must not become a flood of lines. When the program ends, it says how many
 * are in no line's count yet.
 *
 * None of them waits for whoever reads the log. When nobody does, or the disk is full, lines are lost; the next line that
 * finds room says how many.
 * Never hand secrets, tokens or a stranger's bytes to these.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stdint.h>

enum log_level { LOG_QUIET, LOG_NORMAL, LOG_VERBOSE };

/* To be called before any descriptor is opened: standard streams that are closed are opened on /dev/null, so that
 * no connection gets the number of stderr, and the log's lines with it. name stands in every line; the string is not
 * copied. It is global, as little else here: a process has one stderr. */
void log_open(const char *name, enum log_level level);

__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
__attribute__((format(printf, 1, 2))) void say_more(const char *format, ...);
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* errno in words. */
const char *errno_text(void);

/* "412 B", "1.2 MB" (of 10^6 bytes). */
struct size_text {
    char text[24];
};
struct size_text size_text(uint64_t bytes);

#endif
