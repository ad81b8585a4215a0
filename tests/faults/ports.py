"""The ports of the client's host: one for each proxy connection, and for a minute after it where the app closes first
(TIME_WAIT)."""
import asyncio
import time

from dead import SERVER_HOST, Line
from tunnel import Peer, check, echo, inside, scenario

PORTS = 400  # instead of the 28,000 that Linux has
OPTIONS = ["--heartbeat", "1"]
WAIT = ["--wait", "2.5"]
ADVICE = r"cannot open a proxy connection to .* port [0-9]+: all ports .*net\.ipv4\.tcp_tw_reuse=1"


def set_sysctl(namespace, name, value):
    with inside(namespace), open("/proc/sys/net/ipv4/" + name, "w") as file:
        file.write(value)


async def answer(app):
    """Closes first, as a web server of old; but echoes for who says x."""
    if (question := await app.receive()) == b"x":
        await app.send(question)
        await echo(app)
    else:
        await app.send(b"answer")


async def is_served(line, server):
    try:
        user = await Peer.connect(server.ports[1], namespace=line.server)
        await user.send(b"ask")
        served = await user.receive_all(5) == b"answer"
        user.close()
        return served
    except OSError:
        return False


class Joined:
    """A user who was joined before, and what he feels."""

    async def talk(self, case, line, server):
        self.slowest = 0.0
        user = await case.user(server, namespace=line.server)
        while True:
            began = time.monotonic()
            await user.send(b"x")
            await user.receive_exactly(1)
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(0.02)


@scenario("the client's host has 400 ports; user after user comes, the app closes first; then net.ipv4.tcp_tw_reuse=1", waits=True,
          root=True, seconds=90)
async def ports_run_out(case):
    with Line() as line:
        set_sysctl(line.client, "ip_local_port_range", f"40000 {40000 + PORTS - 1}")
        set_sysctl(line.client, "tcp_tw_reuse", "0")
        app = case.app(answer, namespace=line.client)
        server = await case.server(*OPTIONS, *WAIT, namespace=line.server)
        client = await case.client(server, app.port, *OPTIONS, host=SERVER_HOST, namespace=line.client)
        joined = Joined()
        talk = asyncio.create_task(joined.talk(case, line, server))
        served = 0
        while await is_served(line, server):
            served += 1
            check(served <= PORTS, "more users were served than there are ports")
        check(served > 0.9 * PORTS, f"{served} users were served with {PORTS} ports")
        await client.line(ADVICE, 5)
        lost = await asyncio.gather(*[is_served(line, server) for _ in range(100)])
        check(not any(lost), "a user was served without a port")
        complaints = client.logged(ADVICE)
        set_sysctl(line.client, "tcp_tw_reuse", "1")
        began = time.monotonic()
        while not await is_served(line, server):
            check(time.monotonic() - began < 10, "nobody is served although ports may be used again")
        back = time.monotonic() - began
        check(all(await asyncio.gather(*[is_served(line, server) for _ in range(50)])), "users are lost with tcp_tw_reuse=1")
        check(not talk.done(), "the joined user was lost")
        talk.cancel()
        check(joined.slowest < 1, f"a joined user waited for {joined.slowest:.1f} s")
        check(complaints < 15, f"{complaints} lines of the log say the same")
        case.result(served, f"then the log says what to do; a joined user's round trip took {joined.slowest * 1000:.0f} ms at most; "
                            f"with tcp_tw_reuse=1 users are served after {back:.1f} s", "users who come while there is no port")
