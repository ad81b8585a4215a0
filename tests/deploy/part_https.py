"""https and names: Caddy, nginx, and HAProxy by SNI

Two apps at home, two tunnels, and one web server before their public ports; users of two addresses. The certificates are
of an authority of our own, where the real ones come by ACME."""
import contextlib
import json
import os
import sys

from hosts import CLIENT, HERE, SERVER, Hosts, Program, check, configured, folder, need, options_in, output

FRONT, HOME = "198.51.100.1", "203.0.113.2"
USERS = ["192.0.2.77", "2001:db8:7::7"]
NAMES = {"app1.example.org": 8080, "app2.example.org": 3000}


def certificate(scratch, *names):
    """One that `curl --cacert` believes, for these names."""
    output("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
           "-keyout", f"{scratch}/privkey.pem", "-out", f"{scratch}/fullchain.pem", "-subj", f"/CN={names[0]}",
           "-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names))  # fmt: skip
    return f"{scratch}/fullchain.pem"



@contextlib.contextmanager
def tunnels(net, scratch, ports):
    """Two tunnels with the options that Caddyfile gives, to the ports where the apps are."""
    with contextlib.ExitStack() as stack:
        for name, port in zip(("app1", "app2"), ports):
            options = options_in("Caddyfile", f"{name}.client")
            options[-2:] = [port, FRONT]
            server = stack.enter_context(Program(scratch, *net.on("front", SERVER, *options_in("Caddyfile", f"{name}.server"))))
            server.await_said("listening for proxy")
            stack.enter_context(Program(scratch, *net.on("home", CLIENT, *options)))
            server.await_said("step 2")
        yield


def curl(net, user, url, *options):
    """What curl prints, as that user; the names lead to the front."""
    front = "[2001:db8:1::1]" if ":" in user else FRONT
    names = [word for name in NAMES for port in (80, 443) for word in ("--resolve", f"{name}:{port}:{front}")]
    return output(*net.on("user", "curl", "--silent", "--show-error", "--max-time", "10", "--interface", user, *names, *options, url))


def redirect(net, what):
    said = curl(net, USERS[0], "http://app1.example.org/deep?x=1", "--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}")
    check(said.split()[0] in ("301", "308") and said.endswith(" https://app1.example.org/deep?x=1"), f"{what}: http leads to https", said)


def names_and_addresses(net, what, authority):
    for user in USERS:
        for name, port in NAMES.items():
            # A user who lies about the address is not believed.
            said = json.loads(curl(net, user, f"https://{name}/", "--cacert", authority, "--header", "X-Forwarded-For: 8.8.8.8"))
            right = said["port"] == port and said["host"] == name and said.get("x-forwarded-for") == user
            check(right, f"{what}: {name} is answered by its app, which sees the user's address",
                  f"{user}" if right else f"{said}")  # fmt: skip
    redirect(net, what)


def by_caddy(net, scratch):
    need("caddy")
    apart = configured(scratch, "Caddyfile")
    with open(f"{scratch}/Caddyfile.test", "w") as file:  # certificates of Caddy's own making, and no ACME
        file.write(f"{{\n\tlocal_certs\n\tskip_install_trust\n\tadmin off\n\tstorage file_system {scratch}/caddy\n}}\nimport {apart}\n")
    environment = {**os.environ, "HOME": scratch}
    command = net.on("front", "caddy", "run", "--adapter", "caddyfile", "--config", f"{scratch}/Caddyfile.test")
    with Program(scratch, *command, env=environment) as caddy:
        caddy.await_said("serving initial configuration")
        net.await_open("front", "127.0.0.1", 443)
        names_and_addresses(net, "Caddy", f"{scratch}/caddy/pki/authorities/local/root.crt")


NGINX = """daemon off; pid {scratch}/nginx.pid; error_log stderr;
events {{ worker_connections 512; }}
http {{ access_log off;
    client_body_temp_path {scratch}; proxy_temp_path {scratch}; fastcgi_temp_path {scratch};
    uwsgi_temp_path {scratch}; scgi_temp_path {scratch};
    {inside}
}}
"""


def nginx(net, host, scratch, name, inside):
    path = f"{scratch}/{name}.conf"
    with open(path, "w") as file:
        file.write(NGINX.format(scratch=scratch, inside=inside).replace("nginx.pid", f"{name}.pid"))
    return Program(scratch, *net.on(host, "nginx", "-c", path))


def by_nginx(net, scratch, authority):
    need("nginx")
    sites = configured(scratch, "nginx.conf", ("/etc/letsencrypt/live/app1.example.org", scratch))
    with nginx(net, "front", scratch, "front", f"include {sites};"):
        net.await_open("front", "127.0.0.1", 443)
        names_and_addresses(net, "nginx", authority)


def by_sni(net, scratch, authority):
    """The apps speak TLS themselves: nginx at home, told by a PROXY line who the user is."""
    need("haproxy", "nginx")
    apps = "".join(f"""server {{
        listen 127.0.0.1:{port} ssl proxy_protocol; server_name {name}; set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;
        ssl_certificate {scratch}/fullchain.pem; ssl_certificate_key {scratch}/privkey.pem;
        location / {{ return 200 "$remote_addr $server_name"; }} }}""" for name, port in zip(NAMES, (8443, 8444)))  # fmt: skip
    config = configured(scratch, "haproxy-sni.cfg")
    with nginx(net, "home", scratch, "apps", apps), Program(scratch, *net.on("front", "haproxy", "-f", config)):
        net.await_open("home", "127.0.0.1", 8444)
        net.await_open("front", "127.0.0.1", 443)
        with tunnels(net, scratch, (8443, 8444)):
            for user in USERS:
                for name in NAMES:
                    said = curl(net, user, f"https://{name}/", "--cacert", authority)
                    check(said == f"{user} {name}", f"HAProxy, by SNI: {name} ends TLS at home and sees the user's address", said)
            redirect(net, "HAProxy")
            refused = False
            try:
                curl(net, USERS[0], f"https://{FRONT}/", "--insecure")
            except RuntimeError:
                refused = True
            check(refused, "HAProxy: who asks for no name gets no app")


def run():
    need("curl", "openssl")
    with folder() as scratch, Hosts(front=f"{FRONT} 2001:db8:1::1", home=HOME, user=" ".join(USERS)) as net:
        authority = certificate(scratch, *NAMES)
        with contextlib.ExitStack() as stack:
            for port in NAMES.values():
                stack.enter_context(Program(scratch, *net.on("home", sys.executable, f"{HERE}/app.py", port))).await_said("listening")
            stack.enter_context(tunnels(net, scratch, NAMES.values()))
            for part, arguments in ((by_caddy, (net, scratch)), (by_nginx, (net, scratch, authority))):
                part(*arguments)
        by_sni(net, scratch, authority)
