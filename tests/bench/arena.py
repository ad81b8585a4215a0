"""What the benchmarks share: the contestants, the local apps behind them, and how both are measured.

A tunnel is started afresh for every measurement, on ports that are free, bound to one address of the place where
it runs: 127.0.0.1, if that is this machine; what it logs goes to /dev/null. Everything else is left at the contestant's
defaults, except what its note says.
"""
import atexit
import getpass
import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / "build" / "bench"
PEERS_BIN = ROOT / "build" / "peers" / "bin"
PATIENCE = 15  # seconds until a program that does not get ready is given up

os.environ["PATH"] += f":/usr/sbin:/sbin:{PEERS_BIN}"


class Failed(Exception):
    """A measurement that could not be made; its text goes into the table's notes."""


# ---- processes ------------------------------------------------------------------------------------

_started = []


def spawn(*command, **how):
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **how}
    process = subprocess.Popen([str(word) for word in command], **how)
    _started.append(process)
    return process


def tree(pid):
    """pid and all its descendants."""
    pids = [pid]
    for parent in pids:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                pids += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except OSError:
            pass
    return pids


def end(process):
    """Ends a process that spawn() started, and what it started in turn."""
    for pid in tree(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            try:
                pipe.close()
            except BrokenPipeError:
                pass
    _started.remove(process)


def end_all():
    for process in list(_started):
        end(process)


atexit.register(end_all)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def output(*command, timeout=60):
    done = subprocess.run([str(w) for w in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, timeout=timeout)
    return done.stdout


def await_that(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {PATIENCE} s in vain until {what}")
        time.sleep(0.01)


class Place:
    """Where programs run: on this machine, or in a network namespace of its own that tests/natlab/up has made."""

    ports = itertools.count(20000)  # in a namespace all are free; no connection that goes out takes one of these

    def __init__(self, address="127.0.0.1", namespace=None):
        self.address = address
        self.inside = ("ip", "netns", "exec", namespace) if namespace else ()

    def spawn(self, *command, **how):
        return spawn(*self.inside, *command, **how)

    def free_port(self):
        if self.inside:
            return next(self.ports)
        with socket.socket() as s:
            s.bind((self.address, 0))
            return s.getsockname()[1]

    def listening(self, port):
        """Whether somebody listens on the port. Asked of the kernel: a connection would disturb."""
        return bool(output(*self.inside, "ss", "-Hltn", f"sport = :{port}").strip())

    def await_port(self, port):
        await_that(f"port {port} is listened on", lambda: self.listening(port))


LOCALHOST = Place()


# ---- measuring a process --------------------------------------------------------------------------

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids):
    """User and system time of these processes, their descendants and the children they waited for."""
    total = 0
    for root in pids:
        for pid in tree(root):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += sum(map(int, fields[11:15]))
    return total / TICKS


def cpu_nanoseconds(pids):
    """The same to the nanosecond, of those that run now; for processes that do next to nothing."""
    total = 0
    for root in pids:
        for pid in tree(root):
            for task in os.listdir(f"/proc/{pid}/task"):
                total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total


def wakeups(pids):
    """How often these processes have gone to sleep, waiting for something, so far."""
    total = 0
    for root in pids:
        for pid in tree(root):
            for task in os.listdir(f"/proc/{pid}/task"):
                status = Path(f"/proc/{pid}/task/{task}/status").read_text()
                total += int(re.search(r"\nvoluntary_ctxt_switches:\s*(\d+)", status)[1])
    return total


def settle(pids):
    """Waits until these processes have done what there was to do: 0.3 s with next to no work."""
    def quiet():
        before = cpu_nanoseconds(pids)
        time.sleep(0.3)
        return cpu_nanoseconds(pids) - before < 1_000_000
    await_that("the tunnel is at rest", quiet)


def private_kb(pids):
    """Resident memory that is these processes' own (Private_Clean + Private_Dirty), in kB."""
    total = 0
    for root in pids:
        for pid in tree(root):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += sum(map(int, re.findall(r"\nPrivate_(?:Clean|Dirty):\s*(\d+)", rollup)))
    return total


# ---- local apps -----------------------------------------------------------------------------------

class App:
    """A local app on .port; ready(tunnel) says whether it answers there, through a tunnel or directly."""

    place = LOCALHOST

    def __init__(self, folder):
        self.folder = folder
        self.start()

    def stop(self):
        end(self.process)


class Nginx(App):
    """One worker, a page of 200 bytes, no log."""

    def start(self):
        self.port = self.place.free_port()
        (self.folder / "index.html").write_text("x" * 199 + "\n")
        (self.folder / "nginx.conf").write_text(f"""
            daemon off; worker_processes 1; pid {self.folder}/nginx.pid; error_log /dev/null;
            events {{ worker_connections 20000; }}
            http {{
                access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
                client_body_temp_path {self.folder}; proxy_temp_path {self.folder};
                fastcgi_temp_path {self.folder}; uwsgi_temp_path {self.folder};
                scgi_temp_path {self.folder};
                server {{
                    listen 127.0.0.1:{self.port} backlog=4096;
                    root {self.folder};
                }}
            }}""")
        self.process = spawn("nginx", "-p", self.folder, "-c", self.folder / "nginx.conf")
        self.place.await_port(self.port)

    def ready(self, tunnel):
        try:
            with socket.create_connection((tunnel.address, tunnel.port), 1) as s:
                s.settimeout(2)
                s.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return s.recv(1) == b"H"
        except OSError:
            return False


class Iperf(App):
    def start(self):
        self.port = self.place.free_port()
        self.process = spawn("iperf3", "-s", "-B", "127.0.0.1", "-p", self.port)
        self.place.await_port(self.port)

    def ready(self, tunnel):
        try:
            return "error" not in run_iperf(tunnel.port, "-n", "1K")
        except (Failed, subprocess.TimeoutExpired):
            return False


class Echo(App):
    def start(self):
        self.process = spawn(load_program(), "echo", stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def ready(self, tunnel):
        try:
            with socket.create_connection((tunnel.address, tunnel.port), 1) as s:
                s.settimeout(2)
                s.sendall(b"x")
                return s.recv(1) == b"x"
        except OSError:
            return False


# ---- load -----------------------------------------------------------------------------------------

def load_program(name="load"):
    """load.c or stream.c, built when it is newer than its program."""
    program, source = OUT / name, HERE / f"{name}.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        OUT.mkdir(parents=True, exist_ok=True)
        subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread", "-o", program, source],
                       check=True)
    return program


class Users:
    """Users of a port, held by load.c; see there for the commands."""

    def __init__(self, port, address="127.0.0.1", place=LOCALHOST):
        self.process = place.spawn(load_program(), "users", address, port, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.process)

    def do(self, *command):
        self.process.stdin.write(" ".join(map(str, command)) + "\n")
        self.process.stdin.flush()
        word, *rest = self.process.stdout.readline().split() or ["error", "the load program died"]
        if word != "ok":
            raise Failed(" ".join(rest))
        return [float(number) for number in rest]


def run_iperf(port, *options):
    """What the receiving side counted. The server takes one test at a time, and may not have noticed
    the end of the last one: a tunnel can be slow to pass that on."""
    deadline = time.monotonic() + PATIENCE
    while True:
        text = output("iperf3", "-c", "127.0.0.1", "-p", port, "-J", *options)
        try:
            result = json.loads(text)
        except ValueError:
            raise Failed("iperf3: " + text.strip()[-80:]) from None
        if "server is busy" not in result.get("error", "") or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if "error" in result:
        raise Failed("iperf3: " + result["error"])
    return result["end"]["sum_received"]


WRK_REPORT = """
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format("RESULT %f %f %f %d %d\\n", summary.requests / summary.duration * 1e6,
        latency:percentile(50), latency:percentile(99), summary.requests,
        e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def run_wrk(port, seconds, folder, *options):
    """Requests a second, latency p50 and p99 in milliseconds, requests."""
    script = folder / "report.lua"
    script.write_text(WRK_REPORT)
    text = output("wrk", "-t1", "-c32", f"-d{seconds}s", "-s", script, *options, f"http://127.0.0.1:{port}/",
                  timeout=seconds + 30)
    found = re.search(r"RESULT (.*)", text)
    if not found:
        raise Failed("wrk: " + text.strip()[-80:])
    rate, p50, p99, requests, errors = map(float, found[1].split())
    if errors > requests / 100 or not requests:
        raise Failed(f"wrk: {errors:.0f} errors in {requests:.0f} requests")
    return rate, p50 / 1e3, p99 / 1e3, requests


# ---- contestants ----------------------------------------------------------------------------------

class Tunnel:
    """The server runs in one place, where the users are; the client in another, beside the app. After start() users find
    it at .address and .port."""

    public = home = LOCALHOST
    name = ""
    note = ""
    needs = ()  # programs

    @property
    def address(self):
        return self.public.address

    def missing(self):
        return [program for program in self.needs if not shutil.which(program)]

    def version(self):
        return ""

    def open(self, app_port, folder):
        """Starts both ends in front of the app; sets .port, .server and .client."""
        raise NotImplementedError

    def start(self, app, folder):
        self.server = self.client = None
        try:
            self.open(app.port, folder)
            self.public.await_port(self.port)
            await_that("the first answer came through", lambda: app.ready(self))
        except Failed:
            self.stop()
            raise

    def ends(self):
        return [end.pid for end in (self.server, self.client) if end]

    def stop(self):
        for process in (self.server, self.client):
            if process:
                end(process)
        self.server = self.client = None


class Direct(Tunnel):
    name = "direct"
    note = "no tunnel at all"

    @property
    def address(self):
        return self.home.address

    def start(self, app, folder):
        self.server = self.client = None
        self.port = app.port


class Ours(Tunnel):
    def __init__(self, folder=ROOT / "stage3-local", name="ngrok--"):
        self.name = name
        self.folder = Path(folder)
        self.needs = (str(self.folder / "server"), str(self.folder / "client"))

    def version(self):
        return output(self.folder / "server", "-V").strip().splitlines()[0]

    def open(self, app_port, folder):
        control, proxy, self.port = (self.public.free_port() for _ in range(3))
        self.server = self.public.spawn(self.folder / "server", "-q", "-b", self.public.address, "-c", control,
                                        "-x", proxy, "-u", self.port)
        self.public.await_port(control)
        self.client = self.home.spawn(self.folder / "client", "-q", "-c", control, "-x", proxy,
                                      f"127.0.0.1:{app_port}", self.public.address)


class Ssh(Tunnel):
    name = "ssh -R"
    note = "encrypts; that cannot be turned off"
    needs = ("ssh", "sshd", "ssh-keygen")

    def version(self):
        return output("ssh", "-V").split(",")[0].strip()

    def open(self, app_port, folder):
        control, self.port = self.public.free_port(), self.public.free_port()
        for key in ("host", "user"):
            if not (folder / key).exists():
                output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
        shutil.copy(folder / "user.pub", folder / "authorized")
        (folder / "sshd.conf").write_text(f"""
ListenAddress {self.public.address}:{control}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
GatewayPorts clientspecified
""")
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd insists on it
        self.server = self.public.spawn(shutil.which("sshd"), "-D", "-e", "-f", folder / "sshd.conf")
        self.public.await_port(control)
        self.client = self.home.spawn("ssh", "-F", "none", "-N", "-i", folder / "user", "-p", control,
                            "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
                            "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
                            "-R", f"{self.public.address}:{self.port}:127.0.0.1:{app_port}",
                            f"{getpass.getuser()}@{self.public.address}")


class Rathole(Tunnel):
    name = "rathole"
    note = "plain TCP"
    needs = ("rathole",)

    def version(self):
        return "rathole " + re.search(r"Build Version:\s*(\S+)", output("rathole", "--version"))[1]

    def open(self, app_port, folder):
        control, self.port = self.public.free_port(), self.public.free_port()
        (folder / "server.toml").write_text(f"""
[server]
bind_addr = "{self.public.address}:{control}"
default_token = "bench"
[server.services.bench]
bind_addr = "{self.public.address}:{self.port}"
""")
        (folder / "client.toml").write_text(f"""
[client]
remote_addr = "{self.public.address}:{control}"
default_token = "bench"
[client.services.bench]
local_addr = "127.0.0.1:{app_port}"
""")
        self.server = self.public.spawn("rathole", "--server", folder / "server.toml")
        self.public.await_port(control)
        self.client = self.home.spawn("rathole", "--client", folder / "client.toml")


class Bore(Tunnel):
    name = "bore"
    note = "plain TCP; its control port is always 7835"
    needs = ("bore",)

    def version(self):
        return output("bore", "--version").strip()

    def open(self, app_port, folder):
        self.port = self.public.free_port()
        await_that("port 7835 is free", lambda: not self.public.listening(7835))
        self.server = self.public.spawn("bore", "server", "--bind-addr", self.public.address)
        self.public.await_port(7835)
        self.client = self.home.spawn("bore", "local", app_port, "--local-host", "127.0.0.1", "--to", self.public.address,
                            "--port", self.port)


class Frp(Tunnel):
    name = "frp"
    note = "TLS off, five spare connections, multiplexed as by default"
    needs = ("frps", "frpc")

    def version(self):
        return "frp " + output("frps", "--version").strip()

    def open(self, app_port, folder):
        control, self.port = self.public.free_port(), self.public.free_port()
        (folder / "frps.toml").write_text(f"""
bindAddr = "{self.public.address}"
bindPort = {control}
proxyBindAddr = "{self.public.address}"
""")
        (folder / "frpc.toml").write_text(f"""
serverAddr = "{self.public.address}"
serverPort = {control}
transport.tls.enable = false
transport.poolCount = 5
[[proxies]]
name = "bench"
type = "tcp"
localIP = "127.0.0.1"
localPort = {app_port}
remotePort = {self.port}
""")
        self.server = self.public.spawn("frps", "-c", folder / "frps.toml")
        self.public.await_port(control)
        self.client = self.home.spawn("frpc", "-c", folder / "frpc.toml")


class Chisel(Tunnel):
    name = "chisel"
    note = "SSH inside; that cannot be turned off"
    needs = ("chisel",)

    def version(self):
        return "chisel " + output("chisel", "--version").strip()

    def open(self, app_port, folder):
        control, self.port = self.public.free_port(), self.public.free_port()
        self.server = self.public.spawn("chisel", "server", "--reverse", "--host", self.public.address, "--port", control)
        self.public.await_port(control)
        self.client = self.home.spawn("chisel", "client", f"http://{self.public.address}:{control}",
                                      f"R:{self.public.address}:{self.port}:127.0.0.1:{app_port}")


class Haproxy(Tunnel):
    name = "haproxy x2"
    note = "no tunnel, two relays in a row; splices"
    needs = ("haproxy",)

    def version(self):
        return " ".join(output("haproxy", "-v").split()[:3])

    def hop(self, folder, name, port, to):
        (folder / f"{name}.cfg").write_text(f"""
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen hop
    bind 127.0.0.1:{port}
    server next 127.0.0.1:{to}
""")
        return spawn("haproxy", "-db", "-f", folder / f"{name}.cfg")

    def open(self, app_port, folder):
        middle, self.port = self.public.free_port(), self.public.free_port()
        self.client = self.hop(folder, "second", middle, app_port)
        self.public.await_port(middle)
        self.server = self.hop(folder, "first", self.port, middle)


class Socat(Tunnel):
    name = "socat x2"
    note = "no tunnel, two relays in a row; a process for each connection"
    needs = ("socat",)

    def version(self):
        return " ".join(output("socat", "-V").splitlines()[1].split()[:3])

    def hop(self, port, to):
        return spawn("socat", f"TCP4-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=4096,nodelay",
                     f"TCP4:127.0.0.1:{to},nodelay")

    def open(self, app_port, folder):
        middle, self.port = self.public.free_port(), self.public.free_port()
        self.client = self.hop(middle, app_port)
        self.public.await_port(middle)
        self.server = self.hop(self.port, middle)


PEERS = {"haproxy": Haproxy, "socat": Socat, "ssh": Ssh, "rathole": Rathole, "bore": Bore, "frp": Frp,
         "chisel": Chisel}


def contestants(default_peers):
    """No tunnel, ours, other builds of ours (BENCH_ALSO: folders), and peers (BENCH_PEERS: names)."""
    chosen = os.environ.get("BENCH_PEERS", default_peers).split()
    unknown = [name for name in chosen if name not in PEERS]
    if unknown:
        sys.exit(f"no such peer: {' '.join(unknown)}; there are: {' '.join(PEERS)}")
    also = [Ours(folder, folder) for folder in os.environ.get("BENCH_ALSO", "").split()]
    return [Direct(), Ours(), *also, *(PEERS[name]() for name in chosen)]


class Bout:
    """`with Bout(tunnel, App) as bout:` an app, a tunnel in front of it, and a folder for both."""

    def __init__(self, tunnel, app):
        self.tunnel, self.app_class = tunnel, app

    def __enter__(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="bench-")
        self.folder = Path(self.temporary.name)
        self.app = None
        try:
            self.app = self.app_class(self.folder)
            self.tunnel.start(self.app, self.folder)
        except BaseException:
            self.__exit__()
            raise
        self.port = self.tunnel.port
        return self

    def __exit__(self, *_):
        self.tunnel.stop()
        if self.app:
            self.app.stop()
        self.temporary.cleanup()


def raise_descriptor_limit():
    """As far as allowed, for us and for everything we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        sys.exit(f"needs {', '.join(missing)}: apt-get install {' '.join(missing)}")


# ---- what it ran on -------------------------------------------------------------------------------

def load_tools():
    return ", ".join((output("iperf3", "--version").splitlines()[0].split(" (")[0],
                      " ".join(output("wrk", "-v").split()[:2]).replace("debian/", ""),
                      output("nginx", "-v").strip().replace("nginx version: ", "")))


def about(tunnels, *more):
    """(what, value) pairs: date, kernel, processor, versions."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    rows = [("date", time.strftime("%Y-%m-%d %H:%M")),
            ("kernel", f"{os.uname().sysname} {os.uname().release}"),
            ("processor", f"{cpu[1] if cpu else os.uname().machine}, {len(os.sched_getaffinity(0))} cores"),
            *more,
            ("descriptors allowed", str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))]
    for tunnel in tunnels:
        if tunnel.missing():
            rows.append((tunnel.name, "cannot be had here: see build/peers/log"
                         if not isinstance(tunnel, Ours) else "not built: make stage3"))
        elif tunnel.version():
            rows.append((tunnel.name, "; ".join(filter(None, (tunnel.version(), tunnel.note)))))
    return rows
