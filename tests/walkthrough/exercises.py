"""Exercises 1 and 2 of each stage: each has a model solution, solutions/N-M.diff, and the check that the
walkthrough names must succeed with it and fail without it."""
import concurrent.futures
import contextlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "WALKTHROUGH.md"
SOLUTIONS = ROOT / "tests/walkthrough/solutions"
FOLDERS = {0: "stage0-pipe", 1: "stage1-control", 2: "stage2-proxy", 3: "stage3-local"}
PATIENCE = 20  # seconds, for whatever is awaited


class Program:
    """A program that logs into a file; ended when the `with` is over. before: words in front of the command."""

    def __init__(self, folder, name, *arguments, before=()):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([*before, folder / name, *arguments], stdout=subprocess.DEVNULL, stderr=self.log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def logged(self, pattern):
        self.log.seek(0)
        return re.search(pattern, self.log.read(), re.M)

    def await_log(self, pattern):
        until = time.monotonic() + PATIENCE
        while not (found := self.logged(pattern)):
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError(f"a program did not log: {pattern}")
            time.sleep(0.02)
        return found


def server_of(folder, *arguments):
    return Program(folder, "server", "--control-port", "0", "--public-port", "0", "--proxy-port", "0", *arguments)


def port_for(server, whom):
    return server.await_log(rf"listening for {whom} on port (\d+)")[1]


def all_of(connection):
    connection.settimeout(PATIENCE)
    data = b""
    try:
        while piece := connection.recv(4096):
            data += piece
    except ConnectionResetError:
        pass
    return data


# ---- the checks: what the reader is told to do, and to see ----


def tests_fail(stage, folder, names):
    """`make test-stageN DIR=...` names these tests, all of them, as failed."""
    def fails(name):
        done = subprocess.run(["make", "-s", f"test-stage{stage}", f"DIR={folder}", f"ONLY={name}"], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if "[==========] 1 test(s) run." not in done.stdout:
            raise RuntimeError(f"make test-stage{stage} ran no test {name}: {done.stdout[-300:]}")
        return done.returncode != 0
    return all([fails(name) for name in names])


def says_how_many_are_open(folder):
    with Program(folder, "server", "--listen-port", "0") as server:
        address = "127.0.0.1", int(port_for(server, "connections"))
        with socket.create_connection(address), socket.create_connection(address) as other:
            other.sendall(b"hello")
            other.shutdown(socket.SHUT_WR)
            all_of(other)
            server.await_log("connection 2 done")
        server.await_log("connection 1 done")
        server.process.terminate()
        server.process.wait()  # then it has said all
        return server.logged(r"connection 2 done: .*\n.*: 1 open\n.*connection 1 done: .*\n.*: 0 open$") is not None


def has_two_at_a_time(folder):
    with Program(ROOT / "stage3-local", "app", "0") as app:
        with Program(folder, "client", "--listen-port", "0", "localhost:" + app.await_log(r"listening on port (\d+)")[1]) as client:
            command = re.search(r"`time (\(for [^`]*)`", BOOK.read_text())[1].replace("54286", port_for(client, "connections"))
            began = time.monotonic()
            subprocess.run(["bash", "-c", command], stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - began
            client.await_log("connection 3 done")
            return seconds > 5.9


def says_when_the_last_ping_came(folder):
    with Program(folder, "server", "--control-port", "0", "--heartbeat", "2") as server:
        with Program(ROOT / FOLDERS[1], "client", "--control-port", port_for(server, "the client"), "--heartbeat", "2") as client:
            client.await_log("step 2")
            client.process.send_signal(signal.SIGSTOP)
            try:
                server.await_log("client gone")
            finally:
                client.process.send_signal(signal.SIGCONT)
            return server.logged(r"client gone: .* \(last ping 6\.\d s ago\)$") is not None


def can_trace():
    """strace may be missing, and some systems don't allow it."""
    try:
        return subprocess.run(["strace", "-o", "/dev/null", "true"], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def pings_nobody(folder):
    with tempfile.NamedTemporaryFile("r") as trace:
        with Program(ROOT / FOLDERS[1], "server", "--control-port", "0") as server:
            strace = "strace", "-e", "trace=sendto", "-o", trace.name
            client = Program(folder, "client", "--control-port", port_for(server, "the client"), "--heartbeat", "0.5", before=strace)
            client.await_log("step 2")
        with client:
            client.await_log("cannot reach the server")  # at least one heartbeat after the loss
            # strace waits for its program, which is to end first.
            subprocess.run(["pkill", "-P", str(client.process.pid)], check=True)
            client.process.wait()
        return 'sendto(-1, "ping' in trace.read()


def told_that_there_is_no_client(folder):
    with server_of(folder, "--wait", "0.5") as server:
        port = int(port_for(server, "users"))
        while not server.logged("is turned away"):
            try:
                with socket.create_connection(("127.0.0.1", port)) as user:
                    said = all_of(user)
            except ConnectionResetError:
                said = b""
        return said == b"there is no client\n"


def introduced_in_version_2(folder):
    with socket.create_server(("127.0.0.1", 0)) as app, server_of(folder) as server:
        app.settimeout(PATIENCE)
        public = int(port_for(server, "users"))
        with Program(folder, "client", "--proxy-protocol", "--control-port", port_for(server, "the client"), "--proxy-port",
                     port_for(server, "proxy connections"), f"127.0.0.1:{app.getsockname()[1]}") as client:
            client.await_log("users who come to port")
            with socket.create_connection(("127.0.0.1", public)) as user:
                user.sendall(b"hello")
                user.shutdown(socket.SHUT_WR)
                connection, _ = app.accept()
                with connection:
                    said, port = all_of(connection), user.getsockname()[1]
    start = bytes.fromhex("0d0a0d0a000d0a515549540a2111000c")
    return said == start + socket.inet_aton("127.0.0.1") + bytes(4) + port.to_bytes(2, "big") + public.to_bytes(2, "big") + b"hello"


CHECKS = {(0, 1): says_how_many_are_open, (0, 2): has_two_at_a_time, (1, 1): says_when_the_last_ping_came,
          (2, 2): told_that_there_is_no_client, (3, 2): introduced_in_version_2}


def check_of(stage, exercise, text, folder):
    if (stage, exercise) == (1, 2):
        return (not can_trace() or pings_nobody(folder)) and tests_fail(stage, folder, ["test_the_client_says_hello_first_and_then_waits"])
    check = CHECKS.get((stage, exercise), lambda folder: True)
    return check(folder) and tests_fail(stage, folder, re.findall(r"`(test_\w+)`", text))


# ---- both ways ----


def solve(mine, stage, exercise):
    """Puts the model solution into that folder, of which only what it changes is built. Returns what is wrong, or None."""
    patch = SOLUTIONS / f"{stage}-{exercise}.diff"
    for source in re.findall(r"^--- my-stage\d/(\S+)", patch.read_text(), re.M):
        shutil.copy(ROOT / FOLDERS[stage] / source, mine)
    programs = [source.with_suffix("") for source in mine.glob("*.c")]
    for command in (["patch", "-s", "-p1", "-d", mine, "-i", patch], ["make", "-s", *programs, f"DIR={mine}"]):
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            return f"{patch.name}: {command[0]}: {done.stdout[-500:].strip()}"
    return None


def attempt(mine, stage, exercise, text, is_solved):
    """In that folder. Returns what is wrong, in words, or None."""
    name = f"stage {stage}, exercise {exercise}"
    if is_solved and (trouble := solve(mine, stage, exercise)):
        return f"{name}: {trouble}"
    try:
        if check_of(stage, exercise, text, mine) == is_solved:
            return None
    except (RuntimeError, OSError) as error:
        return f"{name}, {'with' if is_solved else 'without'} the model solution: {error}"
    return f"{name}: the check " + ("fails with the model solution" if is_solved else "succeeds with nothing done")


def folder_of(stage, stack):
    """A folder with the stage's programs, until the stack is left."""
    mine = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exercise-")))
    for program in ("server", "client"):
        shutil.copy(ROOT / FOLDERS[stage] / program, mine)
    return mine


def exercises(prose):
    """(stage, exercise, its text) of exercises 1 and 2."""
    for stage in FOLDERS:
        chapter = re.search(rf"^## Stage {stage}:.*?^### Exercises$(.*?)^###? ", prose, re.M | re.S)[1]
        for text in re.findall(r"^(\d\. .*?)(?=^\d\. |^\S|\Z)", chapter, re.M | re.S):
            if int(text[0]) < 3:
                yield stage, int(text[0]), text


def wrong_exercises(prose):
    """How many exercises there are, and what is wrong with them."""
    found = list(exercises(prose))
    wrong = [] if len(found) == 8 else [f"exercises 1 and 2 of four stages are {len(found)}"]
    # Built once, before several ask for it at the same time.
    subprocess.run(["make", "-s", *(f"build/tests/stages/test_stage{stage}" for stage in FOLDERS)], cwd=ROOT,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.ExitStack() as stack:
        # All are copied before the first is run: a process that starts meanwhile would hold a copy open for writing for a
        # moment, and then it can't be run ("Text file busy").
        tries = [(folder_of(exercise[0], stack), *exercise, is_solved) for exercise in found for is_solved in (True, False)]
        threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(4))
        return len(found), wrong + [what for what in threads.map(lambda each: attempt(*each), tries) if what]
