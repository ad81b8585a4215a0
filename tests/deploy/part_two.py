"""Two servers, two clients, HAProxy with health checks before them

Under load, one server, one client, or the host of one is gone; later it is back. Each request has its answer."""
import contextlib
import sys
import time

from hosts import CLIENT, HERE, SERVER, Hosts, Program, await_, check, configured, folder, need, options_in, output

ONE, TWO, FRONT, HOME, USER = "192.0.2.1", "192.0.2.2", "198.51.100.1", "203.0.113.2", "192.0.2.77"
USERS = 8


class Load:
    """Eight users who ask again and again, and what has come of each request."""

    def __init__(self, net, scratch):
        command = net.on("user", sys.executable, f"{HERE}/load.py", f"http://{FRONT}/slow", 600, USERS)
        self.program = Program(scratch, *command)

    def requests(self):
        lines = [line.split() for line in self.program.said().splitlines()]
        return [(float(begun), float(took), came) for _, begun, took, came in (line for line in lines if len(line) == 4)]

    def all_users_have_asked_since(self, moment):
        """And have had their answers: then there is nobody who still waits for one that was asked for before."""
        lines = [line.split() for line in self.program.said().splitlines()]
        return len({line[0] for line in lines if len(line) == 4 and float(line[1]) > moment}) == USERS

    def __enter__(self):
        self.program.__enter__()
        await_(lambda: len(self.requests()) > 16, 10, "users to be served")
        return self

    def __exit__(self, *_):
        self.program.__exit__()

    def since(self, moment):
        return [request for request in self.requests() if request[0] >= moment]


def users_of(server):
    return server.said().count(" done:") + server.said().count("joined")


def gone_and_back(load, what, server, other, gone, back):
    """gone() takes something away, back() brings it back; `server` is the one that users can't use meanwhile."""
    before = time.time()
    gone()
    after = time.time()
    await_(lambda: load.all_users_have_asked_since(after + 4), 30, "users to go on")
    new = load.since(after)
    slowest = max(took for _, took, _ in new)
    later = max(took for begun, took, _ in new if begun > after + 3)
    lost = [came for _, _, came in new if came != "200"]
    check(not lost, f"{what}: none of {len(new)} new requests is lost", ", ".join(set(lost)))
    check(slowest < 2, f"{what}: each is answered within 2 s", f"the slowest after {slowest:.2f} s")
    check(later < 0.8, f"{what}: after 3 s the checks have noticed, and nobody feels it", f"{later:.2f} s")
    seen = users_of(other)
    await_(lambda: users_of(other) > seen, 5, "users to come to the other server")
    back()
    seen = users_of(server())
    await_(lambda: users_of(server()) > seen + 20, 20, f"users to come again after: {what}")
    check(True, f"{what}: once it is back, users come to it again")
    on_it = [request for request in load.requests() if request[0] < before < request[0] + request[1]]
    cut = len([came for _, _, came in on_it if came != "200"])
    bad = [came for _, _, came in load.since(after) if came != "200"]
    check(not bad, f"{what}: nor is one lost when it comes back", ", ".join(set(bad)))
    print(f"       of {len(on_it)} requests that were under way, {cut} got no answer")


def run():
    need("haproxy")
    # --quiet is left out: the log shows who serves.
    of_server = [word for word in options_in("haproxy-two-servers.cfg", "web.server") if word != "--quiet"]
    with folder() as scratch, Hosts(one=ONE, two=TWO, front=FRONT, home=HOME, user=USER) as net, contextlib.ExitStack() as stack:
        def start(host, *command):
            return stack.enter_context(Program(scratch, *net.on(host, *command)))

        start("home", sys.executable, f"{HERE}/app.py", 8080).await_said("listening")
        servers = {host: start(host, SERVER, *of_server) for host in ("one", "two")}
        clients = {host: start("home", CLIENT, 8080, address) for host, address in (("one", ONE), ("two", TWO))}
        for server in servers.values():
            server.await_said("step 2")
        start("front", "haproxy", "-f", configured(scratch, "haproxy-two-servers.cfg"))
        net.await_open("front", FRONT, 80)
        with Load(net, scratch) as load:
            for host, other in (("one", "two"), ("two", "one")):
                def restart(programs, host=host):
                    programs[host].start()

                gone_and_back(load, f"server {host} is killed", lambda host=host: servers[host], servers[other],
                              servers[host].kill, lambda: restart(servers))  # fmt: skip
                gone_and_back(load, f"client {host} is killed", lambda host=host: servers[host], servers[other],
                              clients[host].kill, lambda: restart(clients))  # fmt: skip
            link = ["ip", "-n", f"{net.prefix}-one", "link", "set", "eth0"]
            gone_and_back(load, "host one is unplugged", lambda: servers["one"], servers["two"], lambda: output(*link, "down"),
                          lambda: [output(*link, "up"), output("ip", "-n", f"{net.prefix}-one", "route", "add", "default", "dev", "eth0")])  # fmt: skip
