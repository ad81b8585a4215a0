"""From what has happened to the rows of a ladder: for ladder.py, which draws them as text, and picture.py."""
from stage import shorten

COLUMNS = [
    ["user", "client", "server"],
    ["second client", "server", "client"],
    ["users", "server", "client"],
    ["user", "server", "client", "local app"],
]
SIDES = {  # who dials, who listens
    "connection": ("user", "client"),
    "target": ("client", "server"),
    "control": ("client", "server"),
    "public": ("user", "server"),
    "proxy": ("client", "server"),
    "private": ("client", "local app"),
}


class Row:
    """kind: open, line, payload, end, reset, refused: an arrow between two columns. scene, waits, fault: a text."""

    def __init__(self, seconds, step, kind, text, left=None, right=None, forward=True):
        self.seconds, self.step, self.kind, self.text = seconds, step, kind, text
        self.left, self.right, self.forward = left, right, forward  # columns, and whether the arrow goes to the right
        self.size = 0


def size_text(size):
    return f"{size} B" if size < 1000 else f"{size / 1000:.1f} kB"


def first_words(text):
    return shorten(text.strip("\r\n").split("\r\n")[0].split("\n")[0])


def rows_of(stage):
    rows, pieces = [], {}  # pieces: the row of the payload that a wire tells last
    many = {kind: len(tap.wires) > 1 for kind, tap in stage.taps.items()}
    for seconds, step, what in stage.account:
        if isinstance(what, tuple):
            rows.append(Row(seconds, step, *what))
            continue
        last, up = pieces.get(what.wire, (None, None))
        if what.kind == "payload" and up == what.up:  # more of the same
            last.size += what.size
            last.text = f"{last.number}{size_text(last.size)} {last.words}"
            continue
        row = arrow(stage, seconds, step, what, many[what.wire.kind])
        if what.kind == "payload":
            pieces[what.wire] = row, what.up
        elif what.kind not in ("end",):
            pieces.pop(what.wire, None)
        rows.append(row)
    return rows


def arrow(stage, seconds, step, event, is_one_of_many):
    wire = event.wire
    number = f"#{wire.number} " if is_one_of_many else ""
    columns = COLUMNS[stage.number]
    caller, callee = (columns.index(name) for name in sides_of(stage, wire, columns))
    left, right = min(caller, callee), max(caller, callee)
    row = Row(seconds, step, event.kind, "", left, right, (caller < callee) == event.up)
    row.number, row.size, row.words = number, event.size, first_words(event.text)
    row.text = number + {
        "open": {"target": "to TARGET"}.get(wire.kind, wire.kind),
        "payload": f"{size_text(event.size)} {row.words}",
        "line": shorten(event.text),
        "long": f"{size_text(event.size)} {row.words}",
        "piece": f"{size_text(event.size)} {row.words}",
        "end": "end",
        "reset": "reset",
        "refused": "refused",
    }[event.kind]
    return row


def sides_of(stage, wire, columns):
    for name in SIDES[wire.kind]:
        if name == "user" and "users" in columns:
            name = "users"
        if name == "client" and wire.kind == "control" and wire.number > 1 and "second client" in columns:
            name = "second client"
        yield name
