"""Checks that WALKTHROUGH.md is true. How a block is to be understood is said by the line above it:

  **`stage1-control/server.c`**   an excerpt: whole lines of that file, verbatim; a line `…` skips some
  the same, above a diff block    a part of `diff -u` between that file and the one of the stage before
  **Terminal 2**                  typed and printed there; `$ ` is the prompt, ^C and ^Z are keys, `…` is what varies
  <!-- not run: REASON -->        a console block that can't be run here

All console blocks are run in a copy of the repository, a chapter with fresh terminals, in a network of their own
(a namespace), so that all ports are free and nothing goes out. `check.py "Stage 1"` runs that chapter alone.
"""
import ctypes
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from exercises import wrong_exercises
from terminal import KEYS, Mismatch, Terminal

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "WALKTHROUGH.md"
STAGES = ["stage0-pipe", "stage1-control", "stage2-proxy", "stage3-local"]
NOT_RUN_MAX = 8
# What the words table must explain, at least.
MUST_EXPLAIN = """socket, descriptor, accept, non-blocking, event loop, back-pressure, half-close, splice, framing,
    heartbeat, NAT time-out, session token, spare, draining""".replace("\n", " ").split(",")
# Names that are not ours: system calls, programs and functions that the text speaks of.
FOREIGN = set("""nc curl ss strace tcpdump bash git cmp cp sed kill apt-get sudo gcc systemctl man openssl ngrok read write
    fork fg poll select FIN SYN RST ACK EAGAIN ESTAB LISTEN EPOLLIN localhost grep diff fork wrk stress conntrack nft ip timeout
    TLS HTTP SSH FIFO systemd yamux HTTP/2 QUIC jobs printf seq cat head wc sleep
    gmake netstat dtruss ktrace kdump kevent perl
    mv haproxy inet_pton od 0d
    ps time scp Recv-Q Send-Q Host SNI -N -o -l -d -e -t - + ::ffff: 9.980ms pi ngping you.example.com""".split())


class Block:
    def __init__(self, language, label, reason, lines, at, chapter):
        self.language, self.label, self.reason, self.lines = language, label, reason, lines
        self.at, self.chapter = at, chapter

    def file(self):
        found = re.fullmatch(r"\*\*`([\w./@-]+)`\*\*.*", self.label)
        return found and found[1]

    def terminal(self):
        found = re.fullmatch(r"\*\*Terminal (\d)\*\*.*", self.label)
        return found and int(found[1])


class Book:
    """The text, taken apart: blocks; and what is left, with blocks, comments and their labels blanked out."""

    def __init__(self, text):
        self.blocks, self.headings, self.chapters = [], [], []
        prose, fence, label, reason, chapter = [], None, "", None, ""
        for at, line in enumerate(text.split("\n"), 1):
            if fence is not None:
                if line == "```":
                    self.blocks.append(Block(*fence))
                    fence, label, reason = None, "", None
                else:
                    fence[3].append(line)
                prose.append("")
                continue
            if line.startswith("```"):
                fence = [line[3:], label, reason, [], at, chapter]
                prose.append("")
                continue
            comment = re.fullmatch(r"<!-- (.*) -->", line)
            if comment:
                reason = comment[1][9:] if comment[1].startswith("not run: ") else reason
                prose.append("")
                continue
            if heading := re.match(r"(#+) (.*)", line):
                self.headings.append(heading[2])
                if len(heading[1]) == 2:
                    chapter = heading[2]
                    self.chapters.append((chapter, at))
            if line.strip():
                label = line
            prose.append("" if re.match(r"\*\*(`|Terminal )", line) else line)
        self.prose = "\n".join(prose)

    def chapter_at(self, position):
        line = self.prose.count("\n", 0, position) + 1
        return ([name for name, at in self.chapters if at <= line] or [""])[-1]

    def line_at(self, position):
        return self.prose.count("\n", 0, position) + 1


failures = []


def fail(at, message):
    failures.append(f"WALKTHROUGH.md:{at}: {message}")


def find_lines(wanted, lines, what, at):
    """wanted must be in lines: in order, and without a gap but where it says `…`."""
    position = 0
    for part in "\n".join(wanted).split("\n…\n") if "…" in wanted else ["\n".join(wanted)]:
        part = part.strip("\n").split("\n") if part.strip("\n…") else []
        for start in range(position, len(lines) - len(part) + 1):
            if lines[start:start + len(part)] == part:
                position = start + len(part)
                break
        else:
            worst = max(range(len(lines)), key=lambda i: same_from(lines, i, part), default=0)
            wrong = part[min(same_from(lines, worst, part), len(part) - 1)]
            fail(at, f"not so in {what}: {wrong}")
            return


def same_from(lines, start, part):
    count = 0
    while count < len(part) and start + count < len(lines) and lines[start + count] == part[count]:
        count += 1
    return count


def unskipped(block):
    """The block's lines; an indented `…` skips like one that is not."""
    return ["…" if line.strip() in ("…", "/* … */") else line for line in block.lines]


def check_excerpts(book):
    """Excerpts: in the file that is named above, verbatim."""
    count = 0
    for block in book.blocks:
        if block.language in ("console", "diff", "text"):
            continue
        count += 1
        if not block.file():
            fail(block.at, "a code block without a file's name above it")
        elif not (ROOT / block.file()).is_file():
            fail(block.at, f"there is no file {block.file()}")
        else:
            find_lines(unskipped(block), (ROOT / block.file()).read_text().split("\n"), block.file(), block.at)
    return count


def check_diffs(book):
    """Excerpts of diffs: part of what `diff -u` says of the two stages."""
    count = 0
    for block in book.blocks:
        if block.language != "diff":
            continue
        count += 1
        stage, _, name = (block.file() or "").partition("/")
        if stage not in STAGES[1:]:
            fail(block.at, "a diff without a stage's file above it")
            continue
        before = ROOT / STAGES[STAGES.index(stage) - 1] / name
        diff = subprocess.run(["diff", "-u", before, ROOT / stage / name], stdout=subprocess.PIPE, text=True).stdout
        find_lines(unskipped(block), diff.split("\n")[2:], f"the diff of {block.file()}", block.at)
    return count


def function_text(source, name):
    """The function of that name, from its first line to its last; None if there is none."""
    found = re.search(rf"^[a-z][^\n;]*\b{name}\((?:[^;{{]*)\n{{\n.*?^}}$", source, re.M | re.S)
    return found and found[0]


def check_functions(book):
    """Functions: each excerpt of C shows the first line of its own, or names it, and is a part of it."""
    count = 0
    for block in book.blocks:
        if not (block.file() or "").endswith(".c"):
            continue
        count += 1
        lines = [line[1:] for line in block.lines if line[:1] in " +"] if block.language == "diff" else unskipped(block)
        named = re.search(r"in `(\w+)`$", block.label)
        if named:
            inside = function_text((ROOT / block.file()).read_text(), named[1])
            if inside is None:
                fail(block.at, f"{block.file()} has no function {named[1]}")
            else:
                find_lines(lines, inside.split("\n"), f"{named[1]} of {block.file()}", block.at)
        elif not any(re.match(r"[a-z]", line) for line in lines):
            fail(block.at, "an excerpt that doesn't say which function it is of")
    return count


# ---- console blocks ----


def port_numbers():
    """All ports that the programs use if nobody says otherwise."""
    text = "".join((ROOT / name).read_text() for name in
                   ("common/options.c", "stage0-pipe/server.c", "stage0-pipe/client.c", "stage3-local/demo.sh"))
    return {int(port) for port in re.findall(r"(?:\bport = |_PORT:-)(\d+)", text)}


def enter_network():
    """Into a network of our own, if the system allows it. Returns whether it does."""
    flags = 0x40000000 | (0x10000000 if os.geteuid() != 0 else 0)  # CLONE_NEWNET, CLONE_NEWUSER
    user, group = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        return False
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket() as any_socket:  # ip link set lo up
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)
        fcntl.ioctl(any_socket, 0x8914, request)
    return True


def busy_ports():
    def is_busy(port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                return True
        return False
    return [port for port in sorted(port_numbers()) if is_busy(port)]


def copy_repository(folder):
    listed = None
    if shutil.which("git"):
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-coz", "--exclude-standard"], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if listed and listed.returncode == 0:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
    else:
        shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("build", ".git"))
    commands = [["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "copy"]]
    for command in commands if shutil.which("git") else []:
        subprocess.run(["git", "-C", folder, *command], check=True)


def commands_of(blocks):
    for block in blocks:
        for line in block.lines:
            if line.startswith("$ "):
                yield line[2:]


def missing_tools(blocks):
    missing = set()
    for command in commands_of(blocks):
        for part in re.split(r"\||&&|;|\(|\bdo\b", re.sub(r"'[^']*'|\"[^\"]*\"", "x", command)):
            words = [word for word in part.split() if "=" not in word]
            if words and re.fullmatch(r"[a-z]+", words[0]) and not is_there(words[0]):
                missing.add(words[0])
    return missing


def is_there(tool):
    if subprocess.run(["bash", "-c", f"type {tool}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        return False
    if tool == "strace":  # may be there and not be allowed
        return subprocess.run(["strace", "-o", "/dev/null", "true"], stderr=subprocess.DEVNULL).returncode == 0
    return True


def skip(what, why):
    if os.environ.get("CI") == "true":
        fail(1, f"{what} not run: {why}")
    else:
        print(f"  skipped: {what}: {why}")


def run_block(block, terminals, new_terminal):
    terminal = terminals.get(block.terminal()) or terminals.setdefault(block.terminal(), new_terminal())
    at = block.at
    try:
        if block.lines[0].startswith("$ make show-stage"):
            terminal.type(block.lines[0][2:])
            terminal.expect_ladder(block.lines[1:])
            return True
        for line in block.lines:
            at += 1
            if line.startswith("$ "):
                terminal.type(line[2:])
            elif line in KEYS:
                terminal.press(line)
            else:
                terminal.expect(line)
        if block.lines and block.lines[-1] in KEYS:
            terminal.await_prompt()  # then the program is over, or stopped
    except Mismatch as mismatch:
        fail(at, str(mismatch))
        return False
    return True


def check_splice_pays(blocks, sys_seconds):
    """"Make it fast" takes the kernel's time with splice, then without."""
    if sys_seconds and sys_seconds[1] < 1.5 * sys_seconds[0]:
        fail(blocks[-1].at, f"not half as much again: {sys_seconds[1]} s without splice, {sys_seconds[0]} s with it")


def run_chapter(blocks, new_terminal):
    terminals = {}
    try:
        for block in blocks:
            if block.terminal() is None:
                fail(block.at, "a console block without **Terminal N** above it")
                return
            if not run_block(block, terminals, new_terminal):
                for number, terminal in sorted(terminals.items()):
                    failures.append(f"      terminal {number}: " + " / ".join(terminal.peek()[-6:]))
                return  # the rest of the chapter would only stumble over this
        for terminal in terminals.values():
            terminal.finish()
            check_splice_pays(blocks, terminal.sys_seconds)
    except Mismatch as mismatch:
        fail(blocks[-1].at, f"at the end of the chapter: {mismatch}")
    finally:
        for terminal in terminals.values():
            terminal.close()


def check_consoles(book, only):
    """Console blocks, with those that are not run: run as a reader would."""
    not_run = [block for block in book.blocks if block.reason]
    print(f"  console blocks that can't run here: {len(not_run)}" +
          "".join(f"\n    line {block.at}: {block.reason}" for block in not_run))
    if len(not_run) > NOT_RUN_MAX:
        fail(not_run[-1].at, f"more than {NOT_RUN_MAX} console blocks are not run")
    blocks = [block for block in book.blocks if block.language == "console" and not block.reason]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "CC") if name in os.environ}
    environment.update(LANG="C.UTF-8", NO_COLOR="1", TMPDIR=tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="walkthrough-") as folder:
        copy_repository(Path(folder))
        if only and only not in "Prologue":  # which begins with that
            subprocess.run(["make", "-j2"], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        for chapter in dict.fromkeys(block.chapter for block in blocks):
            started, theirs = time.monotonic(), [block for block in blocks if block.chapter == chapter]
            if only and only not in chapter:
                continue
            if missing := missing_tools(theirs):
                skip(chapter, "not installed or not allowed: " + ", ".join(sorted(missing)))
                continue
            if not enter_network() and (busy := busy_ports()):
                skip(chapter, f"this system allows no network namespace, and ports are taken: {busy}")
                continue
            run_chapter(theirs, lambda: Terminal(folder, environment, port_numbers()))
            print(f"  {chapter}: {len(theirs)} console blocks, {time.monotonic() - started:.1f} s")
    return len(blocks) + len(not_run)


# ---- names ----


class Repository:
    """What the names in the text may mean."""

    def __init__(self, book):
        files = [path for path in ROOT.rglob("*") if path.is_file() and
                 not re.match(r"(\.git|build|my-[^/]*)/", str(path.relative_to(ROOT)))]
        sources = [path.read_text(errors="replace") for path in files
                   if path.suffix in (".c", ".h", ".sh", ".mk", ".html") or path.name in ("Makefile", "up", "README.md")]
        self.text = "\n".join(sources)
        self.words = set(re.findall(r"\w+", self.text))
        makefiles = "\n".join(path.read_text() for path in [ROOT / "Makefile", *ROOT.glob("tests/*/*.mk")])
        self.targets = set(re.findall(r"^([a-z][\w-]*):", makefiles, re.M))
        self.targets |= {f"{name}{n}" for name in re.findall(r"\b([a-z-]+)%:", makefiles) for n in "0123"}
        self.make_variables = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", makefiles + (ROOT / "stage3-local/demo.sh").read_text() +
                                             (ROOT / "tests/natlab/up").read_text()))
        self.messages = [self.pattern(text) for text in re.findall(r'"((?:[^"\\\n]|\\.)*)"', self.text)
                         if len(re.sub(r"%[a-z.*\d]*|[^a-z]", "", text)) > 5]  # enough words to be told apart
        options = (ROOT / "common/options.c").read_text()
        self.options = {"--" + name for name in re.findall(r"'\w'|0, \"([\w-]+)\"", options) if name}
        self.options |= {"--" + name for name in re.findall(r"'\w', \"([\w-]+)\"", options)}
        self.options |= {"-" + letter for letter in re.findall(r"'(\w)', \"", options)}
        self.console = "\n".join(line for block in book.blocks for line in block.lines)
        self.ports = port_numbers()

    @staticmethod
    def pattern(text):
        text = re.split(r"%(?:\.\*|[.\d]*)(?:z?[sdufx])", text.replace('\\"', '"').replace("\\n", ""))
        return re.compile(".+?".join(map(re.escape, text)))

    def is_message(self, span):
        """Part of a line that a program says, or all of it."""
        for pattern in self.messages:
            if pattern.fullmatch(span) or (len(span) > 8 and span in pattern.pattern.replace("\\", "")):
                return True
        return False

    def knows(self, span):
        words = span.split()
        first = words[0]
        if first in FOREIGN:
            return True
        if first == "make":
            return all(word in self.targets or re.fullmatch(r"my-stage\d", word) or word.split("=")[0] in self.make_variables and "=" in word
                       for word in words[1:])
        if url := re.fullmatch(r"http://[\w.]+:(\d+)/?", span):
            return int(url[1]) in self.ports
        if first.startswith("-"):
            return first.split("=")[0] in self.options
        if re.fullmatch(r"[\w.-]+/[\w./-]*|[\w.-]+\.(c|h|md|sh|svg|py|html)|\.\w[\w-]*|Makefile", first) and len(words) == 1:
            name = first.rstrip("/")
            return (ROOT / name).exists() or any((ROOT / place / name).exists() for place in ["common", "tests", *STAGES]) \
                or name.startswith("my-stage")
        if re.fullmatch(r"\w+\(\d\)|0|[\d.:]+|\[::1\]|\^[CZ]|…|\$", first):
            return True
        if re.fullmatch(r"stage\d-\w+/\w+|(my-stage\d)/\w+", first):
            return all(self.knows(word) for word in words[1:] if word.startswith("-"))
        if re.fullmatch(r"[\w>.-]+(\(\))?", first) and len(words) == 1:
            return all(word in self.words for word in re.findall(r"\w+", first)) or span in self.console
        return span in self.text or self.is_message(span) or span in self.console


def check_names(book):
    """Names in the text: files, options, make targets, identifiers, log lines, ports."""
    repository, count = Repository(book), 0
    for found in re.finditer(r"`([^`]+)`", book.prose):
        count += 1
        if not repository.knows(found[1].replace("\n", " ")):
            fail(book.line_at(found.start()), f"there is no `{found[1]}`")
    for found in re.finditer(r"(?<![\w.:#])[56]\d{4}\b", book.prose):
        if int(found[0]) not in repository.ports | {65535}:
            fail(book.line_at(found.start()), f"no program uses port {found[0]}")
    for command in commands_of(book.blocks):
        for option in re.findall(r"stage\d-\w+/(?:server|client)[^|;&]*?\s(--[\w-]+)", command):
            if option not in repository.options:
                fail(1, f"there is no option {option}: {command}")
        for target in re.findall(r"^make(?: -\S+)* ([a-z][\w-]+)", command):
            if target not in repository.targets:
                fail(1, f"there is no target {target}: {command}")
    return count


def anchors(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    slugs = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
             for heading in re.findall(r"^#+ (.*)", text, re.M)]
    return set(slugs) | set(re.findall(r'id="([\w-]+)"', text))


def check_links(book):
    """Links and pictures: what they lead to is there."""
    count = 0
    for found in re.finditer(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", book.prose):
        count += 1
        picture, text, target = found.groups()
        path, _, anchor = target.partition("#")
        at = book.line_at(found.start())
        if re.match(r"https?://", target):
            continue
        place = ROOT / path if path else BOOK
        if not place.exists():
            fail(at, f"there is no {path}")
        elif anchor and anchor not in anchors(place):
            fail(at, f"there is no heading #{anchor} in {place.name}")
        if picture and len(text) < 40:
            fail(at, "a picture without a text that says what is on it")
    return count


def check_pictures(_book):
    """SVG files: well formed, and they say what is on them."""
    pictures = [path for path in ROOT.glob("*/*.svg")]
    for path in pictures:
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as error:
            fail(1, f"{path.name}: {error}")
            continue
        for name in ("title", "desc"):
            if not (root.findtext("{http://www.w3.org/2000/svg}" + name) or "").strip():
                fail(1, f"{path.name} has no <{name}>")
    return len(pictures)


def check_words(book):
    """Words: none is used before the place where it is explained, which the table of words names."""
    rows = re.findall(r"^\| ([^|]+?) \| \[([^\]]+)\]\(#[^)]*\) \|$", book.prose, re.M)
    listed = {form.strip() for row in rows for form in row[0].split(",")}
    for word in MUST_EXPLAIN:
        if word.strip() not in listed:
            fail(1, f"the table of words does not list: {word.strip()}")
    # Code, headings and links name what is to come: they may. Pictures' texts may not.
    text = re.sub(r"`[^`]*`|(?<!!)\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|^#.*", lambda m: " " * len(m[0]), book.prose, flags=re.M)
    for row in rows:
        forms = [form.strip() for form in row[0].split(",")]
        word = re.compile(r"\b(" + "|".join(re.escape(form).replace(r"\ ", r"\s+") for form in forms) + r")(?:s|es)?\b", re.I)
        bold = [m for m in re.finditer(r"\*\*([^*]+)\*\*", text) if word.fullmatch(m[1])]
        if len(bold) != 1:
            fail(1, f"\"{forms[0]}\" should be explained in one place, in bold, and is in {len(bold)}")
            continue
        chapter = book.chapter_at(bold[0].start())
        if not chapter.startswith(row[1]):
            fail(book.line_at(bold[0].start()), f"\"{forms[0]}\" is explained in \"{chapter}\", not in \"{row[1]}\"")
        for use in word.finditer(text, 0, bold[0].start()):
            fail(book.line_at(use.start()),
                 f"\"{use[0]}\" is used before it is explained (line {book.line_at(bold[0].start())})")
    return len(rows)


# What the text says of options, and what --help says.
SAID_OF_OPTIONS = [
    ("stage2-proxy/server", "--wait", r"After `--wait` seconds \((\d+),"),
    ("stage2-proxy/server", "--wait", r"If you were slower than (fifteen)\s+seconds"),
    ("stage3-local/server", "--spares", r"there are\s+always (two\s+dozen),"),
    ("stage3-local/server", "--spares", r"would hold (two\s+dozen) idle\s+connections"),
]
NUMBERS = {"two dozen": "24", "fifteen": "15"}


def lines_of(*patterns):
    return sum(len(path.read_text().splitlines()) for pattern in patterns for path in ROOT.glob(pattern))


def number_in(name, file, per=1):
    """The value of that constant of the code, in units of so many."""
    return int(re.search(rf"\b{name}\s*=\s*(\d+)\b", (ROOT / file).read_text())[1]) / per


def new_lines(before, after):
    """How long the difference of two stages is."""
    return sum(len(subprocess.run(["diff", "-u", ROOT / before / name, ROOT / after / name], stdout=subprocess.PIPE,
                                  text=True).stdout.splitlines()) for name in ("server.c", "client.c"))


def check_numbers(book):
    """Numbers: what the text says of sizes, limits and times is so, sizes give or take a tenth."""
    words = {"five": 5, "half": 0.5, "twenty": 20}
    claims = [  # what the text says; what is so; how far it may be off
        (r"has ([\d,]+) words", len(re.findall(r"[A-Za-z0-9][\w'-]*", book.prose)), 0.1),
        (r"words and ([\d,]+) commands", len(list(commands_of(book.blocks))), 0.1),
        (r"headers and the stages, which you read on the way, are ([\d,]+) lines",
         lines_of("common/*.h", "stage*/server.c", "stage*/client.c"), 0.1),
        (r"in `common/`, is ([\d,]+) lines", lines_of("common/*.c"), 0.1),
        (r"Together they are about ([\d,]+) lines", lines_of("common/bucket_memory.c", "common/pump.c", "common/relay.c"), 0.1),
        (r"in the kernel, up to ([\d,]+) of them here", number_in("BACKLOG", "common/listener.c"), 0),
        (r"looked after (twenty) times a second", 1000 / number_in("LOOK_AFTER_MS", "common/relay.c"), 0),
        (r"at most (\d+) bytes long", number_in("LINE_BYTES", "common/line.h"), 0),
        (r"the first line, for (five) seconds", number_in("FIRST_LINE_MS", "common/newcomers.h", 1000), 0),
        (r"holds at most (\d+) of them", number_in("NEWCOMERS_MAX", "common/newcomers.h"), 0),
        (r"The pause starts at (half) a", number_in("BACKOFF_FIRST_MS", "common/backoff.h", 1000), 0),
        (r"and doubles up to (\d+):", number_in("BACKOFF_MOST_MS", "common/backoff.h", 1000), 0),
        (r"turns it on, with (\d+) seconds", number_in("KEEPALIVE_MS", "common/sock.h", 1000), 0),
        (r"all that is new, ([\d,]+) lines", new_lines("stage1-control", "stage2-proxy"), 0.1),
        (r"session token\*\*: (\d+) hexadecimal digits", number_in("TOKEN_SIZE", "common/secret.h") - 1, 0),
        (r"a `pause` of (half) a second", number_in("PAUSE_MS", "stage2-proxy/client.c", 1000), 0),
        (r"with ([\d,]+) users at once, `test_no_request", number_in("CROWD", "tests/stages/spec_proxy.c"), 0),
        (r"as spares, up to (\d+) ", number_in("SURPLUS_MAX", "stage3-local/server.c"), 0),
    ]
    for pattern, value, tolerance in claims:
        said = re.search(pattern.replace(" ", r"\s+"), book.prose)
        if not said:
            fail(1, f"a claim that is checked is not in the text any more: {pattern}")
        elif abs((words.get(said[1]) or float(said[1].replace(",", ""))) - value) > tolerance * value:
            fail(book.line_at(said.start()), f"\"{said[0]}\": it is {value:g}")
    if max(lines_of("common/poller_epoll.c"), lines_of("common/poller_poll.c")) >= 110:
        fail(1, "a poller is more than about a hundred lines")
    return len(claims) + 1


def check_tunnel_claims(book):
    """Claims about stages 2 and 3: what options are if nobody says otherwise, who logs which steps, which lines there are,
    in tables and drawings, the NAT lab's guide."""
    for program, option, pattern in SAID_OF_OPTIONS:
        said = re.search(pattern, book.prose)
        text = subprocess.run([ROOT / program, "--help"], stdout=subprocess.PIPE, text=True).stdout
        default = re.search(rf" {option} .*\((\d+)\)$", text, re.M)
        if not said:
            fail(1, f"a claim that is checked is not in the text any more: {pattern}")
        elif not default or NUMBERS.get(" ".join(said[1].split()), said[1]) != default[1]:
            fail(book.line_at(said.start()), f"{option} is {default and default[1]}, not {said[1]}")

    said = re.search(r"server's log has steps ([\d, and]+), the client's ([\d, and]+):", book.prose.replace("\n", " "))
    shown = {who: set() for who in ("server", "client")}
    first, last = (book.prose[:book.prose.index(heading, book.prose.index("## Stage 2: "))].count("\n") for heading in
                   ("### Run it", "### Look underneath"))
    for line in (line for block in book.blocks if first < block.at < last for line in block.lines):
        if step := re.match(r"[\d:.]+ (server|client): step (\d)", line):
            shown[step[1]].add(step[2])
    for who, steps in zip(("server", "client"), said.groups() if said else ("", "")):
        if set(re.findall(r"\d", steps)) != shown[who]:
            fail(first, f"in stage 2, the {who}'s log has steps {sorted(shown[who])}, and the text says {steps or 'nothing'}")

    lines = set(re.findall(r"^\| `([^`]+)` \|", book.prose[book.prose.index("## Stage 2: "):], re.M))
    for place in ("README.md", "tests/stages/try-stage.sh"):
        text = (ROOT / place).read_text()
        for line in lines:
            if not re.search(rf"\b{line}(?! TOKEN| PORT)\b", text):
                fail(1, f"{place} does not know the line {line}")
    for picture in ("stage2-proxy/stage2.svg", "stage3-local/stage3.svg"):
        for drawn in re.findall(r'class="code[^>]*>((?:hello|welcome|create_proxy|proxy|start)\b[^<]*)<', (ROOT / picture).read_text()):
            if drawn not in lines:
                fail(1, f"{picture} shows a line that no table has: {drawn}")

    guide = (ROOT / "tests/natlab/up").read_text()
    for name, value in [("routers", "router (NAT, firewall) $PUBLIC"), *re.findall(r"^([A-Z_]+)=([\d.]+) ", guide, re.M),
                        ("HOME_ADDRESS", "192.168.1.2")]:
        guide = guide.replace("$" + name, value)
    for block in (block for block in book.blocks if block.lines[:1] == ["$ sudo make nat-lab"]):
        find_lines(unskipped(block)[1:-1], guide.split("\n"), "what tests/natlab/up says", block.at)
    return len(SAID_OF_OPTIONS) + 7


def check_exercises(book):
    """Exercises: the check of each succeeds with the model solution, and fails without it."""
    count, wrong = wrong_exercises(BOOK.read_text())
    for what in wrong:
        fail(1, what)
    return count


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else None
    book = Book(BOOK.read_text())
    started, passed, bad = time.monotonic(), 0, []
    for check in (check_excerpts, check_diffs, check_functions, check_names, check_links, check_pictures, check_words, check_numbers,
                  check_tunnel_claims, check_exercises, check_consoles):
        before = len(failures)
        count = check(book, only) if check is check_consoles else check(book)
        print(f"  {count:4} {check.__doc__.split(': ')[0].lower()}")
        passed += len(failures) == before
        bad += [check.__name__] if len(failures) > before else []
    words = len(re.findall(r"[A-Za-z0-9][\w'-]*", book.prose))
    print(f"  {words} words, {time.monotonic() - started:.1f} s")
    print("\n".join(failures), end="\n" if failures else "")
    if passed:
        print(f"[  PASSED  ] {passed} test(s).")
    if bad:
        print(f"[  FAILED  ] {len(bad)} test(s), listed below:")
        print("\n".join(f"[  FAILED  ] {name}" for name in bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
