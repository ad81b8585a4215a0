"""Starts the programs of stage 3, and plays everybody they talk to: users, local apps, strangers.

A Case is one run of a scenario. It knows every process and connection that the scenario made, ends them all, and
says if a program died that should not have. Nothing here waits without a deadline, and processes are
ended by their number only.
"""
import asyncio
import collections
import contextlib
import ctypes
import fcntl
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(TOP, os.environ.get("OUT", ""))  # which programs: OUT=build/sanitize/, for example
LOCALHOST = "127.0.0.1"
SIOCOUTQ = 0x5411  # bytes sent and not acknowledged yet: tcp(7)


class Failure(Exception):
    """What was promised did not come true."""


def check(truth, what):
    if not truth:
        raise Failure(what)


async def until(condition, seconds, what):
    """Waits until condition() is true; returns what it said. For what nobody reports: states in /proc."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.01)
    return result


async def within(seconds, work, what):
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise Failure(f"not within {seconds:g} s: {what}") from None


def program(name, stage="stage3-local"):
    return os.path.join(OUT, stage, name)


given = set()  # by free_ports, so far


def free_ports(count):
    """Ports for a server that will be down for a while: from outside of the range that the kernel gives to dialing
    sockets, so that none of these takes them meanwhile."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        lowest = int(file.read().split()[0])
    held = []
    while len(held) < count:
        candidate = socket.socket(socket.AF_INET6)
        port = random.randrange(10000, max(lowest, 20000))
        try:
            check(port not in given, "")
            candidate.bind(("::", port))
            given.add(port)
            held.append(candidate)
        except (OSError, Failure):
            candidate.close()
    ports = [holder.getsockname()[1] for holder in held]
    for holder in held:
        holder.close()
    return ports


# ---- network namespaces ---------------------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(namespace):
    """This thread is in that namespace. A socket stays for life in the one that it was made in."""
    if namespace is None:
        yield
        return
    with open("/proc/thread-self/ns/net") as outside, open(f"/run/netns/{namespace}") as inner:
        if libc.setns(inner.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter the namespace " + namespace)
        try:
            yield
        finally:
            libc.setns(outside.fileno(), 0)


# ---- one end of a connection ----------------------------------------------------------------------

class Peer:
    """A user, a local app's end, or a stranger."""

    def __init__(self, sock):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.address = None
        self.early = b""  # received already, but not asked for yet

    @classmethod
    async def connect(cls, port, host=LOCALHOST, seconds=5, namespace=None, receive_buffer=None):
        with inside(namespace):
            peer = cls(socket.socket())
        if receive_buffer is not None:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await within(seconds, asyncio.get_running_loop().sock_connect(peer.socket, (host, port)),
                         f"connecting to port {port}")
            peer.address = peer.socket.getsockname()
            if peer.address == peer.socket.getpeername():  # nobody listens; TCP's simultaneous open
                raise ConnectionRefusedError
        except BaseException:
            peer.close()
            raise
        return peer

    async def send(self, data, seconds=10):
        await within(seconds, asyncio.get_running_loop().sock_sendall(self.socket, data), "room to send")

    async def receive(self, seconds=10, most=1 << 16):
        """Some bytes; none at the end. A reset is a ConnectionResetError."""
        if self.early:
            data, self.early = self.early[:most], self.early[most:]
            return data
        return await within(seconds, asyncio.get_running_loop().sock_recv(self.socket, most), "something to read")

    async def receive_exactly(self, count, seconds=10):
        data = bytearray()
        deadline = time.monotonic() + seconds
        while len(data) < count:
            piece = await self.receive(max(0.001, deadline - time.monotonic()), count - len(data))
            if not piece:
                raise Failure(f"the stream ended after {len(data)} of {count} bytes")
            data += piece
        return bytes(data)

    async def receive_line(self, seconds=10):
        data = b""
        while not data.endswith(b"\n"):
            piece = await self.receive(seconds, 1)
            if not piece:
                raise Failure(f"the stream ended after {data!r}")
            data += piece
        return data[:-1].decode()

    async def receive_all(self, seconds=10):
        """All up to the end of the stream. Each piece must come within so many seconds."""
        data = bytearray()
        while piece := await self.receive(seconds):
            data += piece
        return bytes(data)

    async def ending(self, seconds=10):
        """Reads on. Returns how the connection ended: "end" or "reset"."""
        deadline = time.monotonic() + seconds
        try:
            while await self.receive(max(0.001, deadline - time.monotonic())):
                pass
            return "end"
        except (ConnectionResetError, BrokenPipeError):
            return "reset"
        except OSError as error:  # timed out, no route: what keepalive says of a peer that vanished
            return error.strerror

    async def delivered(self, seconds=10):
        """Until the peer's kernel has acknowledged all that was sent: closing with bytes unread, or resetting, throws
        away what is still in this side's kernel, tunnel or not."""
        await until(lambda: struct.unpack("i", fcntl.ioctl(self.socket, SIOCOUTQ, bytes(4)))[0] == 0, seconds,
                    "all is acknowledged")

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self):
        self.socket.close()


async def echo(peer):
    """A local app: sends all back, ends when the user does."""
    while data := await peer.receive(seconds=300):
        await peer.send(data, seconds=300)
    peer.end()


class App:
    """A local app in this process; serve(peer) is run for each connection."""

    def __init__(self, serve, namespace=None):
        with inside(namespace):
            self.listener = socket.socket()
        self.listener.setblocking(False)
        self.listener.bind((LOCALHOST, 0))
        self.listener.listen(4096)
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        self.peers = asyncio.Queue()  # all that ever came, for scenarios that play the app themselves
        self.connections = 0
        self.tasks = {asyncio.create_task(self.accept())}

    async def accept(self):
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self.listener)
            self.connections += 1
            peer = Peer(connection)
            if self.serve is None:
                self.peers.put_nowait(peer)
            else:
                task = asyncio.create_task(self.attend(peer))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def attend(self, peer):
        try:
            await self.serve(peer)
        except (OSError, Failure):
            pass  # the user's side went away; whether it should have is for the scenario to say
        finally:
            peer.close()

    async def next(self, seconds=10):
        return await within(seconds, self.peers.get(), "a connection to the local app")

    def close(self):
        for task in self.tasks:
            task.cancel()
        self.listener.close()


# ---- one program ----------------------------------------------------------------------------------

class Program:
    """A process that was started, and what it logs."""

    def __init__(self, name):
        self.name = name
        self.lines = collections.deque(maxlen=200000)
        self.count = 0  # lines so far
        self.news = asyncio.Condition()
        self.may_die = False
        self.ports = []

    async def start(self, command, environment=None, descriptors=None, namespace=None):
        def prepare():
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            with contextlib.suppress(OSError):  # room for the log of a burst; what finds none is lost
                fcntl.fcntl(2, fcntl.F_SETPIPE_SZ, 1 << 20)

        self.namespace = namespace
        if namespace is not None:
            command = ["ip", "netns", "exec", namespace, *command]
        self.command = command
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, **(environment or {})}, preexec_fn=prepare)
        self.pid = self.process.pid
        self.reader = asyncio.create_task(self.read())
        return self

    async def read(self):
        while line := await self.process.stderr.readline():
            async with self.news:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self.count += 1
                self.news.notify_all()
        async with self.news:
            self.news.notify_all()

    def shrink_log(self):
        """The pipe that it logs to has room for a page from now on, where the system can do that."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/fd/2", "wb", buffering=0) as log:
            fcntl.fcntl(log, fcntl.F_SETPIPE_SZ, 4096)

    async def line(self, pattern, seconds=5, after=0):
        """The match of the first line that fits, of those that come after the first `after` ones."""
        async def look():
            seen = after
            while True:
                first = self.count - len(self.lines)
                for number in range(max(seen - first, 0), len(self.lines)):
                    if match := re.search(pattern, self.lines[number]):
                        return match
                seen = self.count
                async with self.news:
                    if self.count == seen:
                        if self.reader.done():
                            raise Failure(f"{self.name} ended without logging: {pattern}")
                        await self.news.wait()

        return await within(seconds, look(), f"{self.name} logs: {pattern}")

    def logged(self, pattern):
        return sum(1 for line in self.lines if re.search(pattern, line))

    def signal(self, number):
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            self.may_die = True
        self.process.send_signal(number)

    @property
    def alive(self):
        return self.process.returncode is None

    async def ended(self, seconds=5):
        """Its exit status."""
        self.may_die = True
        await within(seconds, self.process.wait(), f"{self.name} exits")
        await within(2, self.reader, f"{self.name}'s log ends")
        return self.process.returncode

    async def kill(self):
        if self.alive:
            self.signal(signal.SIGKILL)
            await self.ended()

    # What /proc knows of it.

    def processor_seconds(self):
        with open(f"/proc/{self.pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9

    def resident_bytes(self):
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sockets(self):
        """Its TCP sockets: (local port, remote port, state) of each."""
        inodes = set()
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{self.pid}/fd/{name}")
                if target.startswith("socket:["):
                    inodes.add(int(target[8:-1]))
        return [found[:3] for found in tcp_sockets(self.namespace) if found[3] in inodes]

    def connections(self, port, *states):
        """How many of its connections have this port at one end (and are in one of these states)."""
        return sum(1 for local, remote, state in self.sockets()
                   if port in (local, remote) and state != "LISTEN" and (not states or state in states))


STATES = {1: "ESTABLISHED", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 7: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN",
          11: "CLOSING"}  # that a descriptor can be in


def tcp_sockets(namespace):
    """(local port, remote port, state, inode) of all: sock_diag(7), since /proc/net/tcp takes seconds on a machine with
    many connections in TIME_WAIT."""
    mask = sum(1 << state for state in STATES)
    with inside(namespace), socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as netlink:
        for family in socket.AF_INET, socket.AF_INET6:
            netlink.send(struct.pack("=IHHII BBBBI48x", 72, 20, 0x301, 0, 0, family, socket.IPPROTO_TCP, 0, 0, mask))
            done = False
            while not done:
                data = netlink.recv(1 << 20)
                while data and not done:
                    length, kind = struct.unpack_from("=IH", data)
                    done = kind != 20  # the last one says: done, or an error
                    if not done:
                        state = data[17]
                        local, remote = struct.unpack_from("!HH", data, 20)
                        yield local, remote, STATES.get(state, state), struct.unpack_from("=I", data, 84)[0]
                    data = data[(length + 3) & ~3:]


CRASHES = [-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGPIPE)]


# ---- one run of a scenario ------------------------------------------------------------------------

class Case:
    def __init__(self):
        self.programs = []
        self.apps = []
        self.peers = []
        self.times, self.happened, self.lost = 0, "", ""

    def result(self, times, happened, lost="nothing"):
        """What goes into the table."""
        self.times, self.happened, self.lost = times, happened, lost

    async def start(self, name, *command, **how):
        started = await Program(name).start(list(command), **how)
        self.programs.append(started)
        return started

    async def server(self, *options, ports=(0, 0, 0), stage="stage3-local", **how):
        """A server that listens. Its ports: control, public, proxy."""
        server = await self.start("server", program("server", stage), "-c", str(ports[0]), "-u", str(ports[1]),
                                  "-x", str(ports[2]), *options, **how)
        server.ports = [int((await server.line(rf"listening for {whom} on port (\d+)"))[1])
                        for whom in ("the client", "users", "proxy connections")]
        return server

    async def client(self, server, app_port, *options, host=LOCALHOST, stage="stage3-local", welcome=True, **how):
        """app_port: None before stage 3, whose client is the first that has a local app."""
        control, _, proxy = server.ports
        app = [] if app_port is None else [str(app_port)]
        client = await self.start("client", program("client", stage), "-c", str(control), "-x", str(proxy), *options,
                                  *app, host, **how)
        if welcome:
            await client.line("step 2: opened the control connection")
        return client

    def app(self, serve=echo, **how):
        app = App(serve, **how)
        self.apps.append(app)
        return app

    async def tunnel(self, serve=echo, server_options=(), client_options=(), ports=(0, 0, 0)):
        app = self.app(serve)
        server = await self.server(*server_options, ports=ports)
        client = await self.client(server, app.port, *client_options)
        return server, client, app

    async def connect(self, port, **how):
        peer = await Peer.connect(port, **how)
        self.peers.append(peer)
        return peer

    async def user(self, server, **how):
        return await self.connect(server.ports[1], **how)

    async def pair(self, server, app, **how):
        """A user, and the app's end of the same connection; app was made with serve=None."""
        user = await self.user(server, **how)
        mark = os.urandom(8)
        await user.send(mark)
        peer = await app.next()
        self.peers.append(peer)
        check(await peer.receive_exactly(8) == mark, "another user's bytes came to the app")
        return user, peer

    def crashed(self):
        """The programs that ended although nobody told them to, or in a way that none should."""
        found = []
        for one in self.programs:
            status = one.process.returncode
            report = one.logged("Sanitizer|runtime error:|stack smashing|buffer overflow detected")
            if report or status in CRASHES or (status is not None and not one.may_die):
                found.append(f"{one.name} died: status {status}, last words: {one.lines[-1] if one.lines else ''}")
        return found

    async def close(self):
        for peer in self.peers:
            peer.close()
        for app in self.apps:
            app.close()
        for one in self.programs:
            if one.alive:
                one.process.kill()
        for one in self.programs:
            await one.process.wait()


async def request(server, size=100, seconds=10, **how):
    """A user of an echoing app, from connect to the end. Returns the seconds that it took."""
    began = time.monotonic()
    user = await Peer.connect(server.ports[1], seconds=seconds, **how)
    data = os.urandom(size)
    sending = asyncio.create_task(user.send(data, seconds))
    try:
        echoed = await user.receive_exactly(size, seconds)
        await sending
        check(echoed == data, "a user got other bytes than its own")
        user.end()
        check(await user.receive_all(seconds) == b"", "more came back than was sent")
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        user.close()
    return time.monotonic() - began


def build_shim(folder, source):
    """Makes folder/NAME.so of NAME.c, for LD_PRELOAD."""
    shim = os.path.join(folder, os.path.basename(source)[:-2] + ".so")
    done = subprocess.run([*os.environ.get("CC", "cc").split(), "-O2", "-fPIC", "-shared", "-D_GNU_SOURCE", "-o", shim, source],
                          capture_output=True, text=True)
    check(done.returncode == 0, f"cannot build {shim}: {done.stderr}")


def raise_descriptor_limit():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# ---- scenarios and how they are run ---------------------------------------------------------------

SCENARIOS = {}


def scenario(made, waits=False, seconds=60, root=False):
    """Registers a scenario under its function's name. made: how the fault is made, for the table. waits: it has little
    to do but to wait, so that many can run at once. root: it needs namespaces and nftables."""
    def register(function):
        function.made, function.waits, function.seconds, function.root = made, waits, seconds, root
        SCENARIOS[function.__name__.replace("_", "-")] = function
        return function
    return register


async def run_scenario(name):
    """Returns (times, happened, lost, failure or None)."""
    raise_descriptor_limit()
    case = Case()
    function = SCENARIOS[name]
    failure = None
    try:
        await within(function.seconds, function(case), "the end of the scenario")
    except Exception as error:  # whatever it is, the scenario has failed
        failure = f"{'' if isinstance(error, Failure) else type(error).__name__ + ': '}{error}"
        places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(HERE)]
        places = [frame for frame in places if frame.filename != __file__] or places
        failure += f" ({os.path.basename(places[-1].filename)}:{places[-1].lineno})"
    crashed = case.crashed()
    if crashed:
        failure = "; ".join(crashed + ([failure] if failure else []))
    if failure and any(case.programs):
        folder = os.path.join(TOP, "build", "faults", name)
        os.makedirs(folder, exist_ok=True)
        for one in case.programs:
            with open(os.path.join(folder, f"{one.name.replace(' ', '-')}.{one.pid}.log"), "w") as file:
                file.write("\n".join([" ".join(one.command), *one.lines, ""]))
        failure += f"; logs are in {os.path.relpath(folder, TOP)}"
    await case.close()
    return case.times, case.happened, case.lost, failure
