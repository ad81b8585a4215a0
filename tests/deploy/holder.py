"""One end that holds connections. holder.py hold ADDRESS PORT N FROM: opens so many, from that address, and prints how many
it got. holder.py sink PORT...: accepts whatever comes. Both hold until their standard input ends."""
import contextlib
import resource
import select
import socket
import sys

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []


def hold(address, port, count, origin):
    for _ in range(int(count)):
        with contextlib.suppress(OSError):
            held.append(socket.create_connection((address, int(port)), 5, (origin, 0)))
    print(f"holds {len(held)}", flush=True)
    sys.stdin.read()


def sink(*ports):
    listeners = [socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096) for port in ports]
    print("listening", flush=True)
    while True:
        for ready in select.select([*listeners, sys.stdin], [], [])[0]:
            if ready is sys.stdin:
                return
            held.append(ready.accept()[0])


{"hold": hold, "sink": sink}[sys.argv[1]](*sys.argv[2:])
