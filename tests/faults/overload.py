"""Too many users, too few descriptors, no memory, a user that stops reading, one that takes all it can get."""
import asyncio
import os
import random
import signal
import statistics
import struct
import sys
import tempfile
import time

from tunnel import HERE, Failure, Peer, build_shim, check, echo, request, scenario, until

FEW = 64  # descriptors
STARVED_S = 3.0  # how long a starved program is watched
IDLE_SHARE = 0.05  # of a core, at most, meanwhile


async def starve(case, server, client, starved):
    """500 users come at once; the tunnel has room for a few of them. Each stays until it is told to go."""
    go = asyncio.Event()
    joined = []  # those that have got an answer so far

    async def stay(number):
        user = await Peer.connect(server.ports[1], seconds=120)
        try:
            await user.send(b"%04d" % number)
            check(await user.receive_exactly(4, seconds=120) == b"%04d" % number, "another user's bytes")
            joined.append((number, user))
            await go.wait()
            await user.send(b"still" + b"%04d" % number)
            check(await user.receive_exactly(9, 60) == b"still%04d" % number, "another user's bytes")
        finally:
            user.close()

    visits = [asyncio.create_task(stay(number)) for number in range(500)]
    try:
        await until(lambda: len(joined) >= 4, 10, "some of 500 users joined")
        await asyncio.sleep(0.5)
        first = list(joined)
        before = [one.processor_seconds() for one in (server, client)]
        began = time.monotonic()
        latencies = []
        while time.monotonic() - began < STARVED_S:  # those who are joined must not notice
            for number, user in first:
                sent = time.monotonic()
                await user.send(b"%04d" % number)
                check(await user.receive_exactly(4) == b"%04d" % number, "a joined user was hurt")
                latencies.append(time.monotonic() - sent)
            await asyncio.sleep(0.3)
        watched = time.monotonic() - began
        shares = [(one.processor_seconds() - used) / watched for one, used in zip((server, client), before)]
        check(max(shares) < IDLE_SHARE, f"server and client used {shares[0]:.0%} and {shares[1]:.0%} of a core while starved")
        lines = starved.count
        go.set()
        await asyncio.wait_for(asyncio.gather(*visits), 60)
    finally:
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
    await asyncio.gather(*[request(server) for _ in range(10)])
    return len(first), max(shares), max(latencies), lines


async def starved_of_descriptors(case, who):
    app = case.app(echo)
    few = {"descriptors": FEW}
    server = await case.server("--wait", "120", **(few if who == "server" else {}))
    client = await case.client(server, app.port, **(few if who == "client" else {}))
    room, share, latency, _ = await starve(case, server, client, server if who == "server" else client)
    for one in server, client:
        complaints = one.logged("cannot|lost")
        check(complaints < 60, f"{one.name} complained {complaints} times")
    case.result(500, f"{room} users joined at a time and not hurt (slowest answer {latency * 1000:.0f} ms), {share:.1%} of a core "
                     "used while starved; as places became free, all 500 served; then full service")


@scenario("server with 64 descriptors, 500 users at once, who stay", seconds=150)
async def server_without_descriptors(case):
    await starved_of_descriptors(case, "server")


@scenario("client with 64 descriptors, 500 users at once, who stay", seconds=150)
async def client_without_descriptors(case):
    await starved_of_descriptors(case, "client")


# ---- memory ---------------------------------------------------------------------------------------

class Memory:
    """Says how many of a thousand mallocs of a program fail."""

    def __init__(self, folder, name):
        self.path = os.path.join(folder, name)
        self.fail(0)
        self.environment = {"LD_PRELOAD": os.path.join(folder, "malloc-shim.so"), "MALLOC_FAILS": self.path}

    def fail(self, per_thousand):
        with open(self.path, "r+b" if os.path.exists(self.path) else "wb") as file:
            file.write(struct.pack("=I", per_thousand))


async def without_memory(case, stage, per_thousand, who):
    with tempfile.TemporaryDirectory(prefix="ngrokmm-faults-") as folder:
        build_shim(folder, f"{HERE}/malloc-shim.c")
        server_memory, client_memory = Memory(folder, "server"), Memory(folder, "client")
        app_port = case.app(echo).port if stage == "stage3-local" else None  # the client of stage 2 echoes itself
        # Sanitizers bring a malloc of their own, and want to be loaded first.
        check("sanitize" not in os.environ.get("OUT", ""), "the shim does not go with sanitizers")
        server = await case.server("--wait", "1", "--heartbeat", "0.3", stage=stage, environment=server_memory.environment)
        client = await case.client(server, app_port, "--heartbeat", "0.3", stage=stage, environment=client_memory.environment)
        lasting = [await case.user(server) for _ in range(5)]
        for user in lasting:
            await user.send(b"lasting")
            await user.receive_exactly(7)
        memory, program = (server_memory, server) if who == "server" else (client_memory, client)
        seen = program.count
        memory.fail(per_thousand)
        served = lost = 0

        async def visit():
            nonlocal served, lost
            try:
                await request(server, seconds=6)
                served += 1
            except (OSError, Failure) as failure:
                check("other bytes" not in str(failure), str(failure))
                lost += 1

        for _ in range(20):
            await asyncio.gather(*[visit() for _ in range(10)])
            if per_thousand == 1000:
                break
        for user in lasting:  # those who were joined before need no memory
            await user.send(b"lasting")
            check(await user.receive_exactly(7) == b"lasting", "a user who was joined already was hurt")
        complaint = await program.line("Cannot allocate memory|reach|lost", after=seen)
        memory.fail(0)
        began = time.monotonic()
        while True:  # the client may be on its way back
            try:
                await request(server, seconds=5)
                break
            except (OSError, Failure):
                check(time.monotonic() - began < 5, "no full service within 5 s of there being memory again")
        for _ in range(20):
            await request(server)
        for user in lasting:
            user.end()
            check(await user.receive_all() == b"", "more came back than was sent")
        for one in client, server:
            one.signal(signal.SIGTERM)
            check(await one.ended(5) == 0, f"afterwards, {one.name} did not stop in good order")
        return served, lost, complaint.string


@scenario("server of stage 2, of stage 3: each malloc fails with a probability of 20 %, then all of them", seconds=90)
async def server_without_memory(case):
    await memory_scenario(case, "server")


@scenario("client of stage 2, of stage 3: each malloc fails with a probability of 20 %, then all of them", seconds=90)
async def client_without_memory(case):
    await memory_scenario(case, "client")


async def memory_scenario(case, who):
    users = lost = users_without_any = lost_without_any = 0
    for stage in "stage2-proxy", "stage3-local":
        served, failed, _ = await without_memory(case, stage, 200, who)
        check(served > 20, f"{stage}: only {served} of 200 users were served with 80 % of memory requests granted")
        users, lost = users + served + failed, lost + failed
        served, failed, _ = await without_memory(case, stage, 1000, who)
        users_without_any, lost_without_any = users_without_any + served + failed, lost_without_any + failed
    case.result(users + users_without_any, "process lives, joined users go on, a line logged, full service after, exit 0",
                f"{lost} of {users} users (all mallocs failing: {lost_without_any} of {users_without_any})")


# ---- crowds ---------------------------------------------------------------------------------------

@scenario("5,000 users connect in one burst")
async def burst(case):
    server, client, app = await case.tunnel(server_options=["--wait", "30"])
    gate = asyncio.Event()

    async def visit():
        await gate.wait()
        return await request(server, seconds=30)

    visits = [asyncio.create_task(visit()) for _ in range(5000)]
    await asyncio.sleep(0)
    began = time.monotonic()
    gate.set()
    await asyncio.gather(*visits)
    took = time.monotonic() - began
    await until(lambda: server.logged("user .* done") == 5000, 5, "5,000 users done in the server's log")
    case.result(5000, f"all served within {took:.1f} s")


@scenario("nobody reads what server and client log; 1,000 users meanwhile")
async def log_unread(case):
    server, client, app = await case.tunnel()
    for one in server, client:
        one.shrink_log()
        one.reader.cancel()
    took = []
    for _ in range(50):
        began = time.monotonic()
        await asyncio.gather(*(request(server) for _ in range(20)))
        took.append(time.monotonic() - began)
    for one in server, client:
        one.reader = asyncio.create_task(one.read())
        await request(server)
        await one.line(r"\(\d+ lines are missing here: nobody read them\)")
    case.result(1000, f"twenty users at once served in {max(took) * 1000:.0f} ms at most; both say later how many lines are missing",
                "lines of the log")


@scenario("20 users ask for an endless download and do not read; others come all the while", seconds=90)
async def users_that_do_not_read(case):
    bulk = await case.start("bulk app", sys.executable, f"{HERE}/bulk.py", "serve")
    port = int((await bulk.line(r"^(\d+)$"))[1])
    server = await case.server()
    client = await case.client(server, port)
    await request(server)
    before = [one.resident_bytes() for one in (server, client)]
    for _ in range(20):
        user = await case.user(server, receive_buffer=4096)
        await user.send(b"bulk")

    async def silent():
        """All buffers are full: nothing moves any more."""
        used = server.processor_seconds() + client.processor_seconds()
        await asyncio.sleep(0.5)
        return server.processor_seconds() + client.processor_seconds() - used < 0.01

    deadline = time.monotonic() + 20
    while not await silent():
        check(time.monotonic() < deadline, "server and client still work although nobody reads")
    took = [await request(server) for _ in range(200)]
    grown = max(one.resident_bytes() - at_first for one, at_first in zip((server, client), before))
    check(max(took) < 0.5, f"another user took {max(took):.2f} s")
    check(grown < 1 << 20, f"a process has grown by {grown >> 10} kiB")
    case.result(20, f"200 others served meanwhile, median {statistics.median(took) * 1000:.1f} ms, slowest {max(took) * 1000:.0f} ms; "
                    f"the larger growth of the two processes: {grown >> 10} kiB")


@scenario("4 users download without end, as fast as it goes; others send small requests on connections of their own", seconds=90)
async def bulk_beside_small(case):
    bulk = await case.start("bulk app", sys.executable, f"{HERE}/bulk.py", "serve")
    port = int((await bulk.line(r"^(\d+)$"))[1])
    server = await case.server()
    client = await case.client(server, port)
    users = [await case.start("bulk user", sys.executable, f"{HERE}/bulk.py", "visit", str(server.ports[1]))
             for _ in range(4)]
    for user in users:
        await user.line("64 MiB", seconds=30)
    began, moved = time.monotonic(), [user.logged("64 MiB") for user in users]
    times = {"on an open connection": [], "on a new one": [], "on a new one without the tunnel": []}
    keeping = await case.user(server)
    for _ in range(150):
        for name, of in times.items():
            sent = time.monotonic()
            user = keeping if "open" in name else await Peer.connect(port if "without" in name else server.ports[1])
            await user.send(b"small")
            await user.receive_exactly(5)
            of.append(time.monotonic() - sent)
            if user is not keeping:
                user.close()
        await asyncio.sleep(0.01)
    shares = [(user.logged("64 MiB") - before) / 16 / (time.monotonic() - began) for user, before in zip(users, moved)]
    medians = ", ".join(f"{statistics.median(of) * 1000:.1f} ms {name}" for name, of in times.items())
    check(sum(shares) > 0, "the bulk transfers stood still")
    limit = 0.02 + statistics.median(times["on a new one without the tunnel"])  # that is this machine's share
    check(statistics.median(times["on a new one"]) < limit and
          statistics.median(times["on an open connection"]) < limit, f"a small request took, at the median, {medians}")
    for user in users:
        await user.kill()
    case.result(300, f"a small request took, at the median, {medians}; {sum(shares):.1f} GiB/s of bulk meanwhile, the four "
                     f"between {min(shares) / sum(shares):.0%} and {max(shares) / sum(shares):.0%} of it")
