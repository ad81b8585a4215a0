"""Names: a name service that is silent, or says another address than before. Each in a namespace that has a name server
of its own."""
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

from tunnel import Failure, check, free_ports, inside, request, scenario

HERE, THERE = "192.0.2.1", "192.0.2.2"
SERVER, APP = "server.test", "app.test"
OPTIONS = ["--heartbeat", "1"]
TEN_SECONDS = 10  # for so long an answer of the name service is good


class NameServer(asyncio.DatagramProtocol):
    """Answers questions for the IPv4 addresses of the names in zone; to all others it says nothing. RFC 1035."""

    def __init__(self):
        self.zone = {}
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1:at + 1 + data[at]].decode())
            at += data[at] + 1
        name, (kind,) = ".".join(labels), struct.unpack_from(">H", data, at + 1)
        if name not in self.zone:
            return
        addresses = self.zone[name] if kind == 1 else []
        answers = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + socket.inet_aton(address) for address in addresses)
        self.transport.sendto(data[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, len(addresses), 0, 0) + data[12:at + 5] + answers,
                              addr)


class World:
    """A namespace with two addresses and the name server; `ip netns exec` shows it /etc/netns/NAME's files in /etc."""

    def __init__(self):
        self.name = f"ngrokmm-faults-{os.getpid()}-names"
        self.etc = f"/etc/netns/{self.name}"
        self.servers = []

    async def __aenter__(self):
        os.makedirs(self.etc)
        with open(f"{self.etc}/resolv.conf", "w") as file:
            file.write("nameserver 127.0.0.53\n")
        with open(f"{self.etc}/hosts", "w") as file:
            file.write("127.0.0.1 localhost\n")
        for command in (["ip", "netns", "add", self.name], ["ip", "-n", self.name, "link", "set", "lo", "up"],
                        *(["ip", "-n", self.name, "addr", "add", f"{address}/32", "dev", "lo"] for address in (HERE, THERE))):
            done = subprocess.run(command, capture_output=True, text=True)
            check(done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}")
        with inside(self.name):
            port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        port.bind(("127.0.0.53", 53))
        _, self.names = await asyncio.get_running_loop().create_datagram_endpoint(NameServer, sock=port)
        return self

    async def __aexit__(self, *_):
        for server in self.servers:
            server.close()
        self.names.transport.close()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        shutil.rmtree(self.etc)
        with contextlib.suppress(OSError):
            os.rmdir("/etc/netns")

    async def listen(self, address, port, serve):
        """A program at that address; serve(reader, writer) for each connection."""
        with inside(self.name):
            listening = socket.create_server((address, port))
        self.servers.append(await asyncio.start_server(serve, sock=listening))

    async def say(self, address, port, text):
        """An app at that address that says so to each user."""
        async def serve(_, writer):
            with contextlib.suppress(OSError):
                writer.write(text)
                await writer.drain()
                writer.close()
        await self.listen(address, port, serve)

    async def close_all(self, address, port):
        """Another program at that address: takes all connections, and closes them at once."""
        async def serve(_, writer):
            writer.close()
        await self.listen(address, port, serve)

    async def said_to_a_user(self, case, server):
        user = await case.user(server, namespace=self.name)
        return await user.receive_all()


@scenario("the name service is silent when the client starts (a laptop before its Wi-Fi)", waits=True, root=True)
async def names_come_late(case):
    async with World() as world:
        app = case.app(namespace=world.name)
        server = await case.server(*OPTIONS, namespace=world.name)
        client = await case.client(server, app.port, *OPTIONS, host=SERVER, welcome=False, namespace=world.name)
        await client.line("cannot reach the server: cannot find the host", 30)
        world.names.zone[SERVER] = [HERE]
        began = time.monotonic()
        await client.line("step 2: opened the control connection", 30)
        took = time.monotonic() - began
        await request(server, namespace=world.name)
        case.result(1, f"the client goes on trying; it is in {took:.1f} s after the first answer")


@scenario("the app is down and the name service silent; a user who was joined before talks on", waits=True, root=True)
async def name_service_silent(case):
    async with World() as world:
        app = case.app(namespace=world.name)
        world.names.zone[APP] = ["127.0.0.1"]
        server = await case.server(*OPTIONS, namespace=world.name)
        client = await case.client(server, f"{APP}:{app.port}", *OPTIONS, namespace=world.name)
        joined = await case.user(server, namespace=world.name)
        await joined.send(b"x")
        await joined.receive_exactly(1)
        app.listener.close()
        del world.names.zone[APP]
        for _ in range(3):
            with contextlib.suppress(OSError):  # there is no app: it may be reset at once
                await case.user(server, namespace=world.name)
        trips = []
        for _ in range(100):
            began = time.monotonic()
            await joined.send(b"x")
            await joined.receive_exactly(1)
            trips.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
        check(max(trips) < 0.5, f"a joined user waited for {max(trips):.1f} s")
        joined.close()
        client.signal(signal.SIGINT)
        client.signal(signal.SIGINT)
        began = time.monotonic()
        await client.ended()
        check(time.monotonic() - began < 1, "the client waits for the look-up before it ends")
        case.result(3, f"a joined user's round trip takes {max(trips) * 1000:.0f} ms at most; Ctrl-C ends the client at once",
                    "the new users: there is no app")


@scenario("SERVER's name gets another address; at the old one something else takes connections and closes them", waits=True,
          root=True, seconds=90)
async def server_moved(case):
    async with World() as world:
        ports = free_ports(3)
        app = case.app(namespace=world.name)
        world.names.zone[SERVER] = [HERE]
        old = await case.server(*OPTIONS, "-b", HERE, ports=ports, namespace=world.name)
        client = await case.client(old, app.port, *OPTIONS, host=SERVER, namespace=world.name)
        await old.kill()
        for port in ports:
            await world.close_all(HERE, port)
        world.names.zone[SERVER] = [THERE]
        new = await case.server(*OPTIONS, "-b", THERE, ports=ports, namespace=world.name)
        began = time.monotonic()
        await client.line(f"step 2: opened the control connection to {THERE}", 40)
        took = time.monotonic() - began
        await request(new, host=THERE, namespace=world.name)
        case.result(1, f"the client is at the new address after {took:.1f} s")


@scenario("SERVER's name has two addresses; at the first something else takes connections and closes them", waits=True, root=True)
async def server_is_at_the_second_address(case):
    async with World() as world:
        ports = free_ports(3)
        app = case.app(namespace=world.name)
        world.names.zone[SERVER] = [HERE, THERE]
        await world.close_all(HERE, ports[0])
        server = await case.server(*OPTIONS, "-b", THERE, ports=ports, namespace=world.name)
        began = time.monotonic()
        await case.client(server, app.port, *OPTIONS, host=SERVER, welcome=False, namespace=world.name)
        await server.line("step 2: client opened the control connection", 20)
        took = time.monotonic() - began
        await request(server, host=THERE, namespace=world.name)
        case.result(1, f"the client is at the second one after {took:.1f} s")


@scenario("LOCAL's name (a container's) gets another address; at the old one another program listens", waits=True, root=True)
async def app_moved(case):
    async with World() as world:
        port, = free_ports(1)
        world.names.zone[APP] = [HERE]
        await world.say(HERE, port, b"old")
        await world.say(THERE, port, b"new")
        server = await case.server(*OPTIONS, namespace=world.name)
        await case.client(server, f"{APP}:{port}", *OPTIONS, namespace=world.name)
        check(await world.said_to_a_user(case, server) == b"old", "the first user reaches the first address")
        world.names.zone[APP] = [THERE]
        began, users = time.monotonic(), 0
        while await world.said_to_a_user(case, server) != b"new":
            users += 1
            if time.monotonic() - began > TEN_SECONDS + 5:
                raise Failure("users reach the other program for ever")
            await asyncio.sleep(0.2)
        took = time.monotonic() - began
        case.result(1, f"users reach the new address {took:.1f} s later", f"{users} users who came before met the other program")
