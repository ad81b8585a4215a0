"""Stopping in good order, stopping at once, and being killed."""
import asyncio
import os
import random
import signal
import sys
import time

from tunnel import HERE, Failure, Peer, check, free_ports, request, scenario
from streams import converse


async def is_refused(port):
    try:
        (await Peer.connect(port, seconds=2)).close()
        return False
    except ConnectionRefusedError:
        return True


@scenario("SIGTERM or SIGINT to server or client with 3 users joined, who end 1 s later", waits=True)
async def stop_drains(case):
    for number in signal.SIGTERM, signal.SIGINT:
        for who in "server", "client":
            server, client, app = await case.tunnel(None, ports=free_ports(3))  # nobody else listens there afterwards
            stopped = server if who == "server" else client
            pairs = [await case.pair(server, app) for _ in range(3)]
            began = time.monotonic()
            stopped.signal(number)
            await stopped.line("stopping: no new users")
            noticed = time.monotonic() - began
            check(noticed < 0.5, f"{who} noticed the signal after {noticed:.1f} s")
            if who == "server":
                check(await is_refused(server.ports[1]), "a stopping server lets users in")
                check(await is_refused(server.ports[0]), "a stopping server lets clients in")
            else:
                await server.line("client gone", 1)
            for step in range(10):
                for user, peer in pairs:
                    await user.send(b"%d" % step)
                    check(await peer.receive_exactly(1) == b"%d" % step, "a joined user was hurt")
                    await peer.send(b"%d" % step)
                    check(await user.receive_exactly(1) == b"%d" % step, "a joined user was hurt")
                await asyncio.sleep(0.1)
            check(stopped.alive, f"{who} did not wait for its users")
            for user, peer in pairs:
                user.end()
                check(await peer.receive_all() == b"", "more than was sent")
                await peer.send(b"bye")
                peer.end()
                check(await user.receive_all() == b"bye", "the last answer is lost")
            began = time.monotonic()
            status = await stopped.ended(2)
            check(status == 0, f"{who} exits with {status}")
            check(time.monotonic() - began < 1, "it took long to stop after the last user had left")
            if who == "server":
                await stopped.line("stopped: users served: 3, .* up, .* down")
            for one in server, client:
                await one.kill()
    case.result(4, "no new users at once; 12 joined ones finished undisturbed; exit 0, and a line with what was served")


@scenario("SIGTERM to server or client with a user joined who stays: --drain 1; and a second signal after 0.2 s with --drain 60",
          waits=True)
async def stop_at_once(case):
    over = []
    for who in "server", "client":
        for drain, second in ("1", False), ("60", True):
            server, client, app = await case.tunnel(None, ["--drain", drain], ["--drain", drain])
            stopped = server if who == "server" else client
            user, peer = await case.pair(server, app)
            stopped.signal(signal.SIGTERM)
            began = time.monotonic()
            await stopped.line("stopping: no new users")
            if second:
                await asyncio.sleep(0.2)
                began = time.monotonic()
                stopped.signal(random.choice([signal.SIGTERM, signal.SIGINT]))
            status = await stopped.ended(3)
            took = time.monotonic() - began
            check(status == 0, f"{who} exits with {status}")
            check(took < 0.5 if second else 0.9 < took < 1.5, f"{who} took {took:.1f} s, second signal: {second}")
            over.append(took)
            for one in server, client:
                await one.kill()
    case.result(4, f"ended after the drain time ({over[0]:.2f} s for 1 s), and at once at the second signal "
                   f"({max(over[1], over[3]) * 1000:.0f} ms); exit 0", "what was still joined")


@scenario("server with 20 users joined and talking killed (SIGKILL) or stopped (SIGTERM twice), started on the same ports at once")
async def same_ports_again(case):
    ports = free_ports(3)
    app = case.app()
    server = await case.server(ports=ports)
    client = await case.client(server, app.port)
    listening, serving = [], []
    for times in range(10):
        users = [await case.user(server) for _ in range(20)]
        for user in users:
            await user.send(b"hello")
            await user.receive_exactly(5)
        if times % 2:
            await server.kill()
        else:
            server.signal(signal.SIGTERM)
            await server.line("stopping")
            server.signal(signal.SIGTERM)
            await server.ended()
        began = time.monotonic()
        server = await case.server(ports=ports)
        listening.append(time.monotonic() - began)
        await request(server)
        serving.append(time.monotonic() - began)
        for user in users:
            user.close()
    check(max(listening) < 1, f"the ports were free only after {max(listening):.1f} s")
    check(max(serving) < 5, f"users were served again only after {max(serving):.1f} s")
    case.result(10, f"ports back after {max(listening) * 1000:.0f} ms at most, next user served {max(serving):.1f} s after the start "
                    "at most", "what was joined")


HEALED_S = 5.0
ROUNDS = 100


@scenario(f"kill -9 of app, client, server, at random moments and in random order, one to three of them, {ROUNDS} times, under 12 "
          "users with streams that say whose they are", seconds=400)
async def kill_at_random(case):
    ports = free_ports(4)
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    chance = random.Random(seed)
    running = {}
    fine = {"streams": 0, "bytes": 0, "cut": 0, "refused": 0}
    stop = False

    async def start(name):
        if name == "app":
            running[name] = await case.start("app", sys.executable, f"{HERE}/streams.py", str(ports[3]))
            await running[name].line("ready")
        elif name == "server":
            running[name] = await case.server("--wait", "5", ports=ports[:3])
        else:
            running[name] = await case.client(Addresses, ports[3], welcome=False)

    class Addresses:  # of a server, for a client that may be started before it
        pass

    Addresses.ports = ports[:3]

    async def use():
        while not stop:
            try:
                fine["bytes"] += await converse(ports[1], chance.randrange(1, 400000), seconds=8)
                fine["streams"] += 1
            except ConnectionRefusedError:
                fine["refused"] += 1
                await asyncio.sleep(0.02)
            except (OSError, Failure):
                fine["cut"] += 1
                await asyncio.sleep(0.02)

    for name in "app", "server", "client":
        await start(name)
    users = [asyncio.create_task(use()) for _ in range(12)]
    healed = []
    try:
        for _ in range(ROUNDS):
            await asyncio.sleep(chance.random() * 0.4)
            victims = chance.sample(["app", "server", "client"], chance.choice([1, 1, 2, 3]))
            for name in victims:
                await running[name].kill()
                await asyncio.sleep(chance.choice([0, chance.random() * 0.2]))
            chance.shuffle(victims)
            for name in victims:
                await start(name)
                await asyncio.sleep(chance.choice([0, chance.random() * 0.2]))
            began = time.monotonic()
            while True:
                try:
                    await converse(ports[1], 20000, seconds=HEALED_S)
                    break
                except (OSError, Failure) as failure:
                    check(time.monotonic() - began < HEALED_S,
                          f"seed {seed}: not healed {HEALED_S} s after {' and '.join(victims)} came back: {failure}")
                    await asyncio.sleep(0.02)
            healed.append(time.monotonic() - began)
            broken = [task for task in users if task.done()]
            for task in broken:
                task.result()
            foreign = [line for one in case.programs for line in one.lines if "FOREIGN" in line]
            check(not foreign, f"seed {seed}: the app got bytes of another user: {foreign[:1]}")
    finally:
        stop = True
        for task in users:
            task.cancel()
        await asyncio.gather(*users, return_exceptions=True)
    check(max(healed) < HEALED_S, f"seed {seed}: it took {max(healed):.1f} s to heal")
    check(fine["streams"] > ROUNDS, f"seed {seed}: only {fine['streams']} streams went through")
    case.result(ROUNDS, f"healed after {sorted(healed)[ROUNDS // 2]:.1f} s at the median, {max(healed):.1f} s at most; "
                        f"{fine['streams']} streams, {fine['bytes'] / 1e6:.0f} MB, each byte its own user's",
                f"{fine['cut']} streams, cut by a kill ({fine['refused']} connects refused while there was no server)")
