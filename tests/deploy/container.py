"""A systemd of our own, booted in a container that has nothing of this machine but /usr, and no network but its own."""
import os
import shutil
import subprocess
import time

from hosts import OUT, TOP, Program, Skip, await_, need, output


class Container:
    """Its root is a folder with an empty /etc, a few files that any system has, and what `make install` installs."""

    def __init__(self, scratch):
        self.scratch, self.root = scratch, f"{scratch}/root"
        need("systemd-nspawn", "nsenter")
        if os.geteuid() != 0:
            raise Skip("needs root, to boot a container")
        if not os.path.islink("/bin"):
            raise Skip("this system has programs outside of /usr")
        output("make", "-C", TOP, "install", f"DESTDIR={scratch}/installed", f"OUT={os.environ.get('OUT', '')}")
        for folder in ("usr", "etc/systemd/system", "etc/ngrok--", "var/log", "run", "tmp", "root", "dev", "proc", "sys", "stage3"):
            os.makedirs(f"{self.root}/{folder}")
        for link in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            if os.path.islink(f"/{link}"):
                os.symlink(f"usr/{link}", f"{self.root}/{link}")
        shutil.copy("/usr/lib/os-release", f"{self.root}/etc/os-release")
        self.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")  # without one, first boot would enable all units
        self.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        self.write("etc/group", "root:x:0:\n")
        self.write("etc/hosts", "127.0.0.1 localhost\n")
        self.write("etc/nsswitch.conf", "passwd: files systemd\ngroup: files systemd\nhosts: files dns\n")

    def write(self, path, text, mode=0o644):
        os.makedirs(os.path.dirname(f"{self.root}/{path}"), exist_ok=True)
        with open(os.open(f"{self.root}/{path}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
            file.write(text)

    def __enter__(self):
        self.nspawn = Program(
            self.scratch, "systemd-nspawn", "--quiet", f"--directory={self.root}", "--bind-ro=/usr",
            f"--bind-ro={self.scratch}/installed/usr/local:/usr/local", f"--bind-ro={os.path.abspath(OUT)}/stage3-local:/stage3",
            f"--machine=ngrok-{os.getpid()}", "--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe",
            "systemd.unit=multi-user.target")  # fmt: skip
        self.begun = time.monotonic()
        self.nspawn.__enter__()
        try:
            self.leader = await_(self.find_leader, 20, "systemd-nspawn to boot")
            await_(lambda: self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"), 60, "systemd")
        except (TimeoutError, RuntimeError) as why:
            self.nspawn.__exit__()
            raise Skip(f"no systemd can be booted here ({why}: {self.nspawn.said()[-300:].strip()})") from None
        self.booted = time.monotonic() - self.begun
        return self

    def find_leader(self):
        pid = self.nspawn.process.pid
        if self.nspawn.process.poll() is not None:
            raise RuntimeError(f"systemd-nspawn ended with {self.nspawn.process.returncode}")
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            for child in file.read().split():
                with open(f"/proc/{child}/comm") as comm:
                    if comm.read().strip() == "systemd":
                        return child
        return None

    def __exit__(self, *_):
        # Powers it off, as a machine would be: what runs in it is stopped by its systemd.
        self.run("systemctl", "--no-block", "poweroff")
        try:
            self.nspawn.process.wait(40)
        except subprocess.TimeoutExpired:
            pass
        self.nspawn.__exit__()

    def inside(self, *command):
        inside = ["nsenter", "--target", self.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        return inside + [str(word) for word in command]

    def run(self, *command):
        how = {"capture_output": True, "text": True, "timeout": 60, "cwd": "/", "env": {"PATH": "/usr/sbin:/usr/bin"}}
        return subprocess.run(self.inside(*command), **how)

    def background(self, *command):
        return Program(self.scratch, *self.inside(*command))

    def show(self, unit, name):
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def log(self, unit):
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit).stdout

    def await_log(self, unit, text, seconds=15):
        await_(lambda: text in self.log(unit), seconds, f"{unit} to log \"{text}\"; it has: {self.log(unit)[-500:]}")
