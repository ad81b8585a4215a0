"""Draws rows as text, 80 columns wide: time downwards, who takes part side by side."""
import textwrap

from rows import COLUMNS

WIDTH = 80
PLACES = {3: [10, 43, 78], 4: [10, 29, 59, 78]}  # of the life lines, by how many there are
FILLS = {"open": "=", "line": "-", "long": "-", "piece": "-", "payload": ".", "end": "- ", "reset": "x ", "refused": "x "}
COLORS = {"open": "1", "line": "36", "end": "2", "reset": "31", "refused": "31", "scene": "3", "fault": "1;31"}
LEGEND = """
   ===> a connection opens    ---> a line of the protocol     ....> payload
   - -> an end (FIN)          x x> a reset                    #2    the second"""


def draw(stage_number, rows, with_color):
    columns = COLUMNS[stage_number]
    places = PLACES[len(columns)]
    lines = [head(columns, places)]
    for row in rows:
        for line in draw_row(row, places):
            color = COLORS.get(row.kind) if with_color else None
            lines.append(f"\033[{color}m{line}\033[0m" if color else line)
    return "\n".join(lines + [LEGEND])


def head(columns, places):
    line = list("seconds".ljust(WIDTH))
    for name, place in zip(columns, places):
        start = min(max(place - len(name) // 2, 9), WIDTH - len(name))
        line[start : start + len(name)] = name
    return "".join(line).rstrip()


def draw_row(row, places):
    if row.kind == "scene":
        lines = textwrap.wrap(row.text, WIDTH - 3, initial_indent="-- ", subsequent_indent="   ")
        return [life_lines(places).rstrip(), *lines]
    if row.kind == "fault":
        return textwrap.wrap(row.text, WIDTH - 3, initial_indent="!! ", subsequent_indent="   ")
    line = list(life_lines(places))
    line[0:9] = f"{row.seconds:.3f}"[:5] + (f" ({row.step})" if row.step else "    ")
    if row.kind == "waits":
        server = places[1]
        text = "* " + row.text
        line[server : server + len(text)] = text
    else:
        left, right = places[row.left], places[row.right]
        line[left + 1 : right] = shaft(row, right - left - 1)
    return ["".join(line).rstrip()]


def life_lines(places):
    line = [" "] * WIDTH
    for place in places:
        line[place] = "|"
    return "".join(line)


def shaft(row, width):
    """The arrow between two life lines, with its text in the middle."""
    text = row.text[: width - 5].strip()
    before = (width - len(text) - 2) // 2
    after = width - len(text) - 2 - before
    fill = FILLS[row.kind]
    line = list((fill[::-1] * width)[-before:] + f" {text} " + (fill * width)[:after])
    if row.forward:
        line[-1] = ">"
    else:
        line[0] = "<"
    return line
