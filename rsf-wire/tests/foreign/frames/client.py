"""Calls the engine's mirror, byte by byte.

usage: client.py host:port seed...   A connection for each seed; prints `seed N: calls` for each that held.
"""

import random
import socket
import sys

import mirror
from wire import PREFACE, Wire

CALLS = 24


def talk(address, seed):
    rng = random.Random(seed)
    host, port = address.rsplit(":", 1)
    wire = Wire(socket.create_connection((host, int(port)), timeout=20), rng)
    wire.greet({1: rng.choice([0, 50, 4_096, 65_536]), 4: rng.choice([65_535, 1 << 20])}, PREFACE)
    stream, done = 1, 0
    while done < CALLS:
        # Some at once, whose frames take turns as far as HTTP/2 allows.
        asked, queues = {}, []
        for _ in range(rng.randrange(1, 5)):
            fields = mirror.request(b"/mirror", b"test", mirror.fields(rng))
            body = bytes(rng.randrange(256) for _ in range(rng.choice([0, 1, 100, 3_000])))
            wire.say(wire.headers(stream, fields, False))
            queues.append(wire.data(stream, mirror.message(body), True))
            asked[stream] = (fields, body)
            stream += 2
        while queues:
            queue = rng.choice(queues)
            wire.say([queue.pop(0)])
            queues = [queue for queue in queues if queue]
        heard = {stream: ([], b"") for stream in asked}
        left = set(asked)
        while left:
            event = wire.event()
            assert event, "the engine hung up"
            of, fields, data, end = event
            lists, body = heard[of]
            heard[of] = (lists + ([fields] if fields is not None else []), body + data)
            if end:
                left.remove(of)
        for of, (fields, body) in asked.items():
            (first, last), reply = heard[of]
            assert first[:2] == [(b":status", b"200"), (b"content-type", b"application/grpc")], first
            assert last == [(b"grpc-status", b"0")], last
            came, behind = mirror.unpack(reply[5:])
            assert came == fields, f"{came} instead of {fields}"
            assert behind == mirror.message(body)
        done += len(asked)
    return done


def main():
    for seed in sys.argv[2:]:
        try:
            print(f"seed {seed}: {talk(sys.argv[1], int(seed))}", flush=True)
        except Exception as error:
            print(f"seed {seed} failed: {error!r}", flush=True)
            raise


if __name__ == "__main__":
    main()
