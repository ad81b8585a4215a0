"""What all programs have: a log, a command line, a start and an end."""

import argparse
import asyncio
import datetime
import os
import resource
import select
import signal
import socket
import sys

LINE_SIZE = 127  # the longest line of the protocol, with its newline

# Without standard streams, the first connections would take their numbers.
while (lowest := os.open(os.devnull, os.O_RDWR)) < 3:
    pass
os.close(lowest)

name = os.path.basename(sys.argv[0])
log_room = select.poll()
log_room.register(2, select.POLLOUT)
lines_missing = 0
level = 1  # 0: only what goes wrong, 2: everything


# ---- the log ----


def log(text, importance=1):
    """Never waits for who reads it: lines that there is no room for are counted, and missing."""
    global lines_missing
    if importance > level:
        return
    if not log_room.poll(0):
        lines_missing += 1
        return
    if lines_missing:
        write_log(f"({lines_missing} lines are missing here: nobody read them)")
        lines_missing = 0
    write_log(text)


def write_log(text):
    """With the time on a terminal, with the date in a file or a pipe, without any under systemd, which has its own."""
    shape = "%H:%M:%S.%f" if os.isatty(2) else "%Y-%m-%d %H:%M:%S.%f"
    now = "" if "JOURNAL_STREAM" in os.environ else datetime.datetime.now().strftime(shape)[:-3] + " "
    try:
        os.write(2, f"{now}{name}: {text}\n".encode(errors="replace")[:4000])
    except OSError:
        pass  # nobody reads it, and nobody is there to be told


def complain(text):
    log(text, importance=0)


# ---- the command line ----


def port(text):
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError
    return int(text)


def endpoint(text):
    """PORT or ADDRESS:PORT, for a server: (address, port)."""
    address, _, digits = text.rpartition(":")
    if ":" in text:
        socket.getaddrinfo(host(address.strip("[]")), None, flags=socket.AI_NUMERICHOST)
    return address.strip("[]"), port(digits)


def host(text):
    if not text or "[" in text:
        raise ValueError
    return text


def count(text):
    if not text.isdecimal() or int(text) == 0:
        raise ValueError
    return int(text)


def number(text):
    if not text.isdecimal() or int(text) > 1000:
        raise ValueError
    return int(text)


def duration(text):
    value = float(text)
    if not 0 <= value < 86400:
        raise ValueError
    return value


def seconds(text):
    value = float(text)
    if not 0 < value < 86400:
        raise ValueError
    return value


def local(text):
    """PORT, HOST:PORT, [::1]:PORT or the path of a Unix socket: what to dial, as (host, port); port 0 for a path."""
    if "/" in text:
        return text, 0
    name, _, digits = text.rpartition(":")
    if ":" in name and not (name.startswith("[") and name.endswith("]")):
        raise ValueError
    if not digits or (not name and ":" in text) or port(digits) == 0:
        raise ValueError
    return name.strip("[]") or "localhost", int(digits)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.stderr.write(f"{name}: {message}\n")
        sys.exit(2)


OPTIONS = {
    "control-port": dict(letter="c", metavar="PORT", default="60623"),
    "public-port": dict(letter="u", metavar="PORT", default="60624"),
    "proxy-port": dict(letter="x", metavar="PORT", default="60625"),
    "bind": dict(letter="b", metavar="ADDRESS"),
    "heartbeat": dict(type=seconds, default=5),
    "wait": dict(type=seconds, default=15),
    "spares": dict(type=number, default=24),
    "drain": dict(type=duration, default=8),
    "secret-file": dict(metavar="FILE"),
    "proxy-protocol": dict(action="store_true"),
    "congestion": dict(metavar="NAME"),
    "count": dict(letter="n", type=count, default=0),
}


def parse(options, with_server=False, with_local=False):
    """Reads the command line: those options of the table, and for a client the local app and the server's name."""
    global level
    parser = Parser(prog=name, allow_abbrev=False)
    for option in options:
        details = dict(OPTIONS[option])
        letter = details.pop("letter", None)
        if option.endswith("-port"):
            details["type"] = port if with_server else endpoint
        parser.add_argument(*([f"-{letter}"] if letter else []), f"--{option}", **details)
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-V", "--version", action="version", version=f"{name} in Python 1.0")
    if with_local:
        parser.add_argument("local", nargs="?")
    if with_server:
        parser.add_argument("server", nargs="?", type=host, default="localhost")
    arguments, unknown = parser.parse_known_args()
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    if with_local:
        try:
            arguments.local = local(arguments.local or "")
        except ValueError:
            parser.error(f"LOCAL can't be \"{arguments.local}\"")
    level = 0 if arguments.quiet else 2 if arguments.verbose else 1
    return arguments


def read_secret(path):
    """The secret: from the file, else from the environment, else none. Ends the program if it can't be had."""
    try:
        if path:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(2 * LINE_SIZE)
        else:
            text = os.environ.get("TUNNEL_SECRET")
    except OSError as error:
        complain(f"cannot read the secret from {path}: {error.strerror}")
        sys.exit(1)
    if text is None:
        return ""
    secret = text.rstrip("\r\n")
    size = len(secret.encode(errors="surrogateescape"))
    if size == 0 or "\n" in secret or "\r" in secret or size > LINE_SIZE - len("hello \n"):
        complain(f"the secret in {path or 'TUNNEL_SECRET'} is not one line of 1 to {LINE_SIZE - 7} bytes")
        sys.exit(1)
    return secret


def run(main, on_stop=None):
    """Runs a program's main coroutine. SIGINT and SIGTERM end it with status 0; so does its own end. With on_stop, this
    is called at the first of them, and the second ends it."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    signals = 0

    def on_signal():
        nonlocal signals
        signals += 1
        if on_stop and signals == 1:
            on_stop()
        else:
            os._exit(0)

    async def start():
        loop = asyncio.get_running_loop()
        for number in signal.SIGINT, signal.SIGTERM:
            loop.add_signal_handler(number, on_signal)
        loop.set_exception_handler(lambda _, context: complain(context["message"].split("\n")[0]))
        await main
        os._exit(0)

    asyncio.run(start())


async def forever():
    await asyncio.Event().wait()
