"""Peers that vanish without a goodbye: power cut, line cut, an entry in a router's table gone."""
import asyncio
import os
import signal
import socket
import subprocess
import time

from tunnel import Failure, check, echo, request, scenario, until

HEARTBEAT = 1.0
SLACK = 0.5  # for a busy machine
OPTIONS = ["--heartbeat", str(HEARTBEAT)]
BACKOFF = 0.5 * 1.25 + 1.0 * 1.25  # the first two pauses of the client, at their longest
LONG = 75  # seconds; "about a minute"
SHORT = 40  # a router is rebooted, a train is in a tunnel: whoever is idle meanwhile goes on later


@scenario("client stopped (SIGSTOP); another client knocks all the time", waits=True)
async def client_stands_still(case):
    took, let_in = [], []
    server, client, app = await case.tunnel(server_options=OPTIONS, client_options=OPTIONS)
    for _ in range(3):
        await request(server)
        seen = server.count
        client.signal(signal.SIGSTOP)
        began = time.monotonic()
        next_client = asyncio.create_task(knock(case, server))
        await server.line("client gone", 3 * HEARTBEAT + SLACK, seen)
        took.append(time.monotonic() - began)
        hello = await next_client
        let_in.append(time.monotonic() - began - took[-1])
        client.signal(signal.SIGCONT)
        hello.close()
        await client.line("step 2: opened the control", 3 * HEARTBEAT + BACKOFF + 2, client.count)
        await request(server)
    check(max(let_in) < 0.3, f"the next client was let in {max(let_in):.1f} s after the old one was given up")
    case.result(3, f"given up after {max(took):.1f} s at most (heartbeat 1 s), the next client let in "
                   f"{max(max(let_in), 0) * 1000:.0f} ms later, the old one back by itself")


async def knock(case, server):
    """Says hello until it is welcome."""
    while True:
        peer = await case.connect(server.ports[0])
        await peer.send(b"hello\n")
        if (await peer.receive_line()).startswith("welcome"):
            return peer
        peer.close()
        await asyncio.sleep(0.02)


@scenario("server stopped (SIGSTOP) for 3 heartbeats and more", waits=True)
async def server_stands_still(case):
    took, back = [], []
    server, client, app = await case.tunnel(server_options=OPTIONS, client_options=OPTIONS)
    for _ in range(3):
        await request(server)
        seen = client.count
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        await client.line("lost the server", 3 * HEARTBEAT + SLACK, seen)
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.3)
        seen = client.count
        server.signal(signal.SIGCONT)
        began = time.monotonic()
        await request(server, seconds=10)
        back.append(time.monotonic() - began)
    check(max(back) < 5, f"service was back only after {max(back):.1f} s")
    case.result(3, f"given up after {max(took):.1f} s at most (heartbeat 1 s); users served {max(back):.1f} s at most "
                   "after it went on")


# ---- two hosts with a cable between them ----------------------------------------------------------

SERVER_HOST, CLIENT_HOST, OTHER_HOST = "198.51.100.1", "198.51.100.2", "198.51.100.3"


class Line:
    """Two namespaces, "server" and "client", joined by a veth pair, and what can befall the packets between them."""

    def __init__(self):
        name = f"ngrokmm-faults-{os.getpid()}"
        self.server, self.client = name + "-server", name + "-client"

    def run(self, *command, input=None):
        done = subprocess.run(command, input=input, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)}: {done.stderr.strip()}")

    def __enter__(self):
        for name in self.server, self.client:
            self.run("ip", "netns", "add", name)
            self.run("ip", "-n", name, "link", "set", "lo", "up")
        self.run("ip", "-n", self.server, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
                 "netns", self.client)
        for name, address in (self.server, SERVER_HOST), (self.client, CLIENT_HOST):
            self.run("ip", "-n", name, "addr", "add", address + "/24", "dev", "eth0")
            self.run("ip", "-n", name, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_):
        for name in self.server, self.client:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def drop(self, ports=()):
        """From now on packets between the two are lost; ports of the client: only those from and to them."""
        among = f"{{ {', '.join(map(str, ports))} }}"
        sent, arriving = (f"tcp sport {among}", f"tcp dport {among}") if ports else ("", "")
        self.run("ip", "netns", "exec", self.client, "nft", "-f", "-", input=f"""
            table inet faults {{
                chain outwards {{ type filter hook output priority 0; oifname eth0 {sent} drop; }}
                chain inwards {{ type filter hook input priority 0; iifname eth0 {arriving} drop; }}
            }}""")

    async def drop_spares(self, server):
        def ports():
            return {remote for local, remote, state in server.sockets()
                    if local == server.ports[2] and state == "ESTABLISHED"}

        await until(lambda: len(ports()) >= 24, 5, "24 spares")
        self.drop(ports())

    def restore(self):
        self.run("ip", "netns", "exec", self.client, "nft", "delete", "table", "inet", "faults")

    def change_address(self, old, new):
        self.run("ip", "-n", self.client, "addr", "del", old + "/24", "dev", "eth0")
        self.run("ip", "-n", self.client, "addr", "add", new + "/24", "dev", "eth0")

    async def tunnel(self, case, serve=echo):
        app = case.app(serve, namespace=self.client)
        server = await case.server(*OPTIONS, namespace=self.server)
        client = await case.client(server, app.port, *OPTIONS, host=SERVER_HOST, namespace=self.client)
        return server, client, app

    async def request(self, server, **how):
        return await request(server, namespace=self.server, **how)


def kernel_ends_stuck_connections():
    """Whether Linux can be told how long to wait between repeated packets (since 6.15): sock.c."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, 44, 4000)
            return True
        except OSError:
            return False


@scenario("all packets between server and client dropped, with users joined (idle; bytes under way either way); "
          "later the line is whole again", waits=True, root=True, seconds=150)
async def line_cut(case):
    with Line() as line:
        server, client, app = await line.tunnel(case, None)
        idle = [await case.pair(server, app, namespace=line.server) for _ in range(3)]
        up = await case.pair(server, app, namespace=line.server)
        down = await case.pair(server, app, namespace=line.server)
        line.drop()
        began = time.monotonic()
        await up[0].send(b"x" * 1000)
        await down[1].send(b"x" * 1000)
        await asyncio.gather(server.line("client gone", 3 * HEARTBEAT + SLACK),
                             client.line("lost the server", 3 * HEARTBEAT + SLACK))
        given_up = time.monotonic() - began

        async def noticed(peer):
            await peer.ending(LONG)
            return time.monotonic() - began

        idle_took = await asyncio.gather(*[noticed(peer) for pair in idle for peer in pair])
        check(min(idle_took) > SHORT, f"an idle user was given up after {min(idle_took):.0f} s already: no line may fail for a moment")
        both = [*up, *down]
        if kernel_ends_stuck_connections():
            busy_took = await asyncio.gather(*[noticed(peer) for peer in both])
            busy = f"those with bytes under way after {max(busy_took):.0f} s"
        else:
            busy = "those with bytes under way not watched: Linux older than 6.15"
        line.restore()
        began = time.monotonic()
        await client.line("step 2: opened the control", 40, client.count - 1)
        back = time.monotonic() - began
        visit = asyncio.create_task(line.request(server))
        await echo(await app.next())
        check(await visit < 1, "the first user after it was not served at once")
        case.result(1, f"control connection given up by both after {given_up:.1f} s (heartbeat 1 s); idle joined "
                       f"connections ended on both sides after {max(idle_took):.0f} s, {busy}; line back: client "
                       f"back after {back:.1f} s", "what was joined when the line was cut")


@scenario("a user reads nothing for 75 s, longer than the dead are waited for, while the app sends 64 MB", waits=True, root=True,
          seconds=150)
async def user_pauses(case):
    with Line() as line:
        server, client, app = await line.tunnel(case, None)
        user, peer = await case.pair(server, app, namespace=line.server)
        data = os.urandom(64 << 20)
        sending = asyncio.create_task(peer.send(data, 140))
        await asyncio.sleep(LONG)
        check(not sending.done(), "the app is not held up, or was given up")
        check(await user.receive_exactly(len(data), 60) == data, "other bytes came than were sent")
        await sending
        case.result(1, "held up, not given up: then every byte arrives")


@scenario("packets of all spare proxy connections dropped, the control connection goes on (a NAT forgot them); a user every "
          "0.2 s from 3 heartbeats on", waits=True, root=True)
async def spares_forgotten(case):
    with Line() as line:
        server, client, app = await line.tunnel(case)
        for times in range(1, 4):
            await line.drop_spares(server)
            await asyncio.sleep(3 * HEARTBEAT)
            for user in range(20):
                try:
                    await line.request(server, seconds=2)
                except Failure as failure:
                    raise Failure(f"{3 + user * 0.2:.1f} s after the spares died, a user met a dead one: {failure}") \
                        from failure
                await asyncio.sleep(0.2)
            line.restore()
        case.result(3, "all of 60 users served, none met a dead one (heartbeat 1 s)")


@scenario("packets of the spares dropped as before; a user every 0.1 s at once", waits=True, root=True)
async def spares_just_forgotten(case):
    """Nobody can know at once. How long can a user still meet a dead spare, and what does that cost the user?"""
    with Line() as line:
        server, client, app = await line.tunnel(case)
        await line.drop_spares(server)
        began = time.monotonic()

        async def visit():
            at = time.monotonic() - began
            try:
                await line.request(server, seconds=LONG - 30)
                return at, True
            except (Failure, OSError):
                return at, False

        visits = []
        for _ in range(50):
            visits.append(asyncio.create_task(visit()))
            await asyncio.sleep(0.1)
        met = [at for at, served in await asyncio.gather(*visits) if not served]
        check(not met or max(met) < 3 * HEARTBEAT, f"users met dead spares up to {max(met, default=0):.1f} s later")
        case.result(50, f"users met dead spares until {max(met, default=0):.1f} s after (heartbeat 1 s)",
                    f"{len(met)} of 50 users")


@scenario("the client's address is taken away, it gets another", waits=True, root=True)
async def address_changed(case):
    took = []
    with Line() as line:
        server, client, app = await line.tunnel(case)
        for times in range(4):
            old, new = (CLIENT_HOST, OTHER_HOST) if times % 2 == 0 else (OTHER_HOST, CLIENT_HOST)
            await line.request(server)
            seen = server.count
            line.change_address(old, new)
            began = time.monotonic()
            await server.line(f"step 2: client opened the control connection from {new}",
                              3 * HEARTBEAT + BACKOFF + SLACK, seen)
            await line.request(server)
            took.append(time.monotonic() - began)
    case.result(4, f"back, and a user served, after {max(took):.1f} s at most (heartbeat 1 s)",
                "what was joined at that moment")
