"""What the programs share: the command line, the log, listening, and a connection that speaks lines."""

import argparse
import asyncio
import datetime
import os
import random
import resource
import select
import signal
import socket
import struct
import sys

FIRST_LINE_SECONDS = 5
LINE_SIZE = 127  # the longest line, with its newline
UNSENT_MAX = 4096  # bytes kept for a peer that does not read; lines beyond that are dropped
OWN_DESCRIPTORS = 24  # which the interpreter and the listening ports need

# Without standard streams, the first connections would take their numbers.
while (lowest := os.open(os.devnull, os.O_RDWR)) < 3:
    pass
os.close(lowest)

name = os.path.basename(sys.argv[0])
congestion = None  # which congestion control is wanted for connections that leave this machine
log_room = select.poll()
log_room.register(2, select.POLLOUT)
lines_missing = 0
level = 1  # 0: only what goes wrong, 2: everything


class Lost(Exception):
    """A connection is gone, or the peer does not keep to the protocol. The text says which."""


class Busy(Lost):
    """Another client is there; it may be gone in a moment."""


# ---- log and command line ----


def use_congestion(connection):
    """On systems that let a program choose, and where the kernel has it."""
    if hasattr(socket, "TCP_CONGESTION"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())


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
    "spares": dict(type=number, default=8),
    "drain": dict(type=duration, default=8),
    "secret-file": dict(metavar="FILE"),
    "proxy-protocol": dict(action="store_true"),
    "congestion": dict(metavar="NAME"),
    "count": dict(letter="n", type=count, default=0),
}


def parse(options, with_server=False, with_local=False):
    """Reads the command line: those options of the table, and for a client the local app and the server's name."""
    global level, congestion
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
    congestion = getattr(arguments, "congestion", None)
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


# ---- connections ----


class Reader(asyncio.StreamReader):
    """One that tells when nothing more will come, even if nobody is reading."""

    def __init__(self):
        super().__init__(limit=LINE_SIZE - 1)
        self.over = asyncio.Event()
        self.lost = asyncio.Event()

    def feed_eof(self):
        super().feed_eof()
        self.over.set()

    def set_exception(self, error):
        super().set_exception(error)
        self.over.set()
        self.lost.set()


def streams():
    """What asyncio wants to be given for a new connection, and the reader of it."""
    reader = Reader()
    return reader, lambda: asyncio.StreamReaderProtocol(reader)


def connection_of(reader, transport, protocol):
    return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop()))


class Connection:
    """A TCP connection. What was read of it and belongs to nobody yet stays in its reader."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.socket = writer.get_extra_info("socket")
        address = ("?", 0)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address = writer.get_extra_info("peername") or address
            if congestion and address[0] != self.socket.getsockname()[0]:
                use_congestion(self.socket)
        self.host, self.port = address[0].removeprefix("::ffff:"), address[1]
        self.address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def read_line(self, limit=None):
        """The next line, without its newline, and never a byte more. Raises Lost."""
        try:
            line = await asyncio.wait_for(self.reader.readuntil(b"\n"), limit)
            return line[:-1].decode(errors="surrogateescape")
        except asyncio.IncompleteReadError:
            raise Lost("closed the connection") from None
        except asyncio.LimitOverrunError:
            raise Lost("a line is too long") from None
        except (asyncio.TimeoutError, TimeoutError):
            raise Lost("was silent for too long") from None
        except OSError as error:
            raise Lost(str(error)) from None

    def send_line(self, line):
        """Returns whether there was room for it."""
        if self.writer.is_closing() or self.writer.transport.get_write_buffer_size() > UNSENT_MAX:
            return False
        self.writer.write(line.encode(errors="surrogateescape") + b"\n")
        return True

    def is_lost(self):
        return self.reader.lost.is_set()

    def is_alive(self):
        """Asks the kernel, as the news may not have come through the loop yet: neither ended nor reset."""
        poll = select.poll()
        poll.register(self.socket.fileno(), getattr(select, "POLLRDHUP", 0))
        return not self.reader.over.is_set() and not poll.poll(0)

    def close(self):
        self.writer.close()

    def reset(self):
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()


async def dial(host, number):
    """Tries every address of the host in turn. A number of 0: the host is the path of a Unix socket."""
    loop = asyncio.get_running_loop()
    reader, factory = streams()
    dialing = loop.create_connection(factory, host, number) if number else loop.create_unix_connection(factory, host)
    return connection_of(reader, *await asyncio.wait_for(dialing, FIRST_LINE_SECONDS))


def open_port(bind, endpoint):
    """Ends the program if the port can't be had. An address of its own counts more than that of --bind."""
    bind, number = endpoint[0] or bind, endpoint[1]
    try:
        if bind or not socket.has_dualstack_ipv6():
            family = socket.AF_INET6 if ":" in (bind or "") else socket.AF_INET
            return socket.create_server((bind or "", number), family=family, backlog=4096)
        return socket.create_server(("", number), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    except OSError as error:
        complain(f"cannot listen on port {number}: {os.strerror(error.errno)}")
        sys.exit(1)


class Port:
    """Calls on_connection, a coroutine, for each connection. room: what to await before the next is let in."""

    def __init__(self, bind, endpoint, whom, on_connection, room=None):
        self.on_connection, self.room = on_connection, room
        self.tasks = set()
        self.listener = open_port(bind, endpoint)
        self.number = self.listener.getsockname()[1]
        self.listener.setblocking(False)
        self.accepting = asyncio.create_task(self.accept())
        log(f"listening for {whom} on port {self.number}")

    async def accept(self):
        loop = asyncio.get_running_loop()
        while True:
            if self.room:
                await self.room()
            try:
                accepted, _ = await loop.sock_accept(self.listener)
                reader, factory = streams()
                connection = connection_of(reader, *await loop.connect_accepted_socket(factory, accepted))
            except OSError:  # no descriptor is free, or the caller has gone
                await asyncio.sleep(0.1)
                continue
            task = asyncio.create_task(self.on_connection(connection))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def close(self):
        """Listens no longer; those who are there stay."""
        if self.listener.fileno() < 0:
            return
        self.accepting.cancel()
        asyncio.get_running_loop().remove_reader(self.listener)
        self.listener.close()


def descriptors():
    """How many connections there are descriptors for."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_DESCRIPTORS


def look_up(host):
    """Ends the program if nobody knows the name."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        complain(f"cannot find {host}: {error}")
        sys.exit(1)


class Pauses:
    """Seconds to wait between two tries: 0.5, 1, 2 and so on to 30, each a bit different. 1 each time after `busy`."""

    def __init__(self):
        self.pause = 0.5

    def after(self, reason):
        if isinstance(reason, Busy):
            self.pause = 1
        pause = self.pause * random.uniform(0.75, 1.25)
        self.pause = min(30, 2 * self.pause)
        return pause


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
