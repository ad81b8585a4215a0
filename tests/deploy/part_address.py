"""Who the user is: --proxy-protocol, with nginx and HAProxy as local apps"""
import contextlib
import os

from hosts import CLIENT, SERVER, Hosts, Program, await_, check, folder, need, output
from part_https import nginx

FRONT, HOME = "198.51.100.1", "203.0.113.2"
USERS = ["192.0.2.77", "2001:db8:7::7"]

HAPROXY = """global
    log stdout format raw local0
defaults
    mode http
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend app
    bind 127.0.0.1:8081 accept-proxy
    log global
    log-format "user=%ci port=%fp"
    http-request return status 200 content-type text/plain lf-string "%ci"
"""


def seen_by(net, scratch, what, port, log):
    """Each user is one connection; the app answers and logs the address that it believes."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Program(scratch, *net.on("front", SERVER)))
        server.await_said("listening for proxy")
        client = stack.enter_context(Program(scratch, *net.on("home", CLIENT, "--proxy-protocol", port, FRONT)))
        server.await_said("step 2")
        for user in USERS:
            front = "[2001:db8:1::1]" if ":" in user else FRONT
            said = output(*net.on("user", "curl", "--silent", "--max-time", "10", "--interface", user, f"http://{front}:60624/"))
            check(said == user, f"{what}: answers {user}", said)
            await_(lambda user=user: f"user={user} port=60624" in log(), 5, f"{what} to log {user}; it has: {log()}")
            check(True, f"{what}: logs it")
            check(user in client.said(), "so does the client")


def run():
    need("curl", "nginx", "haproxy")
    with folder() as scratch, Hosts(front=f"{FRONT} 2001:db8:1::1", home=HOME, user=" ".join(USERS)) as net:
        log, config = f"{scratch}/access.log", f"{scratch}/haproxy.cfg"
        app = f"""log_format believed "user=$remote_addr port=$proxy_protocol_server_port";
            server {{ listen 127.0.0.1:8080 proxy_protocol; access_log {log} believed; set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;
            location / {{ return 200 $remote_addr; }} }}"""
        with nginx(net, "home", scratch, "app", app):
            net.await_open("home", "127.0.0.1", 8080)
            seen_by(net, scratch, "nginx", 8080, lambda: open(log).read() if os.path.exists(log) else "")
        with open(config, "w") as file:
            file.write(HAPROXY)
        with Program(scratch, *net.on("home", "haproxy", "-f", config)) as haproxy:
            net.await_open("home", "127.0.0.1", 8081)
            seen_by(net, scratch, "HAProxy", 8081, haproxy.said)
