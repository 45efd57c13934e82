"""An echo over TLS by grpcio, called or served.

usage: peer.py folder [port]   The folder has ca.pem, server.pem and server.key. With a port: calls there, and prints a line
for each kind of call that held. Without: serves, and prints `port N`.
"""

import pathlib
import sys
from concurrent import futures

import grpc


def read(name):
    return (pathlib.Path(sys.argv[1]) / name).read_bytes()


def call(port):
    credentials = grpc.ssl_channel_credentials(root_certificates=read("ca.pem"))
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        echo = channel.unary_unary("/t/echo")
        assert echo(b"hello", timeout=30) == b"hello"
        print("unary", flush=True)
        large = bytes(1 << 20)
        assert echo(large, timeout=30) == large
        print("large", flush=True)
        pieces = [bytes([number]) * 10_000 for number in range(100)]
        assert list(channel.stream_stream("/t/stream")(iter(pieces), timeout=30)) == pieces
        print("stream", flush=True)


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/t/echo":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request)
        return None


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=(Echo(),))
    credentials = grpc.ssl_server_credentials([(read("server.key"), read("server.pem"))])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print("port", port, flush=True)
    server.wait_for_termination()


if len(sys.argv) > 2:
    call(sys.argv[2])
else:
    serve()
