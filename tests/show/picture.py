"""Draws rows as an SVG picture, for light and dark backgrounds, in the style of the stages' own drawings."""
import html

from rows import COLUMNS

WIDTH, ROW, TOP = 860, 24, 84
PLACES = {3: [130, 450, 800], 4: [110, 300, 620, 800]}  # of the life lines, by how many there are
TEXT = '<text x="{x}" y="{y}" class="{style}">{text}</text>'

STYLE = """
    text { font: 14px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #20242c }
    .paper { fill: #fbfaf7; stroke: #d9d3c7 }
    .gap { fill: #fbfaf7 }
    .name { font-weight: 600 }
    .small { font-size: 12px; fill: #5a616d }
    .code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px }
    .mid { text-anchor: middle }
    .life { stroke: #a9a294; stroke-width: 1.2 }
    .arrow { fill: none; stroke: #20242c; stroke-width: 1.6 }
    .open { stroke-width: 3.2 }
    .payload { stroke: #14766f }
    .end { stroke-dasharray: 6 5 }
    .reset, .refused, .fault { stroke: #c24a1e }
    .wrong { fill: #c24a1e }
    .tip, .step { fill: #20242c }
    .number { fill: #ffffff; font-weight: 600; font-size: 12px; text-anchor: middle }
    .scene { font-style: italic }
    @media (prefers-color-scheme: dark) {
      text { fill: #e9e6df }
      .paper { fill: #1b1f26; stroke: #3a414d }
      .gap { fill: #1b1f26 }
      .small { fill: #a4abb6 }
      .life { stroke: #5f6672 }
      .arrow { stroke: #e9e6df }
      .payload { stroke: #4cc4b8 }
      .reset, .refused, .fault { stroke: #f08a5d }
      .wrong { fill: #f08a5d }
      .tip, .step { fill: #e9e6df }
      .number { fill: #14171c }
    }"""


def draw(stage_number, rows, title):
    columns = COLUMNS[stage_number]
    places = PLACES[len(columns)]
    body, y = [], TOP
    for row in rows:
        body += draw_row(row, places, y)
        y += ROW * (len(wrap(row.text)) if row.kind in ("scene", "fault") else 1)
    height = y + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title">',
        f'<title id="title">{html.escape(title)}</title>',
        f"<style>{STYLE}\n</style>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'markerUnits="userSpaceOnUse" orient="auto"><path class="tip" d="M0 0L10 5L0 10z"/></marker></defs>',
        f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
        text(20, 28, "name", title),
    ]
    for name, place in zip(columns, places):
        lines.append(text(place, 58, "name mid", name))
        lines.append(f'<path class="life" d="M{place} 66V{height - 10}"/>')
    return "\n  ".join(lines + body) + "\n</svg>\n"


def wrap(words, most=105):
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


def text(x, y, style, words):
    return TEXT.format(x=x, y=y, style=style, text=html.escape(words))


def draw_row(row, places, y):
    if row.kind in ("scene", "fault"):
        style = "scene" if row.kind == "scene" else "wrong"
        lines = wrap(row.text)
        gap = f'<rect class="gap" x="10" y="{y - ROW // 2}" width="{WIDTH - 20}" height="{ROW * len(lines)}"/>'
        return [gap] + [text(20, y + ROW * n + 4, style, line) for n, line in enumerate(lines)]
    drawn = [text(20, y + 4, "small code", f"{row.seconds:.3f}")]
    if row.kind == "waits":
        drawn.append(text(places[1] + 15, y + 4, "small", row.text))
        at = places[1]
    else:
        left, right = places[row.left], places[row.right]
        begin, end = (left, right - 2) if row.forward else (right, left + 2)
        drawn.append(f'<path class="arrow {row.kind}" d="M{begin} {y + 4}H{end}" marker-end="url(#tip)"/>')
        most = int((right - left - 30) / 7.3)
        drawn.append(text((left + right) // 2, y - 1, "code mid", row.text[:most]))
        at = begin
    if row.step:
        drawn.append(f'<circle class="step" cx="{at}" cy="{y + 2}" r="9"/>')
        drawn.append(text(at, y + 6, "number", str(row.step)))
    return drawn
