"""A terminal with a shell in it, as the reader has several of: type a line, press a key, await a line."""
import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

PROMPT = "\x02prompt\x03"
KEYS = {"^C": b"\x03", "^Z": b"\x1a"}
DEADLINE = 60  # seconds, for whatever is awaited


class Mismatch(Exception):
    pass


def normal(line, ports):
    """The line with what differs from run to run made equal: clock times, durations, addresses of this machine
    and ports that the kernel picks, process numbers and the width of columns."""
    line = re.sub(r"\b\d\d:\d\d:\d\d\.\d\d\d\b", "TIME", line)
    line = re.sub(r"\b\d+\.\d s\b", "DURATION", line)
    line = re.sub(r"\b\d+m\d+\.\d{3}s\b", "DURATION", line)  # as time(1) says it
    line = re.sub(r"(\[::ffff:127\.0\.0\.1\]|\[::1\]|127\.0\.0\.1)(?=:\d)", "LOCALHOST", line)
    line = re.sub(r"(?<=LOCALHOST:)(\d+)", lambda m: m[1] if int(m[1]) in ports else "PORT", line)
    line = re.sub(r"^\[(\d+)\] \d+$", r"[\1] PID", line)
    return re.sub(r"\s+", " ", line).strip()


def matches(expected, line, ports):
    parts = [re.escape(part) for part in normal(expected, ports).split("…")]
    return re.fullmatch(".*".join(parts), normal(line, ports)) is not None


def rung(line):
    """A row of a ladder without what differs from run to run: time, token and ports, and so how long an arrow is."""
    line = re.sub(r"^\d+\.\d{3}\b", "TIME", line)
    line = re.sub(r"\b[0-9a-f]{6}\.\.", "TOKEN", line)
    line = re.sub(r"\b(127\.0\.0\.1|TOKEN) \d{4,5}\b", r"\1 PORT", line)
    return re.sub(r"[-=.~ ]+", " ", line).strip()


class Terminal:
    def __init__(self, folder, environment, ports):
        self.ports = ports
        self.lines = []  # printed and not matched yet
        self.sys_seconds = []  # as time(1) has said
        self.partial = ""
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.busy = True  # the shell has not shown its prompt
        self.may_skip = False  # after a line `…`
        self.pressed = False  # a key, and nothing has been printed since
        shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        arguments = [shell, "--norc", "--noprofile", "--noediting", "-i"] if "bash" in shell else [shell, "-i"]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # Python ignores the first, whoever runs this in the background the others; the shell would go on to.
            for ignored in signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT:
                signal.signal(ignored, signal.SIG_DFL)
            os.closerange(3, 256)  # what make or a terminal left open: descriptors in the text begin with 3
            os.chdir(folder)
            attributes = termios.tcgetattr(0)  # before the shell is there: it returns to what it finds, after each job
            attributes[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, attributes)
            os.execve(shell, arguments, dict(environment, PS1=PROMPT, PS2="", TERM="dumb"))
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.await_prompt()

    def read(self, timeout):
        """Takes in what has been printed. Returns False if nothing came in time."""
        if not select.select([self.fd], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the shell is gone
            data = b""
        if not data:
            raise Mismatch("the shell has ended")
        self.partial += self.decode(data).replace("\r", "")
        while True:
            newline, prompt = self.partial.find("\n"), self.partial.find(PROMPT)
            if prompt >= 0 and (newline < 0 or prompt < newline):
                self.busy = False
                if prompt > 0:  # output without a newline at its end
                    self.lines.append(self.partial[:prompt])
                self.partial = self.partial[prompt + len(PROMPT):]
            elif newline >= 0:
                if said := re.match(r"sys\t(\d+)m([\d.]+)s", self.partial):
                    self.sys_seconds.append(60 * int(said[1]) + float(said[2]))
                if newline > 0 or not self.pressed:  # the shell moves to a new line after a key, ^C being on this one
                    self.lines.append(self.partial[:newline])
                self.pressed = False
                self.partial = self.partial[newline + 1:]
            else:
                return True

    def await_prompt(self):
        until = time.monotonic() + DEADLINE
        while self.busy:
            if not self.read(max(0, until - time.monotonic())) and time.monotonic() >= until:
                raise Mismatch("the command does not end" + self.rest())

    def rest(self):
        return "; it printed: " + " / ".join(self.lines[:8]) if self.lines else "; it printed nothing more"

    def expect(self, expected):
        if expected.strip() == "…":
            self.may_skip = True
            return
        until = time.monotonic() + DEADLINE
        while True:
            for i, line in enumerate(self.lines):
                if matches(expected, line, self.ports):
                    del self.lines[:i + 1]
                    self.may_skip = False
                    return
                if not self.may_skip:
                    raise Mismatch(f"expected: {expected}\n      printed:  {line}")
            if not self.busy or not self.read(max(0, until - time.monotonic())):
                if not self.lines and not self.busy and self.read(0):
                    continue
                if time.monotonic() >= until or not self.busy:
                    raise Mismatch(f"expected: {expected}\n      but" + self.rest()[1:])

    def expect_ladder(self, expected):
        """What `make show-stageN` draws: what happens at the same moment may stand in another order, each row has to be
        there."""
        self.await_prompt()
        printed, self.lines = [rung(line) for line in self.lines], []
        for line in expected:
            if rung(line) not in printed:
                raise Mismatch(f"no row of the ladder: {line}")
            printed.remove(rung(line))
        if printed:
            raise Mismatch(f"a row of the ladder that is not shown: {printed[0]}")

    def type(self, command):
        self.await_prompt()
        self.expect_nothing_more()
        self.busy = True
        os.write(self.fd, command.encode() + b"\n")

    def press(self, key):
        may_skip = self.may_skip  # `…` before a key: what it stands for may come before or after it
        self.expect_nothing_more()
        self.pressed, self.may_skip = True, may_skip
        os.write(self.fd, KEYS[key])

    def expect_nothing_more(self):
        while self.read(0):
            pass
        if self.lines and not self.may_skip:
            raise Mismatch("printed more than is shown: " + " / ".join(self.lines[:8]))
        self.lines, self.may_skip = [], False

    def peek(self):
        """What it has printed that nothing was expected of."""
        while self.fd >= 0 and select.select([self.fd], [], [], 0)[0] and self.read(0):
            pass
        return self.lines + [self.partial] * bool(self.partial)

    def finish(self):
        """The end of a chapter: no program may be left running, nor anything unsaid."""
        self.await_prompt()
        self.expect_nothing_more()

    def close(self):
        """Ends the shell and, if a check failed and left one running, the program in it."""
        for group in {os.tcgetpgrp(self.fd), self.pid}:
            os.killpg(group, signal.SIGKILL)
        os.close(self.fd)
        os.waitpid(self.pid, 0)
