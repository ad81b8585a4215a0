"""Checks the exercises 1 and 2 of stages 0 and 1: what the text gives as their check fails without a solution and succeeds
with the one that is kept here, in solutions/STAGE-EXERCISE.diff. `pipe_exercises.py 0-2` does that one alone.

They are done as a reader would do them: in a copy of the stage, in a copy of the repository, in a network of its own.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from check import BOOK, ROOT, STAGES, copy_repository, enter_network, is_there

SOLUTIONS = Path(__file__).parent / "solutions"
DEADLINE = 60  # seconds, for whatever is awaited


class Program:
    """A program that runs in the background, and what it logs."""

    def __init__(self, command):
        self.log = tempfile.NamedTemporaryFile("w+")
        self.process = subprocess.Popen(command.split(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGCONT)
        os.killpg(self.process.pid, signal.SIGTERM)  # strace, too, ends when its program does
        self.process.wait(DEADLINE)

    def said(self):
        return Path(self.log.name).read_text()

    def await_line(self, pattern):
        until = time.monotonic() + DEADLINE
        while not re.search(pattern, self.said(), re.M):
            if time.monotonic() > until or self.process.poll() is not None:
                raise TimeoutError(f"no line like {pattern} in: {self.said()}")
            time.sleep(0.02)


class Exercise:
    """One exercise of the text: its words, and the commands in them."""

    def __init__(self, name):
        self.name = name
        self.stage, self.number = map(int, name.split("-"))
        chapter = re.search(rf"^## Stage {self.stage}: .*?^### Exercises\n(.*?)^### ", BOOK.read_text(), re.M | re.S)[1]
        self.text = re.search(rf"^{self.number}\. (.*?)(?=^\d\. |\Z)", chapter, re.M | re.S)[1]
        self.folder = f"my-stage{self.stage}"

    def command(self, beginning):
        """The command in the text that begins like that."""
        for span in re.findall(r"`([^`]+)`", self.text):
            span = re.sub(r"\s+", " ", span)
            if span.startswith(beginning):
                return span
        raise LookupError(f"exercise {self.name} names no command {beginning}")

    def passes_tests(self):
        command = self.command(f"make test-stage{self.stage} DIR={self.folder}")
        return subprocess.run(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


# ---- the checks, as the text has them: each returns whether there is a solution ----


def check_0_1(exercise):
    """The server says how many connections are open when one is done."""
    with Program("my-stage0/server") as server:
        server.await_line("listening")
        with subprocess.Popen(["nc", "localhost", "54287"], stdin=subprocess.PIPE) as stays:
            server.await_line("connection 1 opened")
            subprocess.run(["nc", "-N", "localhost", "54287"], input=b"hello\n", stdout=subprocess.DEVNULL)
            server.await_line("connection 2 done")
            stays.terminate()
        server.await_line("connection 1 done")
    lines = server.said().split("\n")
    behind = [lines[i + 1] for i, line in enumerate(lines) if " done: " in line]
    return [line.endswith(f": {count} open") for line, count in zip(behind, (1, 0))] == [True, True] and \
        exercise.passes_tests()


def check_0_2(exercise):
    """Of three slow requests, the third waits for one of the others."""
    with Program("stage3-local/app"), Program(exercise.command("my-stage0/client")) as client:
        client.await_line("listening")
        started = time.monotonic()
        subprocess.run(["bash", "-c", exercise.command("time (for")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        assert seconds > 2.9, "the app is not slow"
        return seconds > 5.9 and "connection 3 opened" in client.said()


def check_1_1(exercise):
    """The server says how long after its last ping it gave up the client: three heartbeats."""
    assert "`--heartbeat 2`" in exercise.text
    with Program("my-stage1/server --heartbeat 2") as server:
        server.await_line("step 1")
        with Program("stage1-control/client --heartbeat 2") as client:
            client.await_line("step 2")
            client.process.send_signal(signal.SIGSTOP)
            server.await_line("client gone")
    return re.search(r"client gone: .*\(last ping 6\.\d s ago\)$", server.said(), re.M) is not None


def check_1_2(exercise):
    """Without timer_stop it pings while there is no server, and the next one before its welcome."""
    with Program("stage1-control/server") as server:
        server.await_line("step 1")
        with Program(exercise.command("strace").replace("strace ", "strace -o build/pings ")) as client:
            client.await_line("step 2")
            server.process.terminate()
            server.process.wait(DEADLINE)
            client.await_line("cannot reach the server")
    pings_nobody = re.search(r'sendto\(-1, "ping', Path("build/pings").read_text()) is not None
    return pings_nobody and not exercise.passes_tests()


CHECKS = {name[6:].replace("_", "-"): check for name, check in globals().items() if name.startswith("check_") and name[6].isdigit()}


# ---- running them ----


def build(exercise):
    subprocess.run(["make", "-s", f"DIR={exercise.folder}", f"{exercise.folder}/server", f"{exercise.folder}/client",
                    f"build/tests/stages/test_stage{exercise.stage}"], check=True, stdout=subprocess.DEVNULL)


def tell_apart(exercise):
    """Returns what is wrong with the exercise, or an empty string."""
    shutil.rmtree(exercise.folder, ignore_errors=True)
    shutil.copytree(STAGES[exercise.stage], exercise.folder)
    build(exercise)
    if CHECKS[exercise.name](exercise):
        return "its check succeeds without a solution"
    solution = (SOLUTIONS / f"{exercise.name}.diff").read_bytes()
    subprocess.run(["patch", "-s", "-p0"], input=solution, check=True)
    build(exercise)
    return "" if CHECKS[exercise.name](exercise) else "its check fails with the solution"


def main():
    names = sys.argv[1:] or sorted(CHECKS)
    if tools := [tool for tool in ("bash", "nc", "curl", "strace", "patch") if not is_there(tool)]:
        print("test-exercises: skipped, not installed or not allowed:", ", ".join(tools))
        return 1 if os.environ.get("CI") == "true" else 0
    if not enter_network():
        print("test-exercises: skipped, this system allows no network namespace")
        return 1 if os.environ.get("CI") == "true" else 0
    bad = []
    with tempfile.TemporaryDirectory(prefix="exercises-") as folder:
        copy_repository(Path(folder))
        shutil.copytree(ROOT / "build", Path(folder) / "build", dirs_exist_ok=True)
        for program in ROOT.glob("stage[0-9]-*/*"):
            if os.access(program, os.X_OK) and program.is_file():
                shutil.copy2(program, Path(folder) / program.relative_to(ROOT))
        os.chdir(folder)
        for name in names:
            try:
                wrong = tell_apart(Exercise(name))
            except (TimeoutError, LookupError, AssertionError, subprocess.SubprocessError) as error:
                wrong = str(error)
            print(f"exercise {name}: {wrong or 'can be solved, and its check tells'}", flush=True)
            bad += [name] * bool(wrong)
    print(f"[  PASSED  ] {len(names) - len(bad)} test(s).")
    if bad:
        print(f"[  FAILED  ] {len(bad)} test(s), listed below:")
        print("\n".join(f"[  FAILED  ] exercise {name}" for name in bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
