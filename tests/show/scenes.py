"""The four scenes. Each starts its stage's programs behind taps, plays the user, and awaits what must come.

Up is from the one who dials: on the control and proxy connections, from the client to the server.
"""
import os

UP, DOWN = True, False
ALL = 1 << 30  # lines: all that comes is lines
ANY, HERE = "0", "127.0.0.1"
HEARTBEAT = "0.5"


async def stage0(stage):
    """hello through the pipe"""
    server = await stage.start("server", "-p", ANY, "-b", HERE)
    target = stage.tap("target", await stage.port(server, "connections"))
    client = await stage.start("client", "-p", ANY, "-b", HERE, f"{HERE}:{target}")
    stage.tap("connection", await stage.port(client, "connections"))

    stage.note("scene", "A user connects, says hello, and says no more.")
    user, target = await say_hello(stage, 1)
    user.end()
    await ends_on_all(stage, user.wire, target, "TARGET")

    stage.note("scene", "Another one resets its connection.")
    user, target = await say_hello(stage, 2)
    await user.reset()
    await stage.until(lambda: target.was_reset, "the user's reset is passed on to TARGET as a reset")


async def say_hello(stage, number):
    user = await stage.user("connection")
    target = await stage.opens("target", "the client dials its TARGET for the user", number)
    await user.say("hello")
    await stage.hears(target, UP, "hello", "what the user says reaches TARGET")
    await stage.hears(target, DOWN, "hello", "the server sends back what it gets")
    await stage.hears(user.wire, DOWN, "hello", "the echo reaches the user")
    return user, target


async def ends_on_all(stage, public, inner, where):
    """The user has ended its direction: that goes all the way, and comes back."""
    await stage.ends(inner, inner.kind == "target", f"the user's end reaches {where} as an end")
    await stage.ends(public, DOWN, "the other direction ends as well, and the user is told so")
    await stage.is_over(inner, f"the connection to {where} is over when both directions have ended")


async def start_client(stage, *more, title=None, number=1):
    control = stage.taps["control"].port
    client = await stage.start("client", "-c", str(control), *more, HERE, title=title)
    wire = await stage.opens("control", "the client opens the control connection", number)
    await stage.says(wire, UP, "hello", "the client says `hello`")
    return client, wire


async def stage1(stage):
    """hello, three heartbeats, a second client"""
    server = await stage.start("server", "-c", ANY, "-b", HERE, "--heartbeat", HEARTBEAT)
    stage.tap("control", await stage.port(server, "the client"), up_lines=ALL, down_lines=ALL)
    stage.note("waits", "waits for the client", step=1)

    client, control = await start_client(stage, "--heartbeat", HEARTBEAT)
    await stage.says(control, DOWN, "welcome", "the server answers `hello` with `welcome`")
    for count in 1, 2, 3:
        await stage.says(control, UP, "ping", f"the client says `ping` once in a heartbeat, {HEARTBEAT} s", count)
        await stage.says(control, DOWN, "pong", "the server answers `ping` with `pong`", count)

    stage.note("scene", "A second client comes while the first is there.")
    _, second = await start_client(stage, "--heartbeat", HEARTBEAT, title="second client", number=2)
    await stage.says(second, DOWN, "busy", "the server tells the second client `busy`")
    await stage.is_over(second, "the connection is closed after `busy`")
    stage.note("scene", "The first client is stopped: the second will be welcome when it comes back.")
    client.stop()
    await stage.is_over(control, "the first client closes the control connection when it is stopped")
    number = 3
    while True:  # it may have come back too early, and been told busy once more
        third = await stage.opens("control", "the second client comes back", number)
        await stage.until(lambda: third.lines[DOWN] or third.over, "an answer to `hello`")
        if third.lines[DOWN] != ["busy"]:
            break
        number += 1
    await stage.says(third, DOWN, "welcome", "the server answers `hello` with `welcome`")
    await stage.says(third, DOWN, "pong", "the server answers `ping` with `pong`")


async def start_server(stage, *more):
    server = await stage.start("server", "-c", ANY, "-u", ANY, "-x", ANY, "-b", HERE, *more)
    stage.tap("control", await stage.port(server, "the client"), up_lines=ALL, down_lines=ALL)
    stage.tap("public", await stage.port(server, "users"))
    start = 1 if stage.number == 3 else 0
    stage.tap("proxy", await stage.port(server, "proxy connections"), up_lines=1, down_lines=start)
    stage.note("waits", "waits for the client", step=1)


async def proxy_comes(stage, control, number):
    """The answer to the create_proxy of that number."""
    await stage.says(control, DOWN, "create_proxy", "the server says `create_proxy`", number)
    proxy = await stage.opens("proxy", "the client opens a proxy connection on `create_proxy`", number)
    await stage.says(proxy, UP, "proxy", "the client says `proxy TOKEN` on it")
    return proxy


async def stage2(stage):
    """two users at once, one of them before the client is there"""
    await start_server(stage)
    stage.note("scene", "A user comes before the client, and says something.")
    first = await stage.user()
    await first.say("I am first.")
    await stage.hears(first.wire, UP, "I am first.", "what the user says")

    stage.note("scene", "The client comes.")
    _, control = await start_client(stage, "-x", str(stage.taps["proxy"].port))
    await stage.says(control, DOWN, "welcome", "the server answers `hello` with `welcome TOKEN`")
    proxy = await proxy_comes(stage, control, 1)
    await echo(stage, proxy, first, "I am first.")

    stage.note("scene", "Another user comes while the first is still there.")
    second = await stage.user()
    other = await proxy_comes(stage, control, 2)
    await second.say("And I second.")
    await echo(stage, other, second, "And I second.")

    stage.note("scene", "Both have said everything.")
    for user, inner in (first, proxy), (second, other):
        user.end()
        await ends_on_all(stage, user.wire, inner, "the client")


async def echo(stage, proxy, user, text):
    await stage.hears(proxy, DOWN, text, "what the user says reaches the client on the proxy connection")
    await stage.hears(proxy, UP, text, "the client echoes what comes there")
    await stage.hears(user.wire, DOWN, text, "the echo reaches the user")


REQUEST = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def stage3(stage):
    """a page from the sample app, with spares"""
    app = os.path.join(os.environ.get("OUT", ""), "stage3-local", "app")
    app = await stage.start("app", "0", program=app, title="local app")
    local = stage.tap("private", await stage.port(app, ""))
    await start_server(stage, "--spares", "2")
    proxy_port = str(stage.taps["proxy"].port)
    _, control = await start_client(stage, "-x", proxy_port, f"{HERE}:{local}")
    await stage.says(control, DOWN, "welcome", "the server answers `hello` with `welcome TOKEN PORT`")
    for number in 1, 2:
        await proxy_comes(stage, control, number)

    stage.note("scene", "A user comes. There are spares: it need not wait for a proxy connection.")
    user = await stage.user()
    proxy = await stage.until(lambda: started(stage), "the server says `start ADDRESS PORT` on a proxy connection")
    private = await stage.opens("private", "the client dials the local app on `start`")
    await user.say(REQUEST)
    await stage.hears(private, UP, REQUEST, "the user's request reaches the local app")
    await stage.ends(private, DOWN, "the sample app answers, and ends its direction")
    for wire, up, whom in (proxy, UP, "the server"), (user.wire, DOWN, "the user"):
        await stage.ends(wire, up, f"the local app's end reaches {whom} as an end")
        if wire.payload[up] != private.payload[DOWN]:
            stage.fail(f"expected: the local app's {len(private.payload[DOWN])} bytes reach {whom}; "
                       f"came: {len(wire.payload[up])} bytes", [])
    user.end()
    await stage.is_over(private, "the user's end reaches the local app as an end")
    await proxy_comes(stage, control, 3)


def started(stage):
    return next((wire for wire in stage.taps["proxy"].wires if wire.lines[DOWN]), None)


SCENES = [stage0, stage1, stage2, stage3]
