"""Exercises 1 and 2 of stages 2 and 3: each has a model solution, solutions/N-M.diff, and the check that the
walkthrough names must succeed with it and fail without it."""
import concurrent.futures
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = ROOT / "tests/walkthrough/solutions"
FOLDERS = {2: "stage2-proxy", 3: "stage3-local"}
PATIENCE = 20  # seconds, for whatever is awaited


class Program:
    """A program that logs into a file; ended when the `with` is over."""

    def __init__(self, folder, name, *arguments):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([folder / name, *arguments], stderr=self.log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def logged(self, pattern):
        self.log.seek(0)
        return re.search(pattern, self.log.read())

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


CHECKS = {(2, 2): told_that_there_is_no_client, (3, 2): introduced_in_version_2}


def check_of(stage, exercise, text, folder):
    if check := CHECKS.get((stage, exercise)):
        return check(folder)
    return tests_fail(stage, folder, re.findall(r"`(test_\w+)`", text))


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


def attempt(stage, exercise, text, is_solved):
    """What is wrong, in words, or None."""
    name = f"stage {stage}, exercise {exercise}"
    with tempfile.TemporaryDirectory(prefix="exercise-") as folder:
        mine = Path(folder)
        for program in ("server", "client"):
            shutil.copy(ROOT / FOLDERS[stage] / program, mine)
        if is_solved and (trouble := solve(mine, stage, exercise)):
            return f"{name}: {trouble}"
        try:
            if check_of(stage, exercise, text, mine) == is_solved:
                return None
        except (RuntimeError, OSError) as error:
            return f"{name}, {'with' if is_solved else 'without'} the model solution: {error}"
    return f"{name}: the check " + ("fails with the model solution" if is_solved else "succeeds with nothing done")


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
    wrong = [] if len(found) == 4 else [f"exercises 1 and 2 of stages 2 and 3 are {len(found)}"]
    # Built once, before several ask for it at the same time.
    subprocess.run(["make", "-s", *(f"build/tests/stages/test_stage{stage}" for stage in FOLDERS)], cwd=ROOT,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        tries = [threads.submit(attempt, *exercise, is_solved) for exercise in found for is_solved in (True, False)]
        return len(found), wrong + [what for what in (each.result() for each in tries) if what]
