"""The engine under the eyes of Python's h2, which keeps the books of states and windows and raises where they do not agree.

usage: strict.py client host:port   Calls the mirror with large bodies under small windows; prints `held N`.
       strict.py server             Prints `port N`; echoes each request's body, under small windows, on one connection
                                    after the other.
"""

import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings
import mirror

CALLS = 20
BODY = 150_000
CODES = h2.settings.SettingCodes


class Conversation:
    """A connection of h2's over a socket: bodies go out as windows allow, and windows are given back in crumbs."""

    def __init__(self, sock, client, window):
        sock.settimeout(20)
        self.sock = sock
        config = h2.config.H2Configuration(client_side=client, header_encoding=None, validate_inbound_headers=True)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        # In force when the engine has said that it knows it; until then HTTP/2's own.
        self.h2.update_settings({CODES.INITIAL_WINDOW_SIZE: window})
        self.left = {}
        self.flush()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def send(self, stream, body, trailers=None):
        self.left[stream] = (body, trailers)
        self.push()

    def push(self):
        """What windows and frames allow of all bodies."""
        for stream, (body, trailers) in list(self.left.items()):
            while body:
                room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
                if room <= 0:
                    break
                part, body = body[:room], body[room:]
                self.h2.send_data(stream, part, end_stream=not body and trailers is None)
            self.left[stream] = (body, trailers)
            if not body:
                del self.left[stream]
                if trailers is not None:
                    self.h2.send_headers(stream, trailers, end_stream=True)
        self.flush()

    def events(self):
        """All that comes until the peer hangs up; room is given back as soon as it is taken."""
        while data := self.sock.recv(65_536):
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                assert not isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)) or event.error_code == 0, event
                yield event
            self.push()


def client(address):
    host, port = address.rsplit(":", 1)
    for window in (1_000, 65_535, 1 << 20):
        talk = Conversation(socket.create_connection((host, int(port))), True, window)
        asked, replies, trailers = {}, {}, {}
        for call in range(CALLS):
            stream = talk.h2.get_next_available_stream_id()
            fields = mirror.request(b"/mirror", b"test", [(b"x-call", b"%d" % call)])
            talk.h2.send_headers(stream, fields)
            asked[stream] = (fields, mirror.message(bytes([call]) * BODY))
            talk.send(stream, asked[stream][1])
        for event in talk.events():
            if isinstance(event, h2.events.DataReceived):
                replies[event.stream_id] = replies.get(event.stream_id, b"") + event.data
            elif isinstance(event, h2.events.TrailersReceived):
                trailers[event.stream_id] = event.headers
            if len(trailers) == CALLS:
                break
        for stream, (fields, body) in asked.items():
            assert (b"grpc-status", b"0") in [tuple(field) for field in trailers[stream]]
            assert mirror.unpack(replies[stream][5:]) == (fields, body)
        talk.h2.close_connection()
        talk.flush()
    print("held", 3 * CALLS, flush=True)


def serve(sock, window):
    talk = Conversation(sock, False, window)
    bodies = {}
    for event in talk.events():
        if isinstance(event, h2.events.RequestReceived):
            assert (b"te", b"trailers") in [tuple(field) for field in event.headers], event.headers
            bodies[event.stream_id] = b""
        elif isinstance(event, h2.events.DataReceived):
            bodies[event.stream_id] += event.data
        elif isinstance(event, h2.events.StreamEnded):
            talk.h2.send_headers(event.stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            talk.send(event.stream_id, bodies.pop(event.stream_id), [(b"grpc-status", b"0")])
    assert not bodies and not talk.left


def server():
    listener = socket.create_server(("127.0.0.1", 0))
    print("port", listener.getsockname()[1], flush=True)
    for window in (1_000, 65_535, 1 << 20):
        sock, _ = listener.accept()
        try:
            serve(sock, window)
        except Exception as error:
            print(f"failed: {error!r}", flush=True)
            raise
        print("held", window, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "client":
        client(sys.argv[2])
    else:
        server()
