"""A WebSocket echo, with the library that Python programs use for it.

    websocket.py serve         listens on a free port of 127.0.0.1 and prints it
    websocket.py visit PORT    sends text, a megabyte and pings there, and leaves in good order
"""
import asyncio
import os
import sys

import websockets


async def echo(connection, _path=None):  # older versions of the library pass the path too
    async for message in connection:
        await connection.send(message)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


async def visit(port):
    async with websockets.connect(f"ws://127.0.0.1:{port}/") as connection:
        for message in [f"message {number}" for number in range(200)] + [os.urandom(10**6), ""]:
            await connection.send(message)
            assert await connection.recv() == message, "another message came back"
        for _ in range(20):
            await (await connection.ping())  # until the pong
    assert connection.close_code == 1000, f"closed with code {connection.close_code}"


asyncio.run(serve() if sys.argv[1] == "serve" else asyncio.wait_for(visit(int(sys.argv[2])), 30))
