"""How connections end: each side must see what it would see without a tunnel."""
import asyncio
import os
import random
import time

from tunnel import Peer, check, request, scenario, until

AT_ONCE = 1.0  # seconds; far more than it takes, far less than any time-out


async def goes_on(case, first, second, pieces=30):
    """`first` has ended its direction: `second` sees it at once, and its own direction goes on for six seconds, far beyond
    three heartbeats. Returns how long the end took to arrive."""
    first.end()
    began = time.monotonic()
    check(await second.receive(AT_ONCE) == b"", "bytes where the end should be")
    took = time.monotonic() - began
    for number in range(pieces):
        await second.send(b"%08d" % number)
        check(await first.receive_exactly(8) == b"%08d" % number, "the other direction was disturbed")
        await asyncio.sleep(0.2)
    second.end()
    check(await first.receive_all() == b"", "more than was sent")
    return took


@scenario("user, then app, ends its direction (FIN), the other sends on for 6 s; heartbeat 0.5 s", waits=True)
async def end_of_one_direction(case):
    server, _, app = await case.tunnel(None, ["--heartbeat", "0.5"], ["--heartbeat", "0.5"])
    pairs = [await case.pair(server, app) for _ in range(40)]
    took = await asyncio.gather(*[goes_on(case, *(pair if i % 2 else reversed(pair)))
                                  for i, pair in enumerate(pairs)])
    await until(lambda: server.logged("user .* done") == 40, 5, "all users done in the server's log")
    case.result(40, f"seen by the other side after {max(took) * 1000:.1f} ms at most; the rest arrived")


async def resets(case, server, app, by_user, kind):
    user, peer = await case.pair(server, app)
    breaker, victim = (user, peer) if by_user else (peer, user)
    expected = b""
    if kind == "after bytes":
        expected = os.urandom(random.randrange(1, 4000))
        await breaker.send(expected)
    elif kind == "with bytes unread":
        await victim.send(os.urandom(random.randrange(1, 4000)))
        await asyncio.sleep(random.random() / 100)
    elif kind == "amid bytes":
        sending = asyncio.create_task(victim.send(bytes(8 << 20)))
        await breaker.receive_exactly(random.randrange(1, 1 << 20))
    began = time.monotonic()
    breaker.reset()
    if kind == "amid bytes":
        try:
            await sending
        except (ConnectionResetError, BrokenPipeError):
            return time.monotonic() - began
    got = b""
    try:
        while piece := await victim.receive(AT_ONCE):
            got += piece
        check(False, f"a reset {kind} arrived as an orderly end")
    except ConnectionResetError:
        pass
    check(got == expected, f"of {len(expected)} bytes ahead of the reset, {len(got)} arrived")
    return time.monotonic() - began


KINDS = ["idle", "after bytes", "with bytes unread", "amid bytes"]


@scenario("user, then app, resets: idle, right after bytes, with bytes unread, amid 8 MB the other way")
async def reset(case):
    server, _, app = await case.tunnel(None)
    took = []
    for i in range(800):  # some only go wrong when two events meet
        took.append(await resets(case, server, app, i % 2 == 0, KINDS[i // 2 % 4]))
    case.result(800, f"a reset at the other end, {max(took) * 1000:.0f} ms later at most, after all bytes ahead of it")


@scenario("app answers (1 B to 300 kB) and closes with a 10 MB upload unread, as with a 413; the user reads before or after "
          "it notices")
async def early_answer(case):
    answers = {}

    async def refuse(peer):
        name = (await peer.receive_exactly(8)).decode()
        await peer.send(answers[name])
        await peer.delivered()

    server, _, _ = await case.tunnel(refuse)

    async def upload(number):
        name = f"{number:08d}"
        answers[name] = os.urandom(random.choice([1, 500, 20000, 300000]))
        user = await case.user(server)
        await user.send(name.encode())
        if number % 2:
            sending = asyncio.create_task(user.send(bytes(10 << 20)))
            await asyncio.sleep(0)
        else:
            sending = None
        got = b""
        try:
            while piece := await user.receive():
                got += piece
        except ConnectionResetError:
            pass  # what it sent was not read: the end may well be a reset
        if sending is not None:
            try:
                await sending
            except OSError:
                pass
        user.close()
        check(got == answers[name], f"{len(got)} of {len(answers[name])} bytes of the answer arrived")

    for number in range(0, 300, 10):
        await asyncio.gather(*[upload(number + i) for i in range(10)])
    case.result(300, "the whole answer arrived")


@scenario("no client there: 200 users connect, send something, and reset while they wait; then a client comes")
async def reset_while_waiting(case):
    server = await case.server("--wait", "30")
    app = case.app()
    before = server.descriptors()
    users = [await case.user(server) for _ in range(200)]
    for user in users[::2]:
        await user.send(b"hello?")
    await until(lambda: server.descriptors() == before + 200, 5, "200 users wait")
    began = time.monotonic()
    for user in users:
        user.reset()
    await until(lambda: server.descriptors() == before, AT_ONCE, "their places are free again")
    took = time.monotonic() - began
    await case.client(server, app.port)
    await request(server)
    check(app.connections == 1, f"the app met {app.connections} users, of whom only one was there")
    case.result(200, f"places free after {took * 1000:.0f} ms; the next user was served")


@scenario("400 users, 40 at a time; each side ends, resets or closes with bytes unread, at random")
async def nothing_left_behind(case):
    async def serve(peer):
        await peer.receive()
        await end_somehow(peer)

    async def end_somehow(peer):
        how = random.randrange(5)
        if how == 0:
            peer.reset()
        elif how == 1:
            await peer.send(os.urandom(random.randrange(1, 100000)))
            peer.close()
        elif how == 2:
            peer.end()
            await peer.ending(2)
            peer.close()
        elif how == 3:
            await peer.receive(2)
            peer.close()
        else:
            peer.close()

    async def visit():
        user = await Peer.connect(server.ports[1])
        try:
            await user.send(os.urandom(random.randrange(1, 5000)))
            await asyncio.sleep(random.random() / 50)
            await asyncio.wait_for(end_somehow(user), 1)
        except (OSError, asyncio.TimeoutError):
            pass
        finally:
            user.close()

    server, client, app = await case.tunnel(serve)
    for _ in range(10):
        await asyncio.gather(*[visit() for _ in range(40)])
    await until(lambda: server.connections(server.ports[1]) == 0, 5, "no user's connection left in the server")
    await until(lambda: client.connections(app.port) == 0, 5, "no private connection left in the client")
    for one in server, client:
        await until(lambda: not any(state == "CLOSE_WAIT" for *_, state in one.sockets()), 1, "nothing in CLOSE_WAIT")
    kept = client.connections(server.ports[2])
    check(kept <= 100 + 32, f"{kept} proxy connections are kept")  # spares at most, and those whose users have left
    await request_with_answer(server)
    case.result(400, f"nothing in CLOSE_WAIT, no connection left but {kept} spares")


async def request_with_answer(server):
    user = await Peer.connect(server.ports[1])
    await user.send(b"bye")
    await user.ending(5)
    user.close()


async def late_answer(first, second, seconds):
    """`first` has said everything; `second` answers after so many seconds, and the answer arrives."""
    first.end()
    check(await second.receive() == b"", "bytes where the end should be")
    await asyncio.sleep(seconds)
    await second.send(b"late")
    check(await first.receive_exactly(4) == b"late", "the answer did not arrive")


@scenario("the app closes, the user never does (a pool of connections); beside it, an answer 76 s after the question's end, "
          "either way", waits=True, seconds=140)
async def user_never_closes(case):
    server, client, app = await case.tunnel(None)
    over = [await case.pair(server, app) for _ in range(5)]
    in_use = [await case.pair(server, app) for _ in range(2)]
    answers = [asyncio.create_task(late_answer(*pair, 76)) for pair in (in_use[0], in_use[1][::-1])]
    for _, peer in over:
        peer.close()
    began = time.monotonic()
    check(await over[0][0].receive() == b"", "bytes where the end should be")
    users = {user.address[1] for user, _ in over}
    await until(lambda: not any(remote in users for _, remote, _ in server.sockets()), 120, "the server holds none of them")
    took = time.monotonic() - began
    await asyncio.gather(*answers)
    held = client.connections(app.port, "CLOSE_WAIT")
    check(held <= 1, f"the client still holds {held} connections that the app has closed")
    case.result(7, f"nothing is held {took:.0f} s after the app has closed; late answers arrive", "nothing but what is over")
