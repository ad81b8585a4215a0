/*
 * How it works: a line is put together in memory and leaves in one write(2), so that lines of several
 * programs on one terminal don't mix. Complaints are told apart by their format: for each of the last
 * few formats a slot remembers when it was printed and how many were held back since.
 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "os.h"
#include "outlet.h"

enum {
    LOG_LINE_BYTES = 512, /* no pipe takes less than this in one piece (PIPE_BUF) */
    COMPLAINT_KINDS = 16,
    COMPLAINT_PAUSE_MS = 1000,
};

struct slot {
    const char *format;
    uint64_t quiet_until_ms; /* since it was printed; 0: it was not yet */
    unsigned held_back;      /* since then */
};

static const char *log_name = "program";
static enum log_level log_level = LOG_NORMAL;
static enum outlet log_outlet = OUTLET_OTHER;
static struct slot slots[COMPLAINT_KINDS];
static unsigned untold;     /* complaints that were held back and are in no line's count yet */
static unsigned lost_lines; /* since the last that could be written */
static int lost_error;      /* why: an errno */

static void tell_of_untold(void);

void log_open(const char *name, enum log_level level)
{
    log_name = name;
    log_level = level;
    log_outlet = outlet_open();
    atexit(tell_of_untold);
}

/* What stands in front of each line. Returns its length. */
static size_t print_head(char line[LOG_LINE_BYTES])
{
    struct timespec now;
    struct tm day;
    size_t length = 0;

    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &day);
    if (log_outlet == OUTLET_OTHER)
        length = strftime(line, LOG_LINE_BYTES, "%Y-%m-%d ", &day);
    if (log_outlet != OUTLET_JOURNAL)
        length += (size_t)snprintf(line + length, LOG_LINE_BYTES - length, "%02d:%02d:%02d.%03d ",
                                   day.tm_hour, day.tm_min, day.tm_sec, (int)(now.tv_nsec / 1000000));
    snprintf(line + length, LOG_LINE_BYTES / 4, "%s: ", log_name);
    return strlen(line);
}

/* Says how many lines were lost, if there is room again. Returns whether there is. */
static bool tell_of_lost(void)
{
    const char *reason = lost_error == EAGAIN ? "nobody read them" : strerror(lost_error);
    char line[LOG_LINE_BYTES];
    size_t length = print_head(line);

    snprintf(line + length, sizeof line - length, "(%u line%s missing here: %s)\n", lost_lines,
             lost_lines == 1 ? " is" : "s are", reason);
    if (!outlet_put(line, strlen(line)))
        return false;
    lost_lines = 0;
    return true;
}

static void print_line(unsigned held_back, const char *format, va_list arguments)
{
    char line[LOG_LINE_BYTES];
    size_t length = print_head(line);

    vsnprintf(line + length, sizeof line - length - 48, format, arguments);
    length = strlen(line);
    if (held_back > 0)
        length += (size_t)snprintf(line + length, 48, " (and %u more like this)", held_back);
    line[length++] = '\n';
    if ((lost_lines > 0 && !tell_of_lost()) || !outlet_put(line, length)) {
        lost_error = errno;
        lost_lines++;
    }
}

void say(const char *format, ...)
{
    va_list arguments;

    if (log_level < LOG_NORMAL)
        return;
    va_start(arguments, format);
    print_line(0, format, arguments);
    va_end(arguments);
}

void say_more(const char *format, ...)
{
    va_list arguments;

    if (log_level < LOG_VERBOSE)
        return;
    va_start(arguments, format);
    print_line(0, format, arguments);
    va_end(arguments);
}

/* The slot of this format, else the one that was used the longest time ago. */
static struct slot *find_slot(const char *format)
{
    struct slot *oldest = &slots[0];

    for (int i = 0; i < COMPLAINT_KINDS; i++) {
        if (slots[i].format == format)
            return &slots[i];
        if (slots[i].quiet_until_ms < oldest->quiet_until_ms)
            oldest = &slots[i];
    }
    *oldest = (struct slot){.format = format};
    return oldest;
}

void complain(const char *format, ...)
{
    struct slot *slot = find_slot(format);
    uint64_t now_ms = os_now_ms();
    va_list arguments;

    if (now_ms < slot->quiet_until_ms) {
        slot->held_back++;
        untold++;
        return;
    }
    va_start(arguments, format);
    print_line(slot->held_back, format, arguments);
    va_end(arguments);
    slot->quiet_until_ms = now_ms + COMPLAINT_PAUSE_MS;
    untold -= slot->held_back;
    slot->held_back = 0;
}

/* The program ends: there will be no other line with the count. */
static void tell_of_untold(void)
{
    if (untold > 0)
        complain("(and %u more complaint%s like those above)", untold, untold == 1 ? "" : "s");
    untold = 0;
}

const char *errno_text(void)
{
    return strerror(errno);
}

struct size_text size_text(uint64_t bytes)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    struct size_text size;
    double value = (double)bytes / 1000;
    int unit = 0;

    if (bytes < 1000) {
        snprintf(size.text, sizeof size.text, "%d B", (int)bytes);
        return size;
    }
    for (; value >= 999.95 && unit < 5; unit++)
        value /= 1000;
    snprintf(size.text, sizeof size.text, "%.1f %s", value, units[unit]);
    return size;
}
