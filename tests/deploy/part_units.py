"""systemd units: valid, and hardened"""
import os
import re
import subprocess

from hosts import DEPLOY, check, folder, need, output


def verify(scratch, unit):
    """systemd-analyze complains of what is not installed, too; so the unit is one whose program is there."""
    with open(f"{DEPLOY}/{unit}@.service") as file:
        text = file.read().replace("/usr/local/bin/", f"{scratch}/bin/")
    text = re.sub(r"^Documentation=.*\n", "", text, flags=re.M)  # the page is not installed here
    path = f"{scratch}/{unit}@.service"
    with open(path, "w") as file:
        file.write(text)
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
    complaints = [line for line in (said.stdout + said.stderr).splitlines() if unit in line]
    check(said.returncode == 0 and not complaints, f"{unit}@.service: systemd-analyze verify finds nothing", "; ".join(complaints))
    return path


def exposure(unit, path, most):
    said = output("systemd-analyze", "security", "--offline=yes", "--no-pager", path)
    figure = float(re.search(r"exposure level for .*: ([\d.]+)", said)[1])
    check(figure <= most, f"{unit}@.service: systemd-analyze security, at most {most}", f"{figure}")


def run():
    need("systemd-analyze")
    with folder() as scratch:
        os.mkdir(f"{scratch}/bin")
        for unit, most in (("ngrok--d", 2.0), ("ngrok--", 2.0)):
            os.symlink("/bin/true", f"{scratch}/bin/{unit}")
            exposure(unit, verify(scratch, unit), most)
