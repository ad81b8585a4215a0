"""What the programs share: the command line, the log, listening, and a connection that speaks lines."""

import argparse
import asyncio
import datetime
import os
import random
import resource
import signal
import socket
import struct
import sys

FIRST_LINE_SECONDS = 5
LINE_SIZE = 127  # the longest line, with its newline

name = os.path.basename(sys.argv[0])
level = 1  # 0: only what goes wrong, 2: everything


class Lost(Exception):
    """A connection is gone, or the peer does not keep to the protocol. The text says which."""


# ---- log and command line ----


def log(text, importance=1):
    if importance <= level:
        date = "" if sys.stderr.isatty() else "%Y-%m-%d "
        now = datetime.datetime.now().strftime(date + "%H:%M:%S.%f")[:-3]
        print(f"{now} {name}: {text}", file=sys.stderr, flush=True)


def complain(text):
    log(text, importance=0)


def port(text):
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError
    return int(text)


def host(text):
    if not text or "[" in text:
        raise ValueError
    return text


def count(text):
    if not text.isdecimal() or int(text) == 0:
        raise ValueError
    return int(text)


def seconds(text):
    value = float(text)
    if not 0 < value < 86400:
        raise ValueError
    return value


class Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.stderr.write(f"{name}: {message}\n")
        sys.exit(2)


OPTIONS = {
    "control-port": dict(letter="c", type=port, default=60623),
    "public-port": dict(letter="u", type=port, default=60624),
    "proxy-port": dict(letter="x", type=port, default=60625),
    "bind": dict(letter="b", metavar="ADDRESS"),
    "heartbeat": dict(type=seconds, default=5),
    "wait": dict(type=seconds, default=10),
    "count": dict(letter="n", type=count, default=0),
}


def parse(options, with_server=False):
    """Reads the command line: those options of the table, and for a client the server's name."""
    global level
    parser = Parser(prog=name, allow_abbrev=False)
    for option in options:
        details = dict(OPTIONS[option])
        letter = details.pop("letter", None)
        parser.add_argument(*([f"-{letter}"] if letter else []), f"--{option}", **details)
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-V", "--version", action="version", version=f"{name} in Python 1.0")
    if with_server:
        parser.add_argument("server", nargs="?", type=host, default="localhost")
    arguments = parser.parse_args()
    level = 0 if arguments.quiet else 2 if arguments.verbose else 1
    return arguments


def run(main):
    """Runs a program's main coroutine. SIGINT and SIGTERM end it with status 0; so does its own end."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def start():
        loop = asyncio.get_running_loop()
        for number in signal.SIGINT, signal.SIGTERM:
            loop.add_signal_handler(number, os._exit, 0)
        loop.set_exception_handler(lambda _, context: complain(context["message"].split("\n")[0]))
        await main
        os._exit(0)

    asyncio.run(start())


async def forever():
    await asyncio.Event().wait()


# ---- connections ----


class Connection:
    """A TCP connection. What was read of it and belongs to nobody yet stays in its reader."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.socket = writer.get_extra_info("socket")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = writer.get_extra_info("peername") or ("?", 0)
        self.address = f"{address[0].removeprefix('::ffff:')}:{address[1]}"

    async def read_line(self, limit=None):
        """The next line, without its newline, and never a byte more. Raises Lost."""
        try:
            line = await asyncio.wait_for(self.reader.readuntil(b"\n"), limit)
            return line[:-1].decode("ascii", "replace")
        except asyncio.IncompleteReadError:
            raise Lost("closed the connection") from None
        except asyncio.LimitOverrunError:
            raise Lost("a line is too long") from None
        except (asyncio.TimeoutError, TimeoutError):
            raise Lost("was silent for too long") from None
        except OSError as error:
            raise Lost(str(error)) from None

    def send_line(self, line):
        if not self.writer.is_closing():
            self.writer.write(line.encode() + b"\n")

    def is_lost(self):
        return self.reader.exception() is not None

    def close(self):
        self.writer.close()

    def reset(self):
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()


async def dial(host, number):
    """Tries every address of the host in turn."""
    reader, writer = await asyncio.wait_for(
        asyncio.open_connection(host, number, limit=LINE_SIZE - 1), FIRST_LINE_SECONDS
    )
    return Connection(reader, writer)


async def listen(bind, number, whom, on_connection):
    """Calls on_connection, a coroutine, for each connection. Ends the program if the port can't be had."""
    try:
        if bind or not socket.has_dualstack_ipv6():
            family = socket.AF_INET6 if ":" in (bind or "") else socket.AF_INET
            listener = socket.create_server((bind or "", number), family=family)
        else:
            listener = socket.create_server(("", number), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError as error:
        complain(f"cannot listen on port {number}: {os.strerror(error.errno)}")
        sys.exit(1)

    async def on_accepted(reader, writer):
        await on_connection(Connection(reader, writer))

    # asyncio takes the backlog also for how often it tries to accept in a row, even without a free descriptor.
    await asyncio.start_server(on_accepted, sock=listener, limit=LINE_SIZE - 1, backlog=16)
    listener.listen(4096)
    log(f"listening for {whom} on port {listener.getsockname()[1]}")


def look_up(host):
    """Ends the program if nobody knows the name."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        complain(f"cannot find {host}: {error}")
        sys.exit(1)


def pauses():
    """Seconds to wait between two tries: 0.5, 1, 2 and so on to 30, each a bit different."""
    pause = 0.5
    while True:
        yield pause * random.uniform(0.75, 1.25)
        pause = min(30, 2 * pause)


# ---- joining ----


class Pump:
    """Moves bytes from one connection to another, and passes the end on."""

    def __init__(self, source, sink):
        self.source, self.sink, self.moved = source, sink, 0

    async def run(self):
        """Returns whether the source was reset."""
        try:
            while data := await self.source.reader.read(1 << 16):
                if not await self.pass_on(data):
                    return False
        except OSError:
            return True
        if not self.sink.writer.is_closing():
            self.sink.writer.write_eof()
        return False

    async def pass_on(self, data):
        try:
            self.sink.writer.write(data)
            await self.sink.writer.drain()
            self.moved += len(data)
            return True
        except OSError:
            return False


async def join(left, right):
    """Joins two connections until both directions have ended. Returns how many bytes went either way."""
    pumps = Pump(left, right), Pump(right, left)
    tasks = [asyncio.create_task(pump.run()) for pump in pumps]
    for done in asyncio.as_completed(tasks):
        if await done:  # a reset is passed on as a reset
            left.reset()
            right.reset()
    left.close()
    right.close()
    return pumps[0].moved, pumps[1].moved


def size_text(size):
    for unit in "B", "kB", "MB", "GB":
        if size < 1000 or unit == "GB":
            return f"{size} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
