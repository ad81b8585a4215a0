"""The units under a real systemd"""
import os
import time

from container import Container
from hosts import await_, check, folder

SERVER, CLIENT = "ngrok--d@web", "ngrok--@web"
UNIX_APP = """import socket
s = socket.socket(socket.AF_UNIX); s.bind("/run/app.sock"); s.listen(8)
import os; os.chown("/run/app.sock", 0, 4242); os.chmod("/run/app.sock", 0o660)
while True:
    c, _ = s.accept(); c.recv(1000)
    c.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nby a Unix socket"); c.close()
"""


def prepare(box):
    """What an administrator does: the files, and `systemctl enable`. The name of the server is not known yet."""
    box.write("etc/ngrok--/web.server", "OPTIONS=--public-port 80 --heartbeat 1 --drain 1\n", 0o600)
    box.write("etc/ngrok--/web.client", "OPTIONS=--heartbeat 1 8080 server.example.org\n", 0o600)
    box.write("etc/ngrok--/web.secret", "a secret of the test\n", 0o600)
    box.write("etc/systemd/system/app.service", "[Service]\nExecStart=/stage3/app 8080\n[Install]\nWantedBy=multi-user.target\n")
    wants = f"{box.root}/etc/systemd/system/multi-user.target.wants"
    os.makedirs(wants)
    os.symlink("/etc/systemd/system/app.service", f"{wants}/app.service")
    for unit in (SERVER, CLIENT):
        os.symlink(f"/usr/local/lib/systemd/system/{unit.split('@')[0]}@.service", f"{wants}/{unit}.service")


def page(box, port=80):
    return box.run("curl", "--silent", "--max-time", "5", f"http://127.0.0.1:{port}/").stdout


def at_boot(box):
    print(f"  booted in {box.booted:.0f} s")
    box.await_log(SERVER, "listening for users on port 80")
    check(True, "the server is there after boot, on a port below 1024")
    pid = box.show(SERVER, "MainPID")
    uid = box.run("stat", "-c", "%u", f"/proc/{pid}").stdout.strip()
    check(uid not in ("", "0"), "it is not root", f"user {uid}")
    first = box.log(SERVER).splitlines()
    lines = [line for line in first if "listening for users" in line]
    check(lines[0].startswith("server:") or lines[0].startswith("ngrok--d:"), "its log leaves the time to the journal", lines[0])
    limits = box.run("grep", "Max open files", f"/proc/{pid}/limits").stdout.split()
    check(limits[3] == limits[4] and int(limits[4]) >= 20000, "it may have many descriptors", f"{limits[3]} here")
    check("secret of" not in box.run("cat", f"/proc/{pid}/cmdline").stdout + box.log(SERVER), "its secret is in neither ps nor log")


def late_network(box):
    check("tunnel" not in page(box), "the server's name is not known yet: no user is served")
    box.write("etc/hosts", "127.0.0.1 localhost server.example.org\n")
    await_(lambda: "tunnel" in page(box), 20, "a user to be served")
    check(True, "the client was started before the network: once the name is known, users are served")


def killed(box):
    for unit in (SERVER, CLIENT):
        pid = box.show(unit, "MainPID")
        begun = time.monotonic()
        box.run("kill", "-9", pid)
        await_(lambda: box.show(unit, "MainPID") not in ("0", pid), 15, f"{unit} to be started again")
        await_(lambda: "tunnel" in page(box), 20, "a user to be served")
        check(True, f"{unit} is killed: users are served again", f"after {time.monotonic() - begun:.1f} s")


def stopped(box):
    # A user who says nothing: the stop waits for it for --drain seconds, and no longer.
    idle = "exec 3<>/dev/tcp/127.0.0.1/80; echo in; read -r -t 30 <&3; echo out"
    with box.background("bash", "-c", idle) as user:
        user.await_said("in")
        box.await_log(CLIENT, "step 6")
        begun = time.monotonic()
        box.run("systemctl", "stop", SERVER)
        took = time.monotonic() - begun
    check(took < 5, "systemctl stop takes --drain seconds, with a user who says nothing", f"{took:.1f} s")
    check(box.show(SERVER, "Result") == "success", "and that is a success", box.show(SERVER, "Result"))
    box.run("systemctl", "start", SERVER)
    await_(lambda: "tunnel" in page(box), 20, "a user to be served")
    check(True, "started again, the client comes back by itself")


def port_taken(box):
    """More than five failures in a row, which systemd's default takes for hopeless. The pause is shorter here."""
    box.run("systemctl", "stop", SERVER)
    box.write("etc/systemd/system/ngrok--d@web.service.d/quick.conf", "[Service]\nRestartSec=100ms\n")
    box.run("systemctl", "daemon-reload")
    box.run("systemd-run", "--unit=squatter", "/stage3/app", "80")
    await_(lambda: "tunnel" in page(box), 10, "somebody else to have port 80")
    box.run("systemctl", "start", SERVER)
    await_(lambda: int(box.show(SERVER, "NRestarts") or 0) > 7, 30, "eight attempts")
    box.run("systemctl", "stop", "squatter")
    await_(lambda: box.show(SERVER, "SubState") == "running" and "tunnel" in page(box), 30, "the server to get its port")
    check(True, "a port that is taken is tried for again and again; once it is free the server has it")


def wrong_options(box):
    box.write("etc/ngrok--/typo.server", "OPTIONS=--pubic-port 80\n")
    box.write("etc/ngrok--/typo.secret", "x\n")
    box.run("systemctl", "start", "ngrok--d@typo")
    await_(lambda: box.show("ngrok--d@typo", "ActiveState") == "failed", 10, "a wrong option to be noticed")
    check(box.show("ngrok--d@typo", "NRestarts") == "0", "a wrong option is not tried again")
    box.await_log("ngrok--d@typo", "pubic-port")
    check(True, "the log names it")
    for there, missing in (("server", "secret"), ("secret", "server")):
        box.write(f"etc/ngrok--/half.{there}", "OPTIONS=\n")
        said = box.run("systemctl", "start", "ngrok--d@half").stderr
        check("ssert" in said, f"an instance without its {missing} says so, and is not tried again", (said.splitlines() or [""])[0])
        os.unlink(f"{box.root}/etc/ngrok--/half.{there}")


def wrong_secret(box):
    box.write("etc/ngrok--/web.secret", "another one\n", 0o600)
    before = int(box.show(CLIENT, "NRestarts"))
    box.run("systemctl", "restart", SERVER)
    await_(lambda: int(box.show(CLIENT, "NRestarts")) > before, 30, "the client to be started again")
    check("denied" in box.log(CLIENT), "a secret that is changed at the server: the client is denied, and goes on trying")
    await_(lambda: "tunnel" in page(box), 30, "the client to have the new secret")
    check(True, "as soon as it has the new one, it is let in")


def unix_socket(box):
    box.write("root/app.py", UNIX_APP)
    box.write("etc/group", "root:x:0:\napp:x:4242:\n")
    box.run("systemd-run", "--unit=unix-app", "/usr/bin/python3", "/root/app.py")
    box.write("etc/ngrok--/web.client", "OPTIONS=--heartbeat 1 /run/app.sock localhost\n")
    box.write("etc/systemd/system/ngrok--@web.service.d/group.conf", "[Service]\nSupplementaryGroups=app\n")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "restart", CLIENT)
    await_(lambda: "by a Unix socket" in page(box), 20, "an answer by a Unix socket")
    check(True, "an app behind a Unix socket that only its group may open")


def run():
    with folder() as scratch:
        box = Container(scratch)
        prepare(box)
        with box:
            for part in (at_boot, late_network, killed, stopped, port_taken, wrong_options, wrong_secret, unix_socket):
                part(box)
