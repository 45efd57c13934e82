"""Mirrors the engine's requests, byte by byte: the reply says which fields came, and which it is made of itself.

usage: server.py seed   Prints `port N`; serves one connection after the other, with the seed and those after it.
"""

import random
import socket
import sys

import mirror
from wire import PREFACE, Wire


def serve(sock, seed):
    rng = random.Random(seed)
    wire = Wire(sock, rng)
    table = rng.choice([0, 50, 4_096, 65_536])
    while len(wire.buffer) < len(PREFACE):
        if not wire.read():
            return
    assert wire.buffer.startswith(PREFACE), wire.buffer
    wire.buffer = wire.buffer[len(PREFACE) :]
    wire.greet({1: table, 3: rng.choice([1, 5, 1_000]), 4: rng.choice([65_535, 1 << 20])})
    asked = {}
    while (event := wire.event()) is not None:
        stream, fields, data, end = event
        if fields is not None:
            asked[stream] = (fields, b"")
        fields, body = asked[stream]
        asked[stream] = (fields, body + data)
        if end:
            del asked[stream]
            answer(wire, rng, stream, fields, body + data)


def answer(wire, rng, stream, fields, body):
    first = [(b":status", b"200"), (b"content-type", b"application/grpc")] + mirror.fields(rng)
    last = mirror.fields(rng) + [(b"grpc-status", b"0")]
    said = mirror.pack(fields) + mirror.pack(first) + mirror.pack(last) + body
    wire.say(wire.headers(stream, first, False))
    wire.say(wire.data(stream, mirror.message(said), False))
    wire.say(wire.headers(stream, last, True))


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    print("port", listener.getsockname()[1], flush=True)
    seed = int(sys.argv[1])
    while True:
        sock, _ = listener.accept()
        try:
            serve(sock, seed)
        except Exception as error:
            print(f"seed {seed} failed: {error!r}", flush=True)
            raise
        sock.close()
        print(f"seed {seed} held", flush=True)
        seed += 1


if __name__ == "__main__":
    main()
