"""The sample app's page in a real browser, through the tunnel: see ./run.

The browser is driven through chromedriver, which takes commands as JSON over HTTP (W3C WebDriver).
Nothing here sleeps and hopes: every step waits for what it wants to see, up to a deadline.
"""
import base64
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request

OUT = os.environ.get("OUT", "")
PICTURES = pathlib.Path("build/browser")
DEADLINE = 30  # seconds that anything may take; far more than it should


class Program:
    """A program that runs in a process group of its own; its output can be waited for."""

    def __init__(self, *command):
        self.name = pathlib.Path(command[0]).name
        self.lines = []
        self.news = threading.Condition()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, errors="replace",
                                        start_new_session=True)
        running.append(self)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line)
                self.news.notify_all()

    def await_line(self, pattern):
        """What the pattern's group is in the first line that it matches."""
        def found():
            return next((m for m in map(re.compile(pattern).search, self.lines) if m), None)
        with self.news:
            match = self.news.wait_for(found, DEADLINE)
        if not match:
            raise AssertionError(f"{self.name} never said “{pattern}”, but:\n{''.join(self.lines)}")
        return match.group(1)

    def end(self, how=signal.SIGTERM):
        """Ends it and all that it started, and waits until it is gone."""
        if self in running:
            running.remove(self)
            os.killpg(self.process.pid, how)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


running = []


class Browser:
    def __init__(self, profile):
        chromedriver = Program(os.environ["CHROMEDRIVER"], "--port=0")
        port = chromedriver.await_line(r"started successfully on port (\d+)")
        self.url = f"http://127.0.0.1:{port}/session"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--disable-dev-shm-usage", "--no-proxy-server", f"--user-data-dir={profile}"]
        options = {"binary": os.environ["CHROMIUM"], "args": flags}
        session = self.command("POST", "", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self.url += "/" + session["sessionId"]

    def command(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method,
                                         data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as problem:
            value = json.load(problem)["value"]
            raise AssertionError(f"{path}: {value['message'].splitlines()[0]}") from None

    def open(self, url):
        self.command("POST", "/url", {"url": url})

    def run(self, script):
        return self.command("POST", "/execute/sync", {"script": script, "args": []})

    def text(self, selector):
        """The text as a person sees it."""
        return self.run(f"return document.querySelector('{selector}').innerText.replace(/\\u00a0/g, ' ')")

    def click(self, selector):
        element = self.command("POST", "/element", {"using": "css selector", "value": selector})
        self.command("POST", f"/element/{next(iter(element.values()))}/click", {})

    def devtools(self, name, **parameters):
        return self.command("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def look_like(self, width, height, phone, scheme):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone,
                      deviceScaleFactor=2 if phone else 1)
        self.devtools("Emulation.setEmulatedMedia",
                      features=[{"name": "prefers-color-scheme", "value": scheme},
                                {"name": "prefers-reduced-motion", "value": "reduce"}])

    def picture(self, path):
        """Of the whole page, not only of what fits into the window."""
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1})
        path.write_bytes(base64.b64decode(shot["data"]))


def wait_until(what, condition):
    """Asks again and again until `condition` returns something true; that."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {DEADLINE} s in vain: {what}")
        time.sleep(0.02)
    return value


def matches(pattern, text):
    match = re.search(pattern, text)
    if not match:
        raise AssertionError(f"“{pattern}” is not in “{text[:300]}”")
    return match


def main():
    app = Program(f"{OUT}stage3-local/app", "0")
    app_port = app.await_line(r"listening on port (\d+)")
    server = Program(f"{OUT}stage3-local/server", "-b", "127.0.0.1", "-c", "0", "-u", "0", "-x", "0")
    public = server.await_line(r"listening for users on port (\d+)")
    control = server.await_line(r"listening for the client on port (\d+)")
    proxy = server.await_line(r"listening for proxy connections on port (\d+)")
    client_command = [f"{OUT}stage3-local/client", "-c", control, "-x", proxy, f"127.0.0.1:{app_port}", "127.0.0.1"]
    client = Program(*client_command)
    url = f"http://localhost:{public}/"

    def head(port):
        return urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/download", method="HEAD")).headers

    def ticks():
        return int(matches(r"^([\d,]+) ticks", browser.text("#clock-result")).group(1).replace(",", ""))

    def ticked(times, since=0):
        return lambda: browser.text("#clock-result")[:1].isdigit() and ticks() >= since + times

    def press(button, pattern):
        """Clicks, and waits for the result, which must look like this."""
        browser.click("#" + button)
        wait_until(f"the result of {button}", lambda: browser.run(
            f"return ['ok', 'failed'].includes(document.querySelector('#{button}-result').dataset.state)"))
        return matches(pattern, browser.text(f"#{button}-result"))

    def page_says_what_it_is():
        browser.open(url)
        matches("through a tunnel", browser.text("h1"))
        assert "did not" not in browser.text("h1")
        matches(rf"localhost:{app_port} only", browser.text("#lead"))
        assert browser.run("return document.querySelectorAll('figure .badge').length") == 6
        assert browser.run("return document.querySelectorAll('figure li').length") == 6

    def the_request_is_shown():
        text = browser.text("#request")
        matches(r"^GET / HTTP/1\.1\n", text)
        matches(rf"\nHost: localhost:{public}\n", text)
        matches(r"\nUser-Agent: .*Chrome", text)

    def a_request_cannot_bring_markup():
        request = urllib.request.Request(url, headers={"X-Evil": "<script>&"})
        page = urllib.request.urlopen(request, timeout=DEADLINE).read().decode()
        matches("X-Evil: &lt;script>&amp;", page)

    def the_clock_ticks():
        wait_until("three ticks", ticked(3))
        matches(r"^\d\d:\d\d:\d\d$", browser.text("#clock"))

    def the_download_arrives():
        sent = head(app_port)  # as the app itself says, past the tunnel
        got = press("download", r"^([\d,]+) bytes, checksum ([0-9a-f]{8}), ✓")
        assert got.group(1).replace(",", "") == sent["Content-Length"] == "10000000", got.group(0)
        assert got.group(2) == sent["X-Checksum"], got.group(0)

    def the_upload_comes_back():
        press("upload", r"^1,000,000 bytes, checksum [0-9a-f]{8}, ✓")

    def the_slow_answer_comes():
        seconds = float(press("slow", r"✓ answered after ([\d.]+) s").group(1))
        assert seconds >= 3, seconds

    def ten_at_once_all_come():
        press("ten", r"✓ 10 answers over \d+ connections")
        assert browser.run("return document.querySelectorAll('#ten-bars .done').length") == 10

    def the_clock_survives_the_client():
        before = ticks()
        client.end(signal.SIGKILL)
        wait_until("the clock is lost", lambda: "lost" in browser.run("return document.querySelector('#clock').className"))
        Program(*client_command)
        wait_until("the clock goes on", ticked(3, before))
        matches("lost and regained", browser.text("#clock-result"))

    def pictures_are_taken():
        PICTURES.mkdir(parents=True, exist_ok=True)
        for device, width, height, phone in ("desktop", 1280, 900, False), ("phone", 360, 780, True):
            for scheme in "light", "dark":
                browser.look_like(width, height, phone, scheme)
                wide = browser.run("return document.documentElement.scrollWidth")
                assert wide <= width, f"on a {device} the page is {wide} wide, more than {width}"
                browser.picture(PICTURES / f"{device}-{scheme}.png")

    def past_the_tunnel_it_says_so():
        browser.open(f"http://localhost:{app_port}/")
        matches("did not come through", browser.text("h1"))

    checks = [page_says_what_it_is, the_request_is_shown, a_request_cannot_bring_markup, the_clock_ticks,
              the_download_arrives, the_upload_comes_back, the_slow_answer_comes, ten_at_once_all_come,
              the_clock_survives_the_client, pictures_are_taken, past_the_tunnel_it_says_so]
    failed = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        for check in checks:
            start = time.monotonic()
            try:
                check()
                result = "ok    "
            except Exception:
                result = "FAILED"
                failed += 1
                traceback.print_exc()
            print(f"{result} {check.__name__.replace('_', ' ')} ({time.monotonic() - start:.1f} s)", flush=True)
        browser.command("DELETE", "")
        while running:
            running[-1].end()
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


try:
    sys.exit(main())
finally:
    while running:
        running[-1].end()
