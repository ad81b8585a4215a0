"""A Mac at home: the property list for launchd"""
import os
import plistlib

from hosts import CLIENT, DEPLOY, SERVER, Program, check, folder


def run():
    with open(f"{DEPLOY}/ngrok--.plist", "rb") as file:
        job = plistlib.load(file)
    check(job["Label"] and job["KeepAlive"] is True and job["RunAtLoad"] is True, "started at login, and again whenever it ends")
    command = job["ProgramArguments"]
    check(command[0] == "/usr/local/bin/ngrok--", "it starts what make install has installed")
    check(job["ExitTimeOut"] > 8, "a stop has the time that --drain takes")
    with folder() as scratch:
        with open(f"{scratch}/secret", "w") as file:
            file.write("one secret\n")
        with Program(scratch, SERVER, "-b", "127.0.0.1", "-c", 0, "-u", 0, "-x", 0, "--secret-file", f"{scratch}/secret") as server:
            server.await_said("for proxy connections on port")
            ports = {word: server.said().split(f"for {whom} on port ")[1].split()[0]
                     for word, whom in (("-c", "the client"), ("-x", "proxy connections"))}  # fmt: skip
            stand_ins = {"/Users/NAME/.ngrok-secret": f"{scratch}/secret", "server.example.org": "127.0.0.1"}
            arguments = [stand_ins.get(word, word) for word in command[1:]]
            check(not any("NAME" in word for word in arguments), "nothing else in it names somebody's folder")
            ours = [word for pair in ports.items() for word in pair]
            with Program(scratch, CLIENT, *arguments, *ours, env={**os.environ, "TUNNEL_SECRET": "another"}):
                server.await_said("step 2")
                check(True, "with these arguments, and a server there, the client is let in")
