"""Firewall: one address that holds 4,500 connections"""
import contextlib
import re
import subprocess
import sys

from hosts import CLIENT, DEPLOY, HERE, SERVER, Hosts, Program, await_, check, folder, need, output

FRONT, FRONT6, HOME = "198.51.100.1", "2001:db8:1::1", "203.0.113.2"
BAD, GOOD = ["192.0.2.66", "2001:db8:66::1", "2001:db8:66::2"], ["192.0.2.77", "2001:db8:77::7"]
MANY = 4500


def holder(net, scratch, origin, port, count=MANY):
    """A program that holds connections, until it is ended."""
    address = FRONT6 if ":" in origin else FRONT
    command = net.on("user", sys.executable, f"{HERE}/holder.py", "hold", address, port, count, origin)
    return Program(scratch, *command, stdin=subprocess.PIPE)


def held(program):
    program.await_said("holds", 60)
    return int(re.search(r"holds (\d+)", program.said())[1])


def served(net, origin):
    address = f"[{FRONT6}]" if ":" in origin else FRONT
    command = net.on("user", "curl", "--silent", "--max-time", "2", "--interface", origin, f"http://{address}:60624/")
    return subprocess.run(command, capture_output=True).returncode == 0


def against_a_server(net, scratch, server):
    with holder(net, scratch, BAD[0], 60624) as program:
        count = held(program)
        check(count == 100, f"one address opens {MANY:,} connections: it gets 100", f"{count}")
        check(all(served(net, user) for user in GOOD), "users of other addresses are served meanwhile")
        check(not served(net, BAD[0]), "that address gets no more")
        with holder(net, scratch, BAD[1], 60624, 150) as first, holder(net, scratch, BAD[2], 60624, 150) as second:
            count = held(first) + held(second)
            check(count == 100, "two addresses of one IPv6 network have 100 between them", f"{count}")
    await_(lambda: served(net, BAD[0]), 20, "the address to be served again")
    check(True, "when they are closed, it is served again")
    check(server.said().count("step 2") == 1, "the control connection has been there all the time")


def against_a_sink(net, scratch):
    """The client's ports; what accepts here keeps what it gets, which a server would not."""
    with Program(scratch, *net.on("front", sys.executable, f"{HERE}/holder.py", "sink", 60623, 60625), stdin=subprocess.PIPE) as sink:
        sink.await_said("listening")
        for port, most in ((60623, 10), (60625, 4000)):
            with holder(net, scratch, BAD[0], port) as program:
                count = held(program)
                check(count == most, f"port {port}: one address gets {most:,}", f"{count}")


def run():
    need("nft", "curl")
    with folder() as scratch, Hosts(front=f"{FRONT} {FRONT6}", home=HOME, user=" ".join(BAD + GOOD)) as net, contextlib.ExitStack() as stack:
        output(*net.on("front", "nft", "-f", f"{DEPLOY}/nftables.conf"))
        output(*net.on("front", "nft", "-f", f"{DEPLOY}/nftables.conf"))
        check(output(*net.on("front", "nft", "list", "tables")).count("table") == 1, "loaded twice, the rules are there once")
        stack.enter_context(Program(scratch, *net.on("home", sys.executable, f"{HERE}/app.py", 8080))).await_said("listening")
        with Program(scratch, *net.on("front", SERVER)) as server:
            server.await_said("listening for proxy")
            with Program(scratch, *net.on("home", CLIENT, 8080, FRONT)):
                server.await_said("step 2")
                against_a_server(net, scratch, server)
                nearby = net.on("front", sys.executable, f"{HERE}/holder.py", "hold", "127.0.0.1", 60624, 300, "127.0.0.1")
                with Program(scratch, *nearby, stdin=subprocess.PIPE) as program:
                    check(held(program) == 300, "a web server on the same host is not limited")
        against_a_sink(net, scratch)
