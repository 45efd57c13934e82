"""A socket that speaks frames by hyperframe and header blocks by hpack, cut and padded by chance."""

import socket

import hpack
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16_384


class Wire:
    def __init__(self, sock, rng):
        sock.settimeout(20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.rng = sock, rng
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        # What a header list may take is the engine's affair.
        self.decoder.max_header_list_size = 1 << 20
        self.buffer, self.block, self.announced, self.acknowledged = b"", None, {}, False

    def say(self, frames):
        data = b"".join(frame.serialize() for frame in frames)
        while data:
            cut = self.rng.choice([1, 3, 9, 10, 100, 1_000, len(data)])
            self.sock.sendall(data[:cut])
            data = data[cut:]

    def greet(self, settings, before=b""):
        """Bodies here are smaller than every window, so that windows are nobody's concern."""
        self.sock.sendall(before)
        self.announced = settings
        # Until the engine has said that it knows it, both the old size and the new are right.
        self.decoder.max_allowed_table_size = max(settings[SettingsFrame.HEADER_TABLE_SIZE], 4_096)
        self.say([SettingsFrame(0, settings)])

    def headers(self, stream, fields, end):
        """The frames of a header block: the table grows, shrinks, and is passed by, as the encoder is told."""
        if self.rng.random() < 0.1:
            # Never above what the engine announces.
            self.encoder.header_table_size = self.rng.choice([0, 64, 200, 1_000, 4_096])
        marked = [(NeverIndexedHeaderTuple if self.rng.random() < 0.2 else HeaderTuple)(*field) for field in fields]
        block = self.encoder.encode(marked, huffman=self.rng.random() < 0.7)
        parts = self.parts(block, 8)
        first = HeadersFrame(stream, parts[0])
        if end:
            first.flags.add("END_STREAM")
        if self.rng.random() < 0.3:
            first.flags.add("PADDED")
            first.pad_length = self.rng.choice([0, 1, 255])
        if self.rng.random() < 0.3:
            first.flags.add("PRIORITY")
            first.stream_weight = self.rng.randrange(256)
        frames = [first] + [ContinuationFrame(stream, part) for part in parts[1:]]
        frames[-1].flags.add("END_HEADERS")
        return frames

    def parts(self, data, most):
        """Cut anywhere, into nothing too."""
        cuts = sorted(self.rng.randrange(len(data) + 1) for _ in range(self.rng.choice([0, 0, 1, 2, most])))
        edges = [0, *cuts, len(data)]
        parts = [data[a:b] for a, b in zip(edges, edges[1:])]
        return [part[i : i + FRAME_BYTES - 300] for part in parts for i in range(0, max(len(part), 1), FRAME_BYTES - 300)]

    def data(self, stream, data, end):
        frames = []
        for part in self.parts(data, 6):
            frame = DataFrame(stream, part)
            if self.rng.random() < 0.3:
                frame.flags.add("PADDED")
                frame.pad_length = self.rng.choice([0, 1, 200])
            frames.append(frame)
            if self.rng.random() < 0.1:
                frames.append(PingFrame(0, b"peers8by"))
        if end:
            last = [frame for frame in frames if isinstance(frame, DataFrame)][-1]
            last.flags.add("END_STREAM")
        return frames

    def frame(self):
        """The next frame that says something of a call; the connection's own are answered here. None at the end."""
        while True:
            while len(self.buffer) < 9:
                if not self.read():
                    return None
            frame, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
            while len(self.buffer) < 9 + length:
                if not self.read():
                    raise AssertionError("the engine ended within a frame")
            frame.parse_body(memoryview(self.buffer[9 : 9 + length]))
            self.buffer = self.buffer[9 + length :]
            if isinstance(frame, SettingsFrame):
                if "ACK" in frame.flags:
                    self.acknowledged = True
                    continue
                assert frame.settings.get(SettingsFrame.HEADER_TABLE_SIZE, 4_096) >= 4_096
                self.say([SettingsFrame(0, flags=["ACK"])])
            elif isinstance(frame, PingFrame):
                if "ACK" not in frame.flags:
                    self.say([PingFrame(0, frame.opaque_data, flags=["ACK"])])
            elif isinstance(frame, GoAwayFrame):
                assert frame.error_code == 0, frame
                return None
            elif not isinstance(frame, WindowUpdateFrame):
                return frame

    def read(self):
        piece = self.sock.recv(65_536)
        self.buffer += piece
        return piece

    def event(self):
        """The next header list (`fields`) or piece of a body (`data`) with its stream and whether it ended there."""
        while True:
            frame = self.frame()
            if frame is None:
                return None
            if isinstance(frame, DataFrame):
                if frame.flow_controlled_length:
                    self.say([WindowUpdateFrame(0, frame.flow_controlled_length)])
                return frame.stream_id, None, bytes(frame.data), "END_STREAM" in frame.flags
            if isinstance(frame, HeadersFrame):
                self.block = (frame.stream_id, bytes(frame.data), "END_STREAM" in frame.flags)
            elif isinstance(frame, ContinuationFrame):
                stream, block, end = self.block
                assert stream == frame.stream_id
                self.block = (stream, block + bytes(frame.data), end)
            else:
                raise AssertionError(f"the engine says {frame!r}")
            if "END_HEADERS" in frame.flags:
                stream, block, end = self.block
                self.block = None
                if self.acknowledged:
                    # hpack raises where the engine's table is larger by now.
                    self.decoder.max_allowed_table_size = self.announced[SettingsFrame.HEADER_TABLE_SIZE]
                fields = [(bytes(name), bytes(value)) for name, value in self.decoder.decode(block, raw=True)]
                return stream, fields, b"", end
