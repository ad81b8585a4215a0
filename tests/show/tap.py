"""A tap: it sits in the middle of a connection, tells what goes through, and changes nothing.

Whoever dials the tap's port is connected to the port behind it. What one side says is told first and passed on then, so
that what is told is in the order of cause and effect. An end (FIN) is passed on as an end of that direction
alone, a reset as a reset.
"""
import asyncio
import select
import socket
import struct

LINE_SIZE = 127  # the longest line, with its newline
KEPT = 1 << 20  # bytes of payload that a wire remembers
MOST = 400  # pieces that a wire tells about: whoever talks without end shall not fill the memory


class Event:
    """Something that went over a wire. up: from the side that dialed to the side that listens."""

    def __init__(self, wire, kind, up, text="", size=0):
        self.wire, self.kind, self.up, self.text, self.size = wire, kind, up, text, size


class Wire:
    """One connection through a tap. lines: how many lines come first in each direction, before there is payload."""

    def __init__(self, tap, number, caller):
        self.kind, self.number, self.tell = tap.kind, number, tap.tell
        self.sockets = {True: caller, False: None}  # whom we hear what goes up from, and down
        self.lines_left = dict(tap.lines)
        self.unfinished = {True: b"", False: b""}  # a line whose newline has not come yet
        self.lines = {True: [], False: []}
        self.payload = {True: b"", False: b""}
        self.ended = {True: False, False: False}
        self.was_reset = False
        self.is_over = asyncio.Event()
        self.to_close = []
        self.pieces = 0

    @property
    def name(self):
        return f"{self.kind} #{self.number}"

    @property
    def over(self):
        return self.was_reset or all(self.ended.values())

    # ---- telling ----

    def event(self, kind, up, text="", size=0):
        self.pieces += 1
        if self.pieces <= MOST:
            self.tell(Event(self, kind, up, text, size))

    def hear(self, up, data):
        while data and self.lines_left[up] > 0 and self.pieces < MOST:
            line, newline, rest = data.partition(b"\n")
            self.unfinished[up] += line
            if newline:
                self.finish_line(up, "line" if len(self.unfinished[up]) < LINE_SIZE else "long")
            elif len(self.unfinished[up]) >= LINE_SIZE:
                self.finish_line(up, "long")
            data = rest
        if data:
            self.payload[up] = (self.payload[up] + data)[:KEPT]
            self.event("payload", up, data[:80].decode("latin-1"), len(data))

    def finish_line(self, up, kind):
        text = self.unfinished[up].decode("latin-1")
        self.unfinished[up] = b""
        self.lines_left[up] -= 1
        self.event(kind, up, text, len(text))
        self.lines[up].append(text)

    def end(self, up):
        if self.unfinished[up]:
            self.finish_line(up, "piece")
        self.ended[up] = True
        self.event("end", up)

    def reset(self, up):
        """That side has reset the connection: so it is for the other one."""
        if self.over:
            return
        self.was_reset = True
        self.event("reset", up)
        if self.sockets[not up]:
            reset_on_close(self.sockets[not up])
        self.is_over.set()

    # ---- passing on ----

    async def carry(self, port):
        """From the moment that the caller is there until both directions are over."""
        self.event("open", True)
        callee = self.sockets[False] = socket.socket()
        callee.setblocking(False)
        pumps = []
        try:
            await asyncio.get_running_loop().sock_connect(callee, ("127.0.0.1", port))
            callee.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pumps = [asyncio.create_task(self.pump(up)) for up in (True, False)]
            await self.is_over.wait()
        except OSError:
            reset_on_close(self.sockets[True])
            self.was_reset = True
            self.event("refused", False)
        finally:
            for pump in pumps:  # a socket may be closed only when nobody waits for it any more
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for close in self.to_close:
                close()
            self.sockets[True].close()
            callee.close()

    async def pump(self, up):
        loop = asyncio.get_running_loop()
        source, sink = self.sockets[up], self.sockets[not up]
        while not self.over:
            try:
                data = await loop.sock_recv(source, 1 << 16)
            except OSError:
                self.reset(up)
                return
            if self.over:  # the other side has reset it meanwhile
                return
            if not data:
                self.end(up)
                self.pass_end_on(up, source, sink)
                return
            self.hear(up, data)
            try:
                await loop.sock_sendall(sink, data)
            except OSError:
                self.reset(not up)

    def pass_end_on(self, up, source, sink):
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.reset(not up)
        if self.over:
            self.is_over.set()
        else:
            self.watch_for_reset(up, source)

    def watch_for_reset(self, up, source):
        """Who has ended its direction may still reset. With no event asked for, epoll tells of errors alone."""
        if not hasattr(select, "epoll"):
            return  # noticed when something is written to it
        loop, watch = asyncio.get_running_loop(), select.epoll()
        watch.register(source, 0)

        def on_event():
            loop.remove_reader(watch.fileno())
            if any(events & select.EPOLLERR for _, events in watch.poll(0)):
                self.reset(up)

        def close():
            loop.remove_reader(watch.fileno())
            watch.close()

        loop.add_reader(watch.fileno(), on_event)
        self.to_close.append(close)


def reset_on_close(side):
    try:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # it is closed


class Tap:
    """Listens on a free port of this machine, for connections of one kind: control, public, proxy, private."""

    def __init__(self, kind, port_behind, tell, up_lines=0, down_lines=0):
        self.kind, self.port_behind, self.tell = kind, port_behind, tell
        self.lines = {True: up_lines, False: down_lines}
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.wires, self.tasks = [], []
        self.tasks.append(asyncio.create_task(self.accept()))

    async def accept(self):
        loop = asyncio.get_running_loop()
        while len(self.wires) < MOST:
            caller, _ = await loop.sock_accept(self.listener)
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(self, len(self.wires) + 1, caller)
            self.wires.append(wire)
            self.tasks.append(asyncio.create_task(wire.carry(self.port_behind)))

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.listener.close()
