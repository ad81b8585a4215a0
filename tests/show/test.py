"""Tests of what `make show-stageN` shows: the ladders of all stages, of broken attempts, and that a tap changes nothing."""
import asyncio
import concurrent.futures
import fnmatch
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

from ladder import PLACES
from rows import COLUMNS
from tap import Tap

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.environ.get("OUT", "")
STAGES = ["stage0-pipe", "stage1-control", "stage2-proxy", "stage3-local"]
TOKEN = r"[0-9a-f]{6}\.\."

# Rows that must be there, in this order, as summary() gives them; * stands for anything, ? for any character.
LADDERS = [
    [
        "user => client: #1 connection", "client => server: #1 to TARGET", "user .> client: #1 5 B hello",
        "client .> server: #1 5 B hello", "server .> client: #1 5 B hello", "client .> user: #1 5 B hello",
        "user ~> client: #1 end", "client ~> server: #1 end", "server ~> client: #1 end", "client ~> user: #1 end",
        "user => client: #2 connection", "client => server: #2 to TARGET", "user x> client: #2 reset",
        "client x> server: #2 reset",
    ],
    [
        "(1) server: waits for the client", "(2) client => server: #1 control", "client -> server: #1 hello",
        "server -> client: #1 welcome",
        *["client -> server: #1 ping", "server -> client: #1 pong"] * 3,
        "-- A second client comes while the first is there.", "(2) second client => server: #2 control",
        "second client -> server: #2 hello", "server -> second client: #2 busy", "server ~> second client: #2 end",
        "-- The first client is stopped*", "client ~> server: #1 end", "(2) second client => server: #? control",
        "second client -> server: #? hello", "server -> second client: #? welcome", "server -> second client: #? pong",
    ],
    [
        "(1) server: waits for the client", "-- A user comes before the client*", "(3) users => server: #1 public",
        "users .> server: #1 11 B I am first.", "-- The client comes.", "(2) client => server: control",
        "client -> server: hello", "server -> client: welcome ??????..", "(4) server -> client: create_proxy",
        "(5) client => server: #1 proxy", "client -> server: #1 proxy ??????..",
        "(6) server .> client: #1 11 B I am first.", "client .> server: #1 11 B I am first.",
        "server .> users: #1 11 B I am first.", "-- Another user comes*", "(3) users => server: #2 public",
        "(4) server -> client: create_proxy", "(5) client => server: #2 proxy", "client -> server: #2 proxy ??????..",
        "(6) server .> client: #2 13 B And I second.", "server .> users: #2 13 B And I second.",
        *[row for n in (1, 2) for row in (f"users ~> server: #{n} end", f"server ~> client: #{n} end",
                                          f"client ~> server: #{n} end", f"server ~> users: #{n} end")],
    ],
    [
        "(1) server: waits for the client", "(2) client => server: control", "client -> server: hello",
        "server -> client: welcome ??????.. *", "(4) server -> client: create_proxy", "(4) server -> client: create_proxy",
        "(5) client => server: #2 proxy", "client -> server: #2 proxy ??????..", "-- A user comes.*",
        "(3) user => server: public", "server -> client: #? start 127.0.0.1 *", "(5) client => local app: private",
        "user .> server: 54 B GET / HT*", "(6) server .> client: #? 54 B GET / HTTP/1.1",
        "client .> local app: 54 B GET / HT*", "local app .> client: 1?.? kB HTTP/*",
        "client .> server: #? 1?.? kB HTTP/1.1 200*", "server .> user: 1?.? kB HTTP/*", "user ~> server: end",
        "server ~> client: #? end", "client ~> local app: end",
    ],
]

# Faults for the stages in Python: stage, file, what stands there, what instead, and what the ladder says then.
FAULTS = [
    (1, "server", 'send_line("pong")', 'send_line("pang")', [
        "server -> client: pang", "!! expected on the control connection: `pong`; came: `pang`"]),
    (1, "server", 'client.send_line("pong")', "pass", [
        "client -> server: ping", "!! expected: the server answers `ping` with `pong`; came: an end"]),
    (1, "server", 'connection.send_line("busy")', "pass", [
        "second client -> server: #2 hello", "!! expected: the server tells the second client `busy`; came: an end"]),
    (1, "client", 'send_line("hello")', 'send_line("hallo")', [
        "client -> server: hallo", "!! expected on the control connection: `hello`; came: `hallo`"]),
    (1, "client", 'send_line("hello")', 'send_line("h" * 200)', [
        "client -> server: 200 B hhhhh*", "!! expected on the control connection: a line of at most 127 bytes*"]),
    (2, "client", 'f"proxy {token}"', '"proxy " + 32 * "0"', [
        "client -> server: proxy 000000..",
        "!! expected on the proxy connection: `proxy TOKEN`, with the TOKEN of `welcome`; came: `proxy 000000..`"]),
    (2, "client", "proxy.writer.write(data)", "proxy.writer.write(data.upper())", [
        "client .> server: 11 B I AM FIRST.", "!! expected: the client echoes what comes there; came: I AM FIRST."]),
    (2, "server", 'self.client.send_line("create_proxy")', "True", [
        "client -> server: ping", "!! expected: the server says `create_proxy`; nothing like it came for *"]),
    (3, "server", 'f"start {user.connection.host} {user.connection.port}"', '"start"', [
        "server -> client: #? start", "!! expected on the proxy connection: `start ADDRESS PORT`; came: `start`"]),
    (3, "server", " {self.public_port.number}", "", [
        "server -> client: welcome ??????..",
        "!! expected on the control connection: `welcome TOKEN PORT` or `busy`; came: `welcome ??????..`"]),
    (2, "client", 'send_line("hello")', "reset()", [
        "client x> server: reset", "!! expected: the client says `hello`; came: a reset"]),
    (2, "server", "Port(self.options.bind, self.options.public_port", "sys.exit(7)\n        _ = (0", [
        "!! expected: `listening for users on port N` in the server's log; but the server exited with status 7"]),
]


def ladder(stage, folder, **environment):
    """What show-stageN prints, and its status."""
    done = subprocess.run([sys.executable, "-B", os.path.join(HERE, "show.py"), str(stage), folder], text=True,
                          capture_output=True, timeout=90, env={**os.environ, **environment})
    return done.stdout + done.stderr, done.returncode


def summary(line, columns):
    """A row without its time and its place: `(2) client => server: control`. - a line, . payload, ~ an end, x a reset."""
    if not re.match(r"\d", line):
        return line
    step = line[6:10].lstrip()
    places = PLACES[len(columns)]
    if "* " in line:
        return f"{step}{columns[1]}: {line.split('* ')[1].strip(' |')}"
    for left, right in zip(range(len(places)), range(1, len(places))):  # nobody talks past a third one
        arrow = line[places[left] + 1 : places[right]]
        found = re.fullmatch(r"(<?)([=.-]+|[- ]+|[x ]+|) ([#\w].*?) ([=.-]+|[- ]+|[x ]+|)(>?)", arrow)
        if found and (found[1] or found[5]):
            fill = "x" if "x" in found[4] else "~" if "- " in found[4] else (found[4] or found[2])[:1]
            ends = (columns[left], columns[right]) if found[5] else (columns[right], columns[left])
            return f"{step}{ends[0]} {fill}> {ends[1]}: {found[3]}"
    return line


def missing_row(stage, rows, text):
    """The first of the rows that the text does not have, in their order; None if it has all."""
    lines = iter([summary(line, COLUMNS[stage]) for line in text.replace("\n   ", " ").splitlines()])
    return next((row for row in rows if not any(fnmatch.fnmatchcase(line, row) for line in lines)), None)


class Ladders(unittest.TestCase):
    def check(self, stage):
        text, status = ladder(stage, OUT + STAGES[stage])
        row = missing_row(stage, [*LADDERS[stage], f"Stage {stage} said what it should."], text)
        self.assertIsNone(row, f"expected a row like `{row}` in this order, but what came is:\n{text}")
        self.assertEqual(status, 0)
        self.assertNotIn("\033", text)
        for line in text.splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_the_ladder_of_stage_0(self):
        self.check(0)

    def test_the_ladder_of_stage_1(self):
        self.check(1)

    def test_the_ladder_of_stage_2(self):
        self.check(2)

    def test_the_ladder_of_stage_3(self):
        self.check(3)

    def test_the_picture_is_a_picture_and_names_who_takes_part(self):
        text, status = ladder(2, OUT + STAGES[2], SHOW="svg")
        self.assertEqual((text, status), ("build/show/stage2.svg is written.\n", 0))
        words = ["".join(node.itertext()) for node in xml.etree.ElementTree.parse("build/show/stage2.svg").iter()]
        for expected in "users", "server", "client", "create_proxy", "#2 13 B And I second.", "#2 end":
            self.assertIn(expected, words)


class Faults(unittest.TestCase):
    """Broken attempts: the ladder ends where it goes wrong, and says so."""

    def test_each_fault_is_shown(self):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for fault, failure in zip(FAULTS, pool.map(self.show, FAULTS)):
                with self.subTest(fault=fault[:4]):
                    self.assertIsNone(failure, failure)

    def show(self, fault):
        """What is wrong with the ladder of that fault; None if it is right."""
        os.makedirs("build/show", exist_ok=True)
        with tempfile.TemporaryDirectory(dir="build/show") as folder:
            return self.check(folder, *fault)

    def check(self, folder, stage, name, right, wrong, rows):
        shutil.copytree("tests/other-language", folder, dirs_exist_ok=True)
        path = os.path.join(folder, f"stage{stage}", name)
        with open(path, encoding="utf-8") as file:
            source = file.read()
        if right not in source:
            return f"{path} has no `{right}` any more: another fault, please"
        with open(path, "w", encoding="utf-8") as file:
            file.write(source.replace(right, wrong))
        text, status = ladder(stage, os.path.join(folder, f"stage{stage}"))
        row = missing_row(stage, [*rows, "It went wrong where the !! is."], text)
        if row or status != 1:
            return f"expected status 1 and a row like `{row}` in this order, but what came is {status} and:\n{text}"
        return None

    def test_a_folder_without_programs(self):
        text, status = ladder(1, "build")
        self.assertIn("expected: a program build/server; but No such file or directory", text)
        self.assertEqual(status, 1)


class Taps(unittest.IsolatedAsyncioTestCase):
    """A tap between two sockets of the test's own."""

    async def asyncSetUp(self):
        self.events, self.news = [], asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        self.tap = Tap("public", listener.getsockname()[1], self.tell)
        self.caller = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", self.tap.port), 5)
        self.callee, _ = await asyncio.to_thread(listener.accept)
        self.callee.settimeout(5)
        listener.close()

    def tell(self, event):
        self.events.append((event.kind, event.up))
        self.news.set()

    async def asyncTearDown(self):
        self.caller.close()
        self.callee.close()
        await self.tap.close()

    async def expect(self, who, came):
        self.assertEqual(await asyncio.to_thread(who.recv, 100), came)

    async def expect_reset(self, who):
        with self.assertRaises(ConnectionResetError):
            await asyncio.to_thread(who.recv, 100)

    def reset(self, who):
        who.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        who.close()

    async def test_the_end_of_one_direction_leaves_the_other_open(self):
        self.caller.sendall(b"question")
        self.caller.shutdown(socket.SHUT_WR)
        await self.expect(self.callee, b"question")
        await self.expect(self.callee, b"")
        self.callee.sendall(b"answer")
        await self.expect(self.caller, b"answer")
        self.callee.close()
        await self.expect(self.caller, b"")
        self.assertEqual(self.events, [("open", True), ("payload", True), ("end", True), ("payload", False), ("end", False)])

    async def test_a_reset_is_passed_on_as_a_reset(self):
        self.reset(self.caller)
        await self.expect_reset(self.callee)
        self.assertEqual(self.events, [("open", True), ("reset", True)])

    async def test_a_reset_by_the_callee_is_passed_on_too(self):
        self.reset(self.callee)
        await self.expect_reset(self.caller)
        self.assertEqual(self.events, [("open", True), ("reset", False)])

    @unittest.skipUnless(sys.platform == "linux", "others tell of it when something is written")
    async def test_a_reset_after_an_end_is_passed_on(self):
        self.caller.shutdown(socket.SHUT_WR)
        await self.expect(self.callee, b"")
        self.reset(self.caller)
        while ("reset", True) not in self.events:  # although nobody writes
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 5)
        with self.assertRaises(OSError):
            while True:
                await asyncio.to_thread(self.callee.sendall, b"more")

    async def test_a_caller_of_a_port_that_is_closed_is_reset(self):
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))  # but nobody listens there
        self.tap.port_behind = taken.getsockname()[1]
        late = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", self.tap.port), 5)
        await self.expect_reset(late)
        late.close()
        taken.close()
        self.assertEqual(self.events[-1], ("refused", False))


def main():
    """Reports as cmocka does, for the summary of `make test`."""
    result = unittest.main(exit=False).result
    bad = [test.id().removeprefix("__main__.").split(" ")[0] for test, _ in result.failures + result.errors]
    if passed := result.testsRun - len(set(bad)) - len(result.skipped):
        print(f"[  PASSED  ] {passed} test(s).")
    if bad:
        print(f"[  FAILED  ] {len(set(bad))} test(s), listed below:")
        print("\n".join(f"[  FAILED  ] {name}" for name in sorted(set(bad))))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
