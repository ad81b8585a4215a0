"""An app that sends without end, as fast as it goes, and its users, in processes of their own.

    bulk.py serve         on a free port of 127.0.0.1, which it prints; echoes those who do not say "bulk"
    bulk.py visit PORT    says "bulk" and reads until it is killed; prints a line for each 64 MiB
"""
import os
import signal
import socket
import sys


def attend(connection):
    os.nice(5)  # the tunnel is to be measured, not who of its users gets the processor first
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    zeros = bytes(1 << 20)
    while data := connection.recv(65536):
        while data == b"bulk":
            connection.sendall(zeros)
        connection.sendall(data)


def serve():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    print(listener.getsockname()[1], file=sys.stderr, flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # whoever reads our log need not wait for this one's end
            try:
                attend(connection)
            except OSError:
                pass  # the user is gone
            os._exit(0)
        connection.close()


def visit(port):
    os.nice(5)
    user = socket.create_connection(("127.0.0.1", port))
    user.sendall(b"bulk")
    room = bytearray(1 << 20)
    total = 0
    while count := user.recv_into(room):
        total += count
        if total >= 1 << 26:
            os.write(2, b"64 MiB\n")
            total -= 1 << 26


serve() if sys.argv[1] == "serve" else visit(int(sys.argv[2]))
