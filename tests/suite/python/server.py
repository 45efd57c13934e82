"""Serves the probe service with grpcio, which RSF did not write.

usage: server.py descriptor-set-file [port]   Prints its port, and what it sees of abandoned calls.
"""

import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import status_pb2
from grpc_status import rpc_status

SERVICE = "suite.v1.Probe"


def types(path):
    files = descriptor_pb2.FileDescriptorSet()
    with open(path, "rb") as file:
        files.ParseFromString(file.read())
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    method = pool.FindServiceByName(SERVICE).methods_by_name["Echo"]
    return [message_factory.GetMessageClass(method.input_type), message_factory.GetMessageClass(method.output_type)]


Request, Reply = types(sys.argv[1])


def echo(request, context):
    metadata = context.invocation_metadata()
    seen = {key: value for key, value in metadata if isinstance(value, str)}
    sent = dict(metadata)
    if "probe-text" in sent:
        context.send_initial_metadata([("probe-echo", sent["probe-text"])])
    if "probe-bin" in sent:
        context.set_trailing_metadata([("echo-bin", sent["probe-bin"])])
    left = context.time_remaining()
    return Reply(text=request.text, metadata=seen, remaining_ms=int((left or 0) * 1000))


def sleep(request, context):
    ended = threading.Event()
    if not context.add_callback(ended.set):
        ended.set()
    print(f"began: {request.text}", flush=True)
    if ended.wait(request.sleep_ms / 1000):
        print(f"abandoned: {request.text}", flush=True)
    return Reply()


def fail(request, context):
    detail = Any()
    detail.Pack(request)
    code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    status = rpc_status.to_status(status_pb2.Status(code=code, message=request.text, details=[detail]))
    trailers = (*status.trailing_metadata, ("probe-cause", "asked"))
    context.abort_with_status(status._replace(trailing_metadata=trailers))


def panic(request, context):
    raise RuntimeError(f"asked to: {request.text}")


def big(request, context):
    return Reply(payload=bytes(request.reply_bytes))


def main():
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(handler, Request.FromString, Reply.SerializeToString)
        for name, handler in [("Echo", echo), ("Sleep", sleep), ("Fail", fail), ("Panic", panic), ("Big", big)]
    }
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    wanted = sys.argv[2] if len(sys.argv) > 2 else "0"
    port = server.add_insecure_port(f"127.0.0.1:{wanted}")
    server.start()
    print(f"port {port}", flush=True)
    server.wait_for_termination()


main()
