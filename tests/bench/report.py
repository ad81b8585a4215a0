"""What a benchmark found, and how it is shown: tables for eyes and for README, and the CSV that `plot` draws."""
import csv
import sys
from statistics import median


def number(value):
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or not value else f"{value:.1g}"


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def aligned(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths)))
                     for row in rows)


def markdown(rows):
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- | --- |" + " ---: |" * (len(rows[0]) - 2))
    return "\n".join(lines)


def write_csv(path, head, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


class Results:
    """Figures by contestant, row and round. rows: {name: (unit, which is better)}."""

    def __init__(self, rows):
        self.rows, self.values = rows, {}

    def add(self, name, row, round_number, value):
        self.values.setdefault((name, row), {})[round_number] = value

    def per_round(self, name, row):
        return self.values.get((name, row), {})

    def ratio(self, row, name, other):
        """The median of the rounds' own ratios."""
        ours, theirs = self.per_round(name, row), self.per_round(other, row)
        both = [ours[r] / theirs[r] for r in ours if theirs.get(r)]
        return median(both) if both else None

    def cell(self, name, row):
        values = list(self.per_round(name, row).values())
        if not values:
            return "-" if name == "direct" else "failed"
        relative = None if name == "direct" else self.ratio(row, name, "direct")
        return number(median(values)) + (f" ({relative:.2f})" if relative is not None else "")

    def table(self, tunnels):
        head = ["", "unit", *(tunnel.name for tunnel in tunnels)]
        body = [[row, unit, *("not here" if t.missing() else self.cell(t.name, row) for t in tunnels)]
                for row, (unit, _) in self.rows.items()]
        return [head, *body]

    def standing(self, tunnels, noise=0):
        """Where a peer is ahead of us, round by round, by more than the noise."""
        behind = []
        rows = [row for row in self.rows if self.per_round("ngrok--", row)]
        for row in rows:
            for tunnel in tunnels:
                if tunnel.name in ("direct", "ngrok--"):
                    continue
                r = self.ratio(row, "ngrok--", tunnel.name)
                if r is not None and (r < 1 - noise if self.rows[row][1] == "more" else r > 1 + noise):
                    behind.append(f"  {row}: {r:.2f} of {tunnel.name}")
        if not rows:
            return "ngrok-- was not measured"
        ahead = len(rows) - len({line.split(":")[0] for line in behind})
        return "\n".join([f"ngrok-- is ahead of every other on {ahead} of {len(rows)} rows", *behind])

    def lines(self):
        """For a CSV: contestant, row, unit, better, round, value."""
        return [[name, row, *self.rows[row], r, f"{value:.6g}"] for row in self.rows
                for (name, of), values in self.values.items() if of == row for r, value in sorted(values.items())]
