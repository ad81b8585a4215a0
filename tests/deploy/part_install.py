"""make install: everything to its place, nobody's changes lost

An administrator's changes are kept, in both directions; `uninstall` leaves nothing else behind."""
import os
import shutil
import stat
import subprocess

from hosts import OUT, TOP, check, folder, output

UNIT = "usr/local/lib/systemd/system/ngrok--d@.service"
SYSCTL = "usr/local/lib/sysctl.d/60-ngrok--.conf"


def make(target, dest, *more):
    return output("make", "-C", TOP, target, f"DESTDIR={dest}", f"OUT={os.environ.get('OUT', '')}", *more)


def files(dest):
    return sorted(os.path.relpath(os.path.join(path, name), dest) for path, _, names in os.walk(dest) for name in names)


def append(path, text):
    with open(path, "a") as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


def places(dest):
    make("install", dest)
    there = files(dest)
    for path in ("bin/ngrok--d", "bin/ngrok--", "share/man/man8/ngrok--d.8", "share/man/man1/ngrok--.1",
                 "lib/systemd/system/ngrok--d@.service", "lib/systemd/system/ngrok--@.service",
                 "lib/sysctl.d/60-ngrok--.conf", "share/ngrok--/Caddyfile"):  # fmt: skip
        check(f"usr/local/{path}" in there, f"make install: {path}")
    examples = set(os.listdir(f"{TOP}/stage3-local/deploy")) - {"install", "sysctl.conf"}
    missing = [name for name in examples if not any(path.endswith(f"/{name}") for path in there)]
    check(not missing, "every file of deploy/ is installed", " ".join(missing))
    check(os.stat(f"{dest}/usr/local/bin/ngrok--").st_mode & stat.S_IXOTH, "the programs may be run by everybody")
    readme = read(f"{TOP}/README.md")
    unnamed = [name for name in examples if f"](stage3-local/deploy/{name})" not in readme]
    check(not unnamed, "README's table leads to each of them", " ".join(unnamed))
    make("install", dest)
    check(files(dest) == there, "a second time changes nothing")


def changed_files(dest):
    append(f"{dest}/{UNIT}", "# mine\n")
    append(f"{dest}/usr/local/bin/ngrok--", "older")
    said = make("install", dest)
    check(read(f"{dest}/{UNIT}").endswith("# mine\n"), "a unit that was changed is not overwritten")
    check("changed" in said and os.path.exists(f"{dest}/{UNIT}.new"), "make install says so, and leaves the new one beside it")
    check(os.path.getsize(f"{dest}/usr/local/bin/ngrok--") == os.path.getsize(f"{OUT}/stage3-local/client"),
          "a program is replaced: an upgrade")  # fmt: skip
    make("uninstall", dest)
    check(files(dest) == [UNIT], "make uninstall leaves that file alone, and no other", " ".join(files(dest)))
    make("install", dest)
    check(read(f"{dest}/{UNIT}").endswith("# mine\n"), "nor does a new installation overwrite it")
    os.unlink(f"{dest}/{UNIT}")
    make("install", dest)
    check("# mine" not in read(f"{dest}/{UNIT}"), "once it is gone, make install brings it back")
    make("uninstall", dest)
    check(files(dest) == [], "make uninstall leaves nothing", " ".join(files(dest)))


def an_upgrade(scratch):
    """A later version's files replace those that nobody has changed."""
    copy, dest = f"{scratch}/deploy", f"{scratch}/upgraded"
    shutil.copytree(f"{TOP}/stage3-local/deploy", copy)
    output(f"{copy}/install", "/usr/local", dest)
    append(f"{copy}/Caddyfile", "# new\n")
    output(f"{copy}/install", "/usr/local", dest)
    check(read(f"{dest}/usr/local/share/ngrok--/Caddyfile").endswith("# new\n"), "files that nobody has changed are upgraded")
    output(f"{copy}/install", "/opt/it", dest)
    unit = read(f"{dest}/opt/it/lib/systemd/system/ngrok--@.service")
    check("ExecStart=/opt/it/bin/ngrok-- " in unit, "with another PREFIX, the units name it")


def settings(scratch):
    """In a network namespace, which has ports and settings of its own."""
    script = f"""
        echo 8080,9000-9003 > /proc/sys/net/ipv4/ip_local_reserved_ports
        {TOP}/stage3-local/deploy/install {scratch}/prefix
        /lib/systemd/systemd-sysctl {scratch}/prefix/lib/sysctl.d/60-ngrok--.conf &&
        {TOP}/stage3-local/deploy/install {scratch}/prefix
        cat /proc/sys/net/ipv4/ip_local_reserved_ports /proc/sys/net/ipv4/tcp_tw_reuse"""
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True)
    if not check(done.returncode == 0, "systemd-sysctl takes the settings", done.stderr.strip()):
        return
    ports, reuse = done.stdout.split()[-2:]
    check(ports == "8080,9000-9003,60623-60625", "the ports are reserved, and those that were there before, too", ports)
    check(reuse == "1", "tcp_tw_reuse is on")
    line = [line for line in read(f"{scratch}/prefix/lib/sysctl.d/60-ngrok--.conf").splitlines() if "reserved_ports =" in line]
    check(line == ["net.ipv4.ip_local_reserved_ports = 8080,9000-9003,60623-60625"], "installed again, they are there once", line[0])


def run():
    with folder() as scratch:
        places(f"{scratch}/dest")
        changed_files(f"{scratch}/dest")
        an_upgrade(scratch)
        if os.geteuid() == 0 and os.path.exists("/lib/systemd/systemd-sysctl"):
            settings(scratch)
        else:
            print("  (no systemd-sysctl, or not root: settings not tried)")
