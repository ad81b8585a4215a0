"""What all parts of the deployment's test need: checks, programs in the background, and hosts, which are network
namespaces on one wire. Nothing outside of them is touched."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(TOP, os.environ.get("OUT", ""))
DEPLOY = f"{TOP}/stage3-local/deploy"
SERVER, CLIENT = f"{OUT}/stage3-local/server", f"{OUT}/stage3-local/client"
os.environ["PATH"] += ":/usr/sbin:/sbin"  # where Debian keeps nginx, haproxy, nft

counts = {"passed": 0, "failed": 0, "skipped": 0}
tested_with = {}  # program: version


class Skip(Exception):
    """This machine lacks something that the part needs."""


def check(truth, what, detail=""):
    counts["passed" if truth else "failed"] += 1
    print(f"  {'ok  ' if truth else 'FAIL'} {what}{f'  ({detail})' if detail else ''}", flush=True)
    return truth


def await_(condition, seconds, what):
    """Waits until condition() is true and returns what it said; gives up loudly after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain for: {what}")
        time.sleep(0.02)
    return result


VERSIONS = {  # how each program tells its version
    "caddy": "caddy version", "nginx": "nginx -v", "haproxy": "haproxy -v", "nft": "nft --version",
    "stunnel4": "stunnel4 -version", "ssh": "ssh -V", "systemd-nspawn": "systemd-nspawn --version",
    "systemd-analyze": "systemd-analyze --version", "mandoc": "dpkg-query -W -f ${Version} mandoc",
    "curl": "curl --version", "openssl": "openssl version", "chisel": "chisel --version", "iperf3": "iperf3 --version",
}  # fmt: skip


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"needs {program}: apt-get install $(cat tests/deploy/packages) has it")
        if program in VERSIONS and program not in tested_with:
            with contextlib.suppress(OSError):
                said = subprocess.run(VERSIONS[program].split(), capture_output=True, text=True)
                lines = [line for line in (said.stdout + said.stderr).splitlines() if any(map(str.isdigit, line))]
                tested_with[program] = lines[0].strip() if lines else "?"


def output(*command, **how):
    """What a command prints; it must succeed within a minute."""
    done = subprocess.run([str(word) for word in command], **{"capture_output": True, "text": True, "timeout": 60, **how})
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {(done.stderr or '').strip()[-500:]}")
    return done.stdout


class Program:
    """A program in the background, and what it has said: it is ended with the block that it is in."""

    def __init__(self, folder, *command, **how):
        self.command = [str(word) for word in command]
        self.log = tempfile.NamedTemporaryFile("w+", dir=folder, suffix=".log", delete=False)
        self.how = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log, **how}

    def __enter__(self):
        self.start()
        return self

    def start(self):
        self.process = subprocess.Popen(self.command, start_new_session=True, **self.how)

    def said(self):
        with open(self.log.name, errors="replace") as file:
            return file.read()

    def await_said(self, text, seconds=15):
        def look():
            if self.process.poll() is not None and text not in self.said():
                raise RuntimeError(f"{self.command} ended with {self.process.returncode}: {self.said()[-800:]}")
            return text in self.said()

        try:
            return await_(look, seconds, f"{' '.join(self.command[-6:])} to say \"{text}\"")
        except TimeoutError as late:
            raise TimeoutError(f"{late}; it said: {self.said()[-800:]}") from None

    def kill(self):
        self.end(signal.SIGKILL)

    def end(self, how=signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __exit__(self, *_):
        self.end()
        self.log.close()


class Hosts:
    """Hosts on one wire, each with addresses and a name: Hosts(server="198.51.100.1", home="203.0.113.2")."""

    def __init__(self, **hosts):
        self.prefix, self.hosts = f"ngrokmm-deploy-{os.getpid()}", hosts
        self.addresses = {name: words.split() for name, words in hosts.items()}

    def __enter__(self):
        if os.geteuid() != 0:
            raise Skip("needs root, to make network namespaces")
        try:
            output("ip", "netns", "add", f"{self.prefix}-wire")
        except (RuntimeError, FileNotFoundError):
            raise Skip("this machine allows no network namespaces") from None
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        wire = f"{self.prefix}-wire"
        output("ip", "-n", wire, "link", "add", "br0", "type", "bridge")
        output("ip", "-n", wire, "link", "set", "br0", "up")
        for number, (name, addresses) in enumerate(self.addresses.items()):
            host = f"{self.prefix}-{name}"
            output("ip", "netns", "add", host)
            output("ip", "-n", host, "link", "set", "lo", "up")
            output("ip", "-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", wire)
            output("ip", "-n", wire, "link", "set", f"port{number}", "master", "br0", "up")
            for address in addresses:
                length = "128" if ":" in address else "32"
                output("ip", "-n", host, "addr", "add", f"{address}/{length}", "dev", "eth0", *["nodad"] * (":" in address))
            output("ip", "-n", host, "link", "set", "eth0", "up")
            for family in ("-4", "-6"):
                output("ip", family, "-n", host, "route", "add", "default", "dev", "eth0")

    def __exit__(self, *_):
        for name in [*self.addresses, "wire"]:
            namespace = f"{self.prefix}-{name}"
            pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout
            for pid in pids.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)

    def on(self, name, *command):
        """The command that runs a command on a host."""
        return ["ip", "netns", "exec", f"{self.prefix}-{name}", *map(str, command)]

    def open(self, name, address, port):
        """Is there a port that somebody listens on?"""
        probe = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
        return subprocess.run(self.on(name, sys.executable, "-c", probe, address, port), capture_output=True).returncode == 0

    def await_open(self, name, address, port):
        await_(lambda: self.open(name, address, port), 15, f"{address} to listen on port {port}")


def configured(folder, name, *changes, to=None):
    """A copy of one of the deployment's files, with what is another's in a test: (old, new), ... Each old one is there."""
    with open(f"{DEPLOY}/{name}") as file:
        text = file.read()
    for old, new in changes:
        if old not in text:
            raise RuntimeError(f"{name} has no \"{old}\"")
        text = text.replace(old, new)
    path = os.path.join(folder, to or name)
    with open(path, "w") as file:
        file.write(text)
    return path


def options_in(name, whose):
    """The options that a file's comment gives for `whose`, "app1.server" for example."""
    with open(f"{DEPLOY}/{name}") as file:
        for line in file:
            if f"/{whose} " in line and "OPTIONS=" in line:
                return line.split("OPTIONS=", 1)[1].split()
    raise RuntimeError(f"{name} gives no options for {whose}")


@contextlib.contextmanager
def folder():
    """A folder of the test's own, which others can read: daemons give their root away."""
    path = tempfile.mkdtemp(prefix="ngrokmm-deploy-")
    os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
