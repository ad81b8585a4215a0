#!/usr/bin/env python3
"""Streams that say whose they are, so that a byte that got lost or came to somebody else is noticed.

A stream consists of blocks, each made of a number that belongs to one user, the direction, and the block's place
in the stream. The app tells from the first block whose stream it is and answers with as many of its own.

    streams.py PORT    such an app, on that port of 127.0.0.1
"""
import asyncio
import os
import socket
import struct
import sys
import time

from tunnel import Failure, Peer, check

BLOCK = 1024


class Foreign(Exception):
    """A byte that was somebody else's, or not in its place. Never excused."""


def block(owner, direction, place):
    return struct.pack("!8scxxxI", owner, direction, place) * (BLOCK // 16)


class Checker:
    """Takes a stream in pieces as they come."""

    def __init__(self, owner, direction):
        self.owner, self.direction, self.received = owner, direction, 0

    def take(self, data):
        while data:
            place, offset = divmod(self.received, BLOCK)
            expected = block(self.owner, self.direction, place)[offset:offset + len(data)]
            if data[:len(expected)] != expected:
                raise Foreign(f"at byte {self.received} of {self.owner.hex()}: {data[:32].hex()}")
            self.received += len(expected)
            data = data[len(expected):]


async def converse(port, size, seconds):
    """A user that sends so many bytes, at least, and gets as many back. Returns how many went through."""
    blocks = size // BLOCK + 1
    owner = os.urandom(8)
    began = time.monotonic()
    user = await Peer.connect(port, seconds=seconds)

    async def send():
        for first in range(0, blocks, 32):
            await user.send(b"".join(block(owner, b"U", place) for place in range(first, min(first + 32, blocks))), seconds)
        user.end()

    sending = asyncio.create_task(send())
    try:
        answer = Checker(owner, b"D")
        while piece := await user.receive(max(0.001, seconds - (time.monotonic() - began))):
            answer.take(piece)
        await sending
        check(answer.received == blocks * BLOCK, f"{answer.received} of {blocks * BLOCK} bytes came back")
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        user.close()
    return 2 * blocks * BLOCK


async def attend(peer):
    owner = (await peer.receive_exactly(8, seconds=60))
    question = Checker(owner, b"U")
    question.take(owner)
    answered = 0
    more = True
    while more:
        piece = await peer.receive(seconds=60)
        question.take(piece)
        more = piece != b""
        while answered < question.received // BLOCK:
            await peer.send(block(owner, b"D", answered), seconds=60)
            answered += 1


async def serve(port):
    listener = socket.create_server(("127.0.0.1", port), backlog=1000)
    listener.setblocking(False)
    print("ready", file=sys.stderr, flush=True)

    async def one(peer):
        try:
            await attend(peer)
        except Foreign as foreign:
            print(f"FOREIGN {foreign}", file=sys.stderr, flush=True)
        except (OSError, Failure):
            pass
        finally:
            peer.close()

    tasks = set()
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        tasks.add(task := asyncio.create_task(one(Peer(connection))))
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
