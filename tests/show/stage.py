"""The stage that the scenes are played on: programs, taps, users, and what has happened so far.

A scene awaits what must come next. What comes instead, or does not come, ends it with a Fault that says what was
expected, in the protocol's words. Nothing here waits without a deadline, and whatever was started is ended.
"""
import asyncio
import os
import re
import signal
import socket
import time

from protocol import expectation, token_of
from tap import Tap, reset_on_close

PATIENCE = 5 * float(os.environ.get("TEST_PATIENCE") or 1)  # seconds for what needs no waiting
AFTERMATH = 0.3  # seconds of silence after a fault: by then its consequences are over
STEPS = {"control": 2, "public": 3, "proxy": 5, "private": 5}  # of the connections that open


class Fault(Exception):
    """What was expected did not come."""


class Program:
    """A program under test. Its log is read all the time, so that it can't block on it."""

    def __init__(self, name, process, on_news):
        self.name, self.process, self.on_news = name, process, on_news
        self.log = ""
        self.may_end = False
        self.tasks = [asyncio.create_task(self.read(pipe)) for pipe in (process.stderr, process.stdout)]
        self.tasks.append(asyncio.create_task(self.await_end()))

    async def read(self, pipe):
        while data := await pipe.read(1 << 16):
            self.log = (self.log + data.decode("utf-8", "replace"))[-20000:]
            self.on_news()

    async def await_end(self):
        await self.process.wait()
        self.on_news()

    @property
    def ended(self):
        return self.process.returncode is not None and not self.may_end

    def last_words(self):
        return ["".join(c if c.isprintable() else "?" for c in line) for line in self.log.split("\n")[-4:] if line.strip()]

    def how_it_ended(self):
        status = self.process.returncode
        return f"exited with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"

    def stop(self):
        self.may_end = True
        self.process.terminate()

    async def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # it is the first of its own group
        except (ProcessLookupError, PermissionError):  # it has ended
            pass
        await self.process.wait()
        for task in self.tasks:
            task.cancel()


class User:
    """Someone at the public port. What comes to it is read by the taps' account, and thrown away here."""

    def __init__(self, connection, wire):
        self.connection, self.wire = connection, wire
        self.reading = asyncio.create_task(self.read())

    async def read(self):
        try:
            while await asyncio.get_running_loop().sock_recv(self.connection, 1 << 16):
                pass
        except OSError:
            pass

    async def say(self, text):
        try:
            await asyncio.get_running_loop().sock_sendall(self.connection, text.encode())
        except OSError:
            pass  # the tap tells why

    def end(self):
        try:
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    async def reset(self):
        reset_on_close(self.connection)
        await self.close()

    async def close(self):
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)
        self.connection.close()


class Stage:
    def __init__(self, number, folder):
        self.number, self.folder = number, folder
        self.began = time.monotonic()
        self.account = []  # (seconds, step, what): Events, and texts of our own as (kind, text)
        self.programs, self.taps, self.users = [], {}, []
        self.token = None
        self.fault = None
        self.closed = False  # what comes now is no part of the scene
        self.news = asyncio.Event()

    # ---- what has happened ----

    def note(self, kind, text, step=None):
        """kind: scene, for what the scene does; waits, at the server; fault."""
        self.account.append((time.monotonic() - self.began, step, (kind, text)))
        self.news.set()

    def tell(self, event):
        if self.closed:
            return
        wire, kind = event.wire, event.kind
        step = STEPS.get(wire.kind) if kind == "open" else None
        if kind == "line" and event.text == "create_proxy":
            step = 4
        if kind == "payload" and wire.kind == "proxy" and sum(map(len, wire.payload.values())) == event.size:
            step = 6  # the first that goes through: they are joined
        self.account.append((time.monotonic() - self.began, step, event))
        if kind in ("line", "long", "piece") and not self.fault:
            self.judge(event)
        self.news.set()

    def judge(self, event):
        wire = event.wire
        expected = expectation(self.number, wire, event.up, event.kind, event.text, self.token)
        if expected:
            came = f"`{shorten(event.text)}`" if event.kind == "line" else f"{event.size} bytes without one"
            self.fault = f"expected on the {wire.kind} connection: {expected}; came: {came}"
            self.note("fault", self.fault)
        elif wire.kind == "control" and not event.up and token_of(event.text):
            self.token = token_of(event.text)

    # ---- awaiting ----

    async def until(self, condition, expected, seconds=PATIENCE):
        """Waits until condition() is true; returns what it said."""
        deadline = time.monotonic() + seconds
        while True:
            self.news.clear()
            if self.fault:
                raise Fault(self.fault)
            if result := condition():
                return result
            dead = [program for program in self.programs if program.ended]
            left = deadline - time.monotonic()
            if dead:
                await asyncio.wait(dead[0].tasks[:2], timeout=0.5)  # its last words may still come
                self.fail(f"expected: {expected}; but the {dead[0].name} {dead[0].how_it_ended()}", dead)
            if left <= 0:
                self.fail(f"expected: {expected}; nothing like it came for {seconds:g} s", self.programs)
            try:
                await asyncio.wait_for(self.news.wait(), left)
            except asyncio.TimeoutError:
                pass

    def fail(self, text, programs):
        self.fault = text
        self.note("fault", text)
        for program in programs:
            for line in program.last_words()[-2:]:
                self.note("fault", f"the {program.name}'s log: {line}")
        raise Fault(text)

    def wire(self, kind, number=1):
        wires = self.taps[kind].wires if kind in self.taps else []
        return wires[number - 1] if len(wires) >= number else None

    async def opens(self, kind, expected, number=1):
        """A connection opens: its wire."""
        return await self.until(lambda: self.wire(kind, number), expected)

    def refuse_end(self, wire, up, expected):
        """What was expected cannot come any more."""
        if wire.was_reset or wire.ended[up]:
            self.fail(f"expected: {expected}; came: {'a reset' if wire.was_reset else 'an end'}", self.programs)

    async def says(self, wire, up, start, expected, count=1):
        """So many lines on that wire begin like this."""
        def condition():
            if sum(line.startswith(start) for line in wire.lines[up]) >= count:
                return True
            return self.refuse_end(wire, up, expected)

        await self.until(condition, expected)

    async def hears(self, wire, up, text, expected):
        """That payload goes over the wire in that direction."""
        def condition():
            came = wire.payload[up]
            if not text.startswith(came[: len(text)]):
                self.fail(f"expected: {expected}; came: {shorten(came.decode('latin-1'))}", [])
            return came.startswith(text) or self.refuse_end(wire, up, expected)

        text = text.encode()
        await self.until(condition, expected)

    async def ends(self, wire, up, expected):
        await self.until(lambda: wire.ended[up] or self.refuse_end(wire, up, expected), expected)

    async def is_over(self, wire, expected):
        await self.until(lambda: wire.over, expected)

    async def aftermath(self):
        """After a fault: until nothing more happens, but not for ever."""
        enough = time.monotonic() + 2
        while time.monotonic() < enough:
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), AFTERMATH)
            except asyncio.TimeoutError:
                return

    # ---- who takes part ----

    async def start(self, name, *options, program=None, title=None):
        path = program or os.path.join(self.folder, name)
        environment = {key: value for key, value in os.environ.items() if key != "TUNNEL_SECRET"}
        try:
            process = await asyncio.create_subprocess_exec(
                os.path.abspath(path), *options, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, start_new_session=True, env=environment)
        except OSError as error:
            self.fail(f"expected: a program {path}; but {error.strerror}", [])
        started = Program(title or name, process, self.news.set)
        self.programs.append(started)
        return started

    async def port(self, program, whom):
        """Which one it listens on, from the line of its log that says so."""
        pattern = re.compile(rf"listening{whom and ' for ' + whom} on port (\d+)")
        expected = f"`listening{whom and ' for ' + whom} on port N` in the {program.name}'s log"
        return int((await self.until(lambda: pattern.search(program.log), expected))[1])

    def tap(self, kind, port, **lines):
        self.taps[kind] = Tap(kind, port, self.tell, **lines)
        return self.taps[kind].port

    async def user(self, kind="public"):
        tap = self.taps[kind]
        number = len(tap.wires) + 1
        connection = socket.socket()
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", tap.port))
        user = User(connection, await self.opens(kind, "the user's connection", number))
        self.users.append(user)
        return user

    async def close(self):
        self.closed = True
        for tap in self.taps.values():
            await tap.close()
        for user in self.users:
            await user.close()
        for program in self.programs:
            await program.close()


def shorten(text):
    """Tokens to their first six digits, what is not printable to `?`."""
    text = re.sub(r"\b([0-9a-fA-F]{6})[0-9a-fA-F]{26}\b", r"\1..", text)
    return "".join(c if " " <= c <= "~" else "?" for c in text[:60])
