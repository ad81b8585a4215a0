"""An encrypted line between server and client: stunnel, and ssh -L

In the NAT lab. All packets between the two hosts are read, and those between client and stunnel at home: what is told
in the clear there must not be on the wire."""
import contextlib
import importlib.machinery
import importlib.util
import os
import re
import shutil
import socket
import threading
import time

from hosts import CLIENT, DEPLOY, SERVER, TOP, Program, Skip, await_, check, configured, folder, need, options_in, output

HEARTBEAT = "1"
SECRET = "a-secret-that-nobody-may-read-on-the-way"
PAYLOAD = b"a-line-of-payload-that-nobody-may-read-on-the-way"
ETH_P_ALL, SOL_PACKET, PACKET_STATISTICS = 3, 263, 6


def nat_lab():
    """The NAT lab's test has all that is needed to play in it."""
    loader = importlib.machinery.SourceFileLoader("nat_lab", f"{TOP}/tests/natlab/test")
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("nat_lab", loader))
    loader.exec_module(module)
    return module


class Ear:
    """Reads every packet of one device."""

    def __init__(self, lab, namespace, device):
        with lab.inside(namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE: none may get lost
        self.socket.bind((device, 0))
        self.socket.settimeout(0.1)
        self.heard, self.deaf = [], False

    def listen(self):
        while not self.deaf:
            with contextlib.suppress(TimeoutError):
                self.heard.append(self.socket.recv(1 << 17))

    def __enter__(self):
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.deaf = True
        self.thread.join()
        counts = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self.lost = int.from_bytes(counts[4:], "little")
        self.socket.close()
        self.bytes = b"\n".join(self.heard)


class Ends:
    """Server and client, with a secret, and a way from one to the other that somebody else has made."""

    def __init__(self, nat, lab, scratch, of_server, client_to):
        self.nat, self.lab = nat, lab
        path = f"{scratch}/secret"
        with open(path, "w") as file:
            file.write(SECRET)
        common = ["--secret-file", path, "--heartbeat", HEARTBEAT]
        self.server = Program(scratch, *lab.command("internet", SERVER, *common, *of_server))
        self.client = Program(scratch, *lab.command("home", CLIENT, *common, str(nat.APP), client_to))

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.nat.LocalApp(self.lab))
            stack.enter_context(self.server).await_said("listening for proxy")
            stack.enter_context(self.client)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def let_in(self):
        return self.server.said().count("step 2")


def user(nat, lab, question):
    return nat.reachable(lab, "internet", nat.SERVER, nat.USERS, question=question)


def half_close(nat, lab):
    """A user who says all that there is to say, and that it is all, still gets the answer."""
    with lab.connect("internet", nat.SERVER, nat.USERS) as connection:
        connection.sendall(b"the last line\n")
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        answer = b""
        while more := connection.recv(4096):
            answer += more
    return answer == b"home says: the last line\n"


def talk(nat, lab, ends):
    """What is listened to: the client comes, users say what nobody else may read."""
    await_(ends.let_in, 15, "the client to be let in")
    return all([user(nat, lab, b"%s %d\n" % (PAYLOAD, number)) for number in range(5)]
               + [user(nat, lab, (PAYLOAD * 20000)[:-1] + b"\n")])  # a megabyte, too  # fmt: skip


def overheard(nat, lab, what, ends, wire_is_plain):
    """Listens from before the client comes, and says whether secret, token and payload were on the wire."""
    with Ear(lab, "internet", "eth0") as wire, Ear(lab, "home", "lo") as inside, ends:
        served = talk(nat, lab, ends)
    check(served, f"{what}: users are served")
    source = wire if wire_is_plain else inside
    token = re.search(rb"welcome ([0-9a-f]{32})", source.bytes)
    words = {"secret": SECRET.encode(), "token": token[1] if token else b"(no token)", "payload": PAYLOAD}
    known = [name for name, word in words.items() if word in source.bytes]
    read = [name for name, word in words.items() if word in wire.bytes]
    size = f"{sum(map(len, wire.heard)) / 1e6:.1f} MB in {len(wire.heard)} packets, none missed" if not wire.lost else f"{wire.lost} missed"
    if wire_is_plain:
        check(len(read) == 3, f"{what}: whoever listens reads secret, token and payload", size)
    else:
        check(len(known) == 3, f"{what}: beside the client they are there to be read")
        check(not read and not wire.lost and sum(map(len, wire.heard)) > 1.9e6, f"{what}: between the hosts none of them is",
              f"{', '.join(read)} {size}")  # fmt: skip


def rebooted(nat, lab, what, ends):
    """Seconds from the router's reboot until a user is served again."""
    await_(ends.let_in, 15, "the client to be let in")
    before, begun = ends.let_in(), time.monotonic()
    nat.forget(lab)
    await_(lambda: ends.let_in() > before and user(nat, lab, b"back?\n"), 30, f"{what}: users to be served after a reboot")
    took = time.monotonic() - begun
    check(took < 3 * float(HEARTBEAT) + 5, f"{what}: the router is rebooted, users are served again", f"after {took:.1f} s")


def key(scratch, name):
    path = f"{scratch}/{name}.key"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"ngrok--:{os.urandom(32).hex()}\n")
    return path


@contextlib.contextmanager
def stunnels(nat, lab, scratch, server_key, client_key):
    of_key = "/etc/stunnel/ngrok--.key"
    server = configured(scratch, "stunnel-server.conf", (of_key, server_key))
    client = configured(scratch, "stunnel-client.conf", (of_key, client_key), ("server.example.org", nat.SERVER))
    with Program(scratch, *lab.command("internet", "stunnel4", server)), Program(scratch, *lab.command("home", "stunnel4", client)) as near:
        for namespace, port in (("internet", 61625), ("home", 60625)):
            await_(lambda namespace=namespace, port=port: listens(lab, namespace, port), 10, f"stunnel to listen on port {port}")
        yield near


def opens(lab, port):
    """Whether somebody at home gets a connection to that port of the server's host."""
    try:
        lab.connect("home", "198.51.100.1", port).close()
        return True
    except OSError:
        return False


def listens(lab, namespace, port):
    return lab.run(namespace, "ss", "-Hltn", f"sport = :{port}").strip() != ""


def by_stunnel(nat, lab, scratch):
    need("stunnel4")
    good, wrong = key(scratch, "good"), key(scratch, "wrong")

    def ends():
        return Ends(nat, lab, scratch, options_in("stunnel-server.conf", "web.server"), options_in("stunnel-client.conf", "web.client")[-1])

    with stunnels(nat, lab, scratch, good, good):
        overheard(nat, lab, "stunnel", ends(), wire_is_plain=False)
        with ends() as both:
            rebooted(nat, lab, "stunnel", both)
            check(half_close(nat, lab), "stunnel: who has ended its own direction still gets the answer")
            check(not opens(lab, nat.CONTROL) and not opens(lab, nat.PROXY), "stunnel: there is no other way to the server's ports")
            check(opens(lab, 61623), "but that one")
    with stunnels(nat, lab, scratch, good, wrong) as near, ends() as both:
        await_(lambda: near.said().count("SSL_connect") > 1, 20, "the client to fail, and to try again")
        check(both.let_in() == 0, "stunnel: with another key nobody is let in")
        with Program(scratch, *lab.command("home", CLIENT, "-c", "61623", "-x", "61625", str(nat.APP), nat.SERVER)) as plain:
            await_(lambda: len(plain.said().splitlines()) > 2, 20, "a client without TLS to fail")
            check("step 2" not in plain.said() and both.let_in() == 0, "stunnel: nor without encryption")


def ssh_command():
    """As the manual page has it."""
    page = output("mandoc", "-Tascii", f"{DEPLOY}/ngrok--.1")
    found = re.search(r"ssh -N(?: [^\n]*\\\n)*[^\n]*server\.example\.org", re.sub(".\b", "", page))
    return found[0].replace("\\\n", " ").split()


def sshd_files(scratch):
    """An sshd of our own that lets one key in: its configuration, and what ssh needs to come in."""
    need("ssh", "sshd", "ssh-keygen", "mandoc")
    for name in ("host", "user"):
        if not os.path.exists(f"{scratch}/{name}"):
            output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{scratch}/{name}")
    with open(f"{scratch}/sshd.conf", "w") as file:
        file.write(f"""Port 22\nHostKey {scratch}/host\nAuthorizedKeysFile {scratch}/user.pub\nStrictModes no\nUsePAM no
PasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n""")
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd insists on it
    here = ["-F", "none", "-i", f"{scratch}/user", "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={scratch}/known"]
    return [shutil.which("sshd"), "-D", "-e", "-f", f"{scratch}/sshd.conf"], here


def by_ssh(nat, lab, scratch):
    sshd, here = sshd_files(scratch)
    command = [f"root@{nat.SERVER}" if word == "server.example.org" else word for word in ssh_command()]
    with Program(scratch, *lab.command("internet", *sshd)):
        await_(lambda: listens(lab, "internet", 22), 10, "sshd to listen")
        with Program(scratch, *lab.command("home", command[0], *here, *command[1:])) as line:
            await_(lambda: line.process.poll() is not None or listens(lab, "home", 60625), 10, "ssh to listen")
            of_server = options_in("stunnel-server.conf", "web.server")
            overheard(nat, lab, "ssh -L", Ends(nat, lab, scratch, of_server, "127.0.0.1"), wire_is_plain=False)


def run():
    if os.geteuid() != 0:
        raise Skip("needs root, to make network namespaces")
    need("nft", "conntrack", "ss")
    os.environ["HEARTBEAT"] = HEARTBEAT
    nat = nat_lab()
    with folder() as scratch, contextlib.ExitStack() as stack:
        try:
            lab = stack.enter_context(nat.Lab("deploy"))
        except SystemExit as why:  # the lab's own last word
            raise Skip(str(why)) from None
        overheard(nat, lab, "without", Ends(nat, lab, scratch, [], nat.SERVER), wire_is_plain=True)
        with Ends(nat, lab, scratch, [], nat.SERVER) as both:
            rebooted(nat, lab, "without", both)
        by_stunnel(nat, lab, scratch)
        by_ssh(nat, lab, scratch)
