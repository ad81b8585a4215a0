"""What may be said on which connection: DESIGN's protocol, seen from a tap.

expectation() answers for each line that comes: None, it may be said here and now; or what was expected instead.
"""
import ipaddress
import re

TOKEN = "[0-9a-fA-F]{32}"
WELCOMES = {1: "`welcome`", 2: "`welcome TOKEN`", 3: "`welcome TOKEN PORT`"}


def expectation(stage, wire, up, kind, line, token):
    """kind is how the line came: line, long (more than 127 bytes) or piece (an end before its newline)."""
    if kind == "long":
        return "a line of at most 127 bytes with its newline"
    if kind == "piece":
        return "a newline at the end of the line"
    said = {"control": (control_down, control_up), "proxy": (proxy_down, proxy_up)}[wire.kind][up]
    return said(stage, wire, line, token)


def control_up(stage, wire, line, token):
    """hello [SECRET], then ping"""
    if not wire.lines[True]:
        right = line == "hello" or (stage == 3 and line.startswith("hello "))
        return None if right else "`hello`"
    if not welcomed(wire):
        return f"nothing before {WELCOMES[stage]}"
    return None if line == "ping" else "`ping`"


def control_down(stage, wire, line, token):
    """welcome | busy | denied, then pong and create_proxy"""
    if not wire.lines[True]:
        return "nothing before `hello`"
    if not wire.lines[False]:
        return None if is_answer(stage, line) else f"{WELCOMES[stage]} or `busy`"
    if not welcomed(wire):
        return f"nothing more after `{wire.lines[False][0]}`"
    if line == "pong":
        pings = wire.lines[True].count("ping")
        return None if wire.lines[False].count("pong") < pings else "a `pong` for each `ping`, and no more"
    if stage >= 2:
        return None if line == "create_proxy" else "`pong` or `create_proxy`"
    return "`pong`"


def is_answer(stage, line):
    if line == "busy" or (stage == 3 and line == "denied"):
        return True
    pattern = {1: "welcome", 2: f"welcome {TOKEN}", 3: rf"welcome {TOKEN} \d+"}[stage]
    return re.fullmatch(pattern, line) is not None


def welcomed(wire):
    return bool(wire.lines[False]) and wire.lines[False][0].startswith("welcome")


def token_of(line):
    found = re.fullmatch(rf"welcome ({TOKEN}).*", line)
    return found[1] if found else None


def proxy_up(stage, wire, line, token):
    """proxy TOKEN"""
    return None if token and line == f"proxy {token}" else "`proxy TOKEN`, with the TOKEN of `welcome`"


def proxy_down(stage, wire, line, token):
    """start ADDRESS PORT"""
    words = line.split(" ")
    if not wire.lines[True]:
        return "nothing before `proxy TOKEN`"
    if len(words) == 3 and words[0] == "start" and is_address(words[1]) and words[2].isdecimal():
        return None
    return "`start ADDRESS PORT`"


def is_address(text):
    try:
        ipaddress.ip_address(text)
        return True
    except ValueError:
        return False
