"""Whoever knocks at a port on the internet. None may become the client, meet a user, or disturb the tunnel."""
import asyncio
import os
import random
import re
import secrets
import time

from tunnel import Failure, Peer, check, program, request, scenario, until

CLOSED_S = 5.0  # a stranger is gone by then
SLACK = 0.5
HELD_MAX = 256
MARK = b"I am a user "

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(193))
SAYINGS = {
    "random bytes": lambda: secrets.token_bytes(random.randrange(1, 3000)),
    "HTTP": lambda: b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "TLS hello": lambda: TLS_HELLO,
    "SSH": lambda: b"SSH-2.0-OpenSSH_9.2\r\n",
    "line of the other port": lambda: random.choice([b"proxy\n", b"hello\n", b"start\n", b"ping\n", b"\n"]),
    "almost right": lambda: random.choice([b"hello \n", b"hellooo\n", b"proxy \n", b"proxy " + b"0" * 32 + b"\n",
                                           b"proxy " + b"a" * 31 + b"\n", b"hello\0\n", b"hello\r\n"]),
    "nothing": lambda: b"",
    "endless line": None,
    "a byte a second": None,
}


async def knock(port, kind):
    """Returns how long the stranger was held."""
    stranger = await Peer.connect(port)
    began = time.monotonic()

    async def talk():
        if SAYINGS[kind] is not None:
            await stranger.send(SAYINGS[kind]())
        while kind == "endless line":
            await stranger.send(b"x" * 1000)
        while kind == "a byte a second":
            await stranger.send(b"x")
            await asyncio.sleep(1)

    talking = asyncio.create_task(talk())
    try:
        await stranger.receive_all(CLOSED_S + SLACK)
    except ConnectionError:
        pass
    except Failure:
        raise Failure(f"a stranger ({kind}) was still there after {CLOSED_S + SLACK} s") from None
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        stranger.close()
    return time.monotonic() - began


class Users:
    """Users who come one after another as long as strangers knock; the app checks that it meets only them."""

    def __init__(self):
        self.intruders, self.slowest, self.served, self.running = [], 0.0, 0, True

    async def serve(self, peer):
        said = await peer.receive_exactly(len(MARK))
        if said != MARK:
            self.intruders.append(said)
        while data := await peer.receive():
            await peer.send(data)
        peer.end()

    async def come(self, server):
        while self.running:
            began = time.monotonic()
            user = await Peer.connect(server.ports[1])
            try:
                data = secrets.token_bytes(1000)
                await user.send(MARK + data)
                check(await user.receive_exactly(len(data)) == data, "a user got other bytes than its own")
                user.end()
                check(await user.receive_all() == b"", "a user got more than its own bytes")
            finally:
                user.close()
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.served += 1
            await asyncio.sleep(0.005)

    async def meanwhile(self, server, work):
        coming = asyncio.create_task(self.come(server))
        working = asyncio.create_task(work)
        await asyncio.wait({coming, working}, return_when=asyncio.FIRST_COMPLETED)
        while self.served < 20 and not coming.done():
            await asyncio.sleep(0.01)
        self.running = False
        if coming.done():
            working.cancel()
        await coming
        return await working

    def check(self):
        check(not self.intruders, f"the app met strangers: {self.intruders[:1]}")
        check(self.slowest < 1, f"a user took {self.slowest:.1f} s meanwhile")


@scenario("on the control and the proxy port: " + ", ".join(SAYINGS) + "; 12 of each; users all the while")
async def strangers_talk(case):
    users = Users()
    server, client, app = await case.tunnel(users.serve)
    visits = [knock(port, kind) for kind in SAYINGS for port in (server.ports[0], server.ports[2]) for _ in range(12)]
    random.shuffle(visits)
    took = await users.meanwhile(server, gathered(visits))
    users.check()
    await until(lambda: server.connections(server.ports[0]) == 1, 1, "only the client is left on the control port")
    check(client.alive and client.logged("lost the server") == 0, "the client lost the server")
    case.result(len(visits), f"each closed after {max(took):.2f} s at most; {users.served} users served meanwhile, the slowest "
                             f"in {users.slowest * 1000:.0f} ms")


async def gathered(visits):
    return await asyncio.gather(*visits)


@scenario("700 connections to the control and proxy ports, 200 a second, that say nothing; users all the while; the client killed "
          "and started amid it")
async def strangers_hold(case):
    users = Users()
    server, client, app = await case.tunnel(users.serve)
    most_held = 0
    closed = []  # numbers, in the order in which they were closed

    async def hold(number):
        stranger = await Peer.connect(server.ports[0 if number % 2 else 2])
        began = time.monotonic()
        try:
            await stranger.receive_all(CLOSED_S + SLACK)
        except ConnectionError:
            pass
        finally:
            stranger.close()
        closed.append(number)
        return time.monotonic() - began

    def strangers_held():
        known = {local for local, *_ in client.sockets()}
        return sum(1 for local, remote, state in server.sockets() if state == "ESTABLISHED" and remote not in known
                   and local in (server.ports[0], server.ports[2]))

    async def flood():
        nonlocal most_held
        holds = []
        for number in range(700):
            holds.append(asyncio.create_task(hold(number)))
            await asyncio.sleep(0.005)
            if number % 50 == 0:
                held = await asyncio.to_thread(strangers_held)  # it takes a while; users must not wait for it
                most_held = max(most_held, held)
        return await asyncio.gather(*holds)

    began = time.monotonic()
    took = await users.meanwhile(server, flood())
    users.check()
    check(200 < most_held <= HELD_MAX + 8, f"{most_held} strangers were held at a time")
    out_of_turn = max(abs(place - number) for place, number in enumerate(closed))
    check(out_of_turn < 64, f"a stranger was closed {out_of_turn} places out of turn: not the oldest first")
    lines, seconds = server.logged("a stranger on"), int(time.monotonic() - began) + 1
    check(lines <= seconds, f"{lines} lines about strangers in {seconds} s: a flood")
    flooded = asyncio.gather(*[hold(number) for number in range(300)])
    await client.kill()
    client = await case.client(server, app.port)
    await request_of_user(server)
    await flooded
    case.result(1000, f"at most {most_held} held at a time, the oldest went first, each gone after {max(took):.2f} s at most; "
                      f"{users.served} users served meanwhile, the slowest in {users.slowest * 1000:.0f} ms; a restarted "
                      "client got in")


async def request_of_user(server):
    user = await Peer.connect(server.ports[1])
    await user.send(MARK + b"hello")
    check(await user.receive_exactly(5) == b"hello", "a user got other bytes than its own")
    user.close()


def running_command_lines():
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    yield file.read().decode(errors="replace")
            except OSError:
                pass


@scenario("a secret is set: hello without, with wrong, longer, shorter and almost right ones; real clients without and with a "
          "wrong one; proxy lines with random and with old tokens; logs (-v) and ps searched for secret and tokens")
async def secret_kept(case):
    secret = secrets.token_hex(20)
    known = {"TUNNEL_SECRET": secret}
    users = Users()
    app = case.app(users.serve)
    server = await case.server("-v", environment=known)
    tokens = []

    async def say(port, line):
        peer = await case.connect(port)
        await peer.send(line.encode() + b"\n")
        try:
            return (await peer.receive_all()).decode().strip()
        except ConnectionResetError:
            return "reset"

    guesses = ["hello", "hello ", f"hello {secret[:-1]}", f"hello {secret}x", f"hello  {secret}", f"hello {secret} ",
               f"hello{secret}", "hello " + "x" * len(secret), f"hello {secret[:-1]}x", f"hello {secret.upper()}!",
               *[f"hello {secrets.token_hex(20)}" for _ in range(50)]]
    for guess in guesses:
        answer = await say(server.ports[0], guess)
        check(answer in ("denied", ""), f"`{guess.replace(secret[:8], '...')}` was answered with `{answer}`")
        check(not guess.startswith("hello ") or answer == "denied", "a wrong secret was not answered with `denied`")

    # A stand-in for the client, to learn a token.
    stand_in = await case.connect(server.ports[0])
    await stand_in.send(f"hello {secret}\n".encode())
    welcome = re.fullmatch("welcome ([0-9a-f]{32}) [0-9]+", await stand_in.receive_line())
    check(welcome, "no `welcome TOKEN PORT` for the right secret")
    token = welcome[1]
    tokens.append(token)
    check(await say(server.ports[0], f"hello {secret}") == "busy", "a second client was not told `busy`")
    stand_in.close()
    await server.line("client gone")

    for environment in {"TUNNEL_SECRET": "wrong"}, {"TUNNEL_SECRET": secret + "x"}:
        denied = await case.client(server, app.port, "-v", welcome=False, environment=environment)
        check(await denied.ended() == 1, "a client with a wrong secret does not exit with 1")
    client = await case.client(server, app.port, "-v", environment=known)

    async def intrude():
        for number in range(200):
            token = tokens[0] if number % 4 == 0 else secrets.token_hex(16)
            check(await say(server.ports[2], f"proxy {token}\n" + "I am not the client") in ("", "reset"),
                  "a proxy connection with a wrong token was answered")

    await users.meanwhile(server, intrude())
    users.check()
    check(server.logged("step 2") == 2, "a stranger became the client")
    for one in case.programs:
        for line in one.lines:
            check(secret[:12] not in line and not re.search("[0-9a-f]{32}", line), f"secret or token in the log: {line}")
    check(not any(secret[:12] in line for line in running_command_lines()), "the secret is in ps")
    case.result(len(guesses) + 203, "`denied`, `busy` or closed; clients with a wrong secret exit 1; no stranger met a user; "
                                    "neither secret nor token in log or ps")
