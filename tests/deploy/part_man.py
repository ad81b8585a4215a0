"""Manual pages: in good form, and with the options of --help"""
import re
import subprocess

from hosts import CLIENT, DEPLOY, SERVER, check, need, output

OPTION = re.compile(r"(?:-(\w), )?--([a-z][a-z-]*)(?: ([A-Z]+))?")


def options_of(text):
    """(letter, name, argument) of each option that stands at the beginning of a line, where text is deeper in."""
    found = [OPTION.match(line.strip()) for line in text.splitlines() if re.match(r" {2,6}-", line)]
    return [match.groups() for match in found if match]


def one_page(page, program):
    # A page that ours refer to may be missing on this machine; ours may not: mandoc looks for them in its folder, too.
    said = subprocess.run(["mandoc", "-Tlint", page], capture_output=True, text=True, cwd=DEPLOY)
    faults = [line for line in (said.stdout + said.stderr).splitlines() if "mandoc.db" not in line and
              not ("referenced manual not found" in line and "Xr ngrok" not in line)]  # fmt: skip
    check(not faults, f"{page}: mandoc -Tlint finds nothing", "; ".join(faults))
    rendered = re.sub(".\b", "", output("mandoc", "-Tascii", f"{DEPLOY}/{page}"))
    helped = options_of(output(program, "--help"))
    paged = options_of(rendered)
    check(len(helped) > 5 and paged == helped, f"{page}: the options of --help, in the same order",
          f"differ: {set(paged) ^ set(helped)}" if paged != helped else f"{len(paged)} options")  # fmt: skip
    for heading in ("EXAMPLES", "FILES", "EXIT STATUS", "SIGNALS", "ENVIRONMENT"):
        check(f"\n{heading}\n" in rendered, f"{page}: {heading}")


def run():
    need("mandoc")
    one_page("ngrok--.1", CLIENT)
    one_page("ngrok--d.8", SERVER)
