"""What the programs do: listen, dial, speak lines, and join two connections."""

import asyncio
import os
import random
import resource
import select
import socket
import struct
import sys

from program import LINE_SIZE, complain, log

FIRST_LINE_SECONDS = 5
UNSENT_MAX = 4096  # bytes kept for a peer that does not read; lines beyond that are dropped
OWN_DESCRIPTORS = 24  # which the interpreter and the listening ports need

congestion = None  # control, for connections that leave this machine: the system's own


class Lost(Exception):
    """A connection is gone, or the peer does not keep to the protocol. The text says which."""


class Busy(Lost):
    """Another client is there; it may be gone in a moment."""


# ---- connections ----


def use_congestion(name):
    """On systems that let a program choose."""
    global congestion
    congestion = name if hasattr(socket, "TCP_CONGESTION") else None


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
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
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


async def dial(host, number, seconds=FIRST_LINE_SECONDS):
    """Tries every address of the host in turn. A number of 0: the host is the path of a Unix socket."""
    loop = asyncio.get_running_loop()
    reader, factory = streams()
    dialing = loop.create_connection(factory, host, number) if number else loop.create_unix_connection(factory, host)
    return connection_of(reader, *await asyncio.wait_for(dialing, seconds))


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
