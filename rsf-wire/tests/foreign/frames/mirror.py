"""Header fields by chance, and the mirror's message: all fields of a request, and what stood behind them.

A field is two strings, each a length of four bytes and its bytes; a list of fields is their number and they.
"""

import struct

LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
# Printable ASCII, and what RFC 9110 calls obs-text.
TEXT = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
# Those of HPACK's static table among them.
COMMON = [b"user-agent", b"accept", b"cookie", b"traceparent", b"grpc-timeout", b"x-request-id", b"authorization", b"via"]


def text(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return b""
    if kind == 1:
        # What Huffman's code is short for.
        return bytes(rng.choice(b"0123456789aceiost ") for _ in range(rng.randrange(1, 60))).strip()
    if kind == 2:
        return b"same"
    return bytes(rng.choice(TEXT) for _ in range(rng.randrange(1, 300)))


def fields(rng, most=20):
    out = []
    for _ in range(rng.randrange(most)):
        name = rng.choice(COMMON)
        if rng.random() < 0.5:
            name = b"x-" + bytes(rng.choice(LETTERS) for _ in range(rng.randrange(1, 40)))
        out.append((name, b"250m" if name == b"grpc-timeout" else text(rng)))
    return out


def pack(listed):
    def string(value):
        return struct.pack(">I", len(value)) + value

    return struct.pack(">I", len(listed)) + b"".join(string(name) + string(value) for name, value in listed)


def unpack(data):
    """The fields, and what stands behind them."""

    def string(at):
        (length,) = struct.unpack_from(">I", data, at)
        return data[at + 4 : at + 4 + length], at + 4 + length

    (count,) = struct.unpack_from(">I", data)
    at, out = 4, []
    for _ in range(count):
        name, at = string(at)
        value, at = string(at)
        out.append((name, value))
    return out, data[at:]


def message(data):
    return b"\0" + struct.pack(">I", len(data)) + data


def request(path, authority, more):
    first = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", authority)]
    return first + [(b"te", b"trailers"), (b"content-type", b"application/grpc")] + more
