"""gRPC's interop service, served by grpcio.

usage: server.py [compressed]   Prints `port N`, then a line for each call that was abandoned.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

messages, services = grpc.protos_and_services("testing.proto")


def payload(size):
    return messages.Payload(body=bytes(size))


def echo_metadata(context):
    sent = dict(context.invocation_metadata())
    if "x-grpc-test-echo-initial" in sent:
        context.send_initial_metadata((("x-grpc-test-echo-initial", sent["x-grpc-test-echo-initial"]),))
    if "x-grpc-test-echo-trailing-bin" in sent:
        context.set_trailing_metadata((("x-grpc-test-echo-trailing-bin", sent["x-grpc-test-echo-trailing-bin"]),))


def echo_status(request, context):
    if request.HasField("response_status"):
        code = {code.value[0]: code for code in grpc.StatusCode}[request.response_status.code]
        context.abort(code, request.response_status.message)


class Test(services.TestServiceServicer):
    def EmptyCall(self, request, context):
        return messages.Empty()

    def UnaryCall(self, request, context):
        echo_metadata(context)
        echo_status(request, context)
        if request.response_size < 0:
            ended = threading.Event()
            context.add_callback(ended.set)
            print("began", flush=True)
            ended.wait(30)
            print("abandoned", flush=True)
            return messages.SimpleResponse()
        return messages.SimpleResponse(payload=payload(request.response_size))

    def StreamingOutputCall(self, request, context):
        for parameters in request.response_parameters:
            time.sleep(parameters.interval_us / 1e6)
            yield messages.StreamingOutputCallResponse(payload=payload(parameters.size))

    def StreamingInputCall(self, requests, context):
        size = sum(len(request.payload.body) for request in requests)
        return messages.StreamingInputCallResponse(aggregated_payload_size=size)

    def FullDuplexCall(self, requests, context):
        echo_metadata(context)
        for request in requests:
            echo_status(request, context)
            yield from self.StreamingOutputCall(request, context)


def main():
    compression = grpc.Compression.Gzip if "compressed" in sys.argv else None
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), compression=compression)
    services.add_TestServiceServicer_to_server(Test(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("port", port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
