"""Calls the probe service of a provider with grpcio, which RSF did not write: types come from server reflection.

usage: client.py host:port   Prints one line for each thing that held, and fails with the first that did not.
"""

import sys
import time

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SERVICE = "suite.v1.Probe"


def fails(code, call):
    try:
        reply = call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        return error
    raise AssertionError(f"{code} was expected, and {str(reply)[:100]!r} came")


def main():
    channel = grpc.insecure_channel(sys.argv[1])

    schemas = ProtoReflectionDescriptorDatabase(channel)
    services = list(schemas.get_services())
    assert SERVICE in services and "grpc.health.v1.Health" in services, services
    service = DescriptorPool(schemas).FindServiceByName(SERVICE)
    names = [method.name for method in service.methods]
    assert names == ["Echo", "Sleep", "Fail", "Panic", "Big"], names
    Request = message_factory.GetMessageClass(service.methods_by_name["Echo"].input_type)
    Reply = message_factory.GetMessageClass(service.methods_by_name["Echo"].output_type)
    print("reflection")

    def stub(method, service=SERVICE):
        return channel.unary_unary(f"/{service}/{method}", Request.SerializeToString, Reply.FromString)

    reply = stub("Echo")(Request(text="Grüße, 世界"))
    assert reply.text == "Grüße, 世界" and reply.remaining_ms == 0, reply
    print("unary")

    sent = (("probe-text", "there"), ("probe-bin", bytes(range(256))))
    reply, call = stub("Echo").with_call(Request(text="x"), metadata=sent)
    assert reply.metadata["probe-text"] == "there", reply
    back = dict([*call.initial_metadata(), *call.trailing_metadata()])
    assert back["probe-echo"] == "there" and back["echo-bin"] == bytes(range(256)), back
    print("metadata")

    reply = stub("Echo")(Request(text="x"), timeout=20)
    # grpcio rounds what it sends up.
    assert 10_000 < reply.remaining_ms <= 22_000, reply.remaining_ms
    begun = time.monotonic()
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: stub("Sleep")(Request(sleep_ms=20_000), timeout=0.3))
    assert time.monotonic() - begun < 10, "the deadline was not kept"
    print("deadline")

    error = fails(grpc.StatusCode.INVALID_ARGUMENT, lambda: stub("Fail")(Request(text="falsch: ü %")))
    assert error.details() == "falsch: ü %", error.details()
    status = rpc_status.from_call(error)
    detail = Request()
    assert len(status.details) == 1 and status.details[0].Unpack(detail), status
    assert detail.text == "falsch: ü %", detail
    assert dict(error.trailing_metadata())["probe-cause"] == "asked", error.trailing_metadata()
    print("error details")

    error = fails(grpc.StatusCode.UNIMPLEMENTED, lambda: stub("Nope")(Request()))
    assert "/suite.v1.Probe/Nope" in error.details() and "provides suite.v1.Probe" in error.details(), error.details()
    error = fails(grpc.StatusCode.UNIMPLEMENTED, lambda: stub("Echo", "suite.v1.Nothing")(Request()))
    assert "suite.v1.Nothing" in error.details(), error.details()
    print("unknown method")

    fails(grpc.StatusCode.INTERNAL, lambda: stub("Panic")(Request(text="now")))
    # More than grpcio takes by default, less than RSF sends.
    fails(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: stub("Big")(Request(reply_bytes=5 << 20)))
    error = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: stub("Echo")(Request(payload=bytes(5 << 20))))
    assert "at most 4194304" in error.details(), error.details()
    # Messages of many frames, both ways.
    assert len(stub("Big")(Request(reply_bytes=4_000_000)).payload) == 4_000_000
    assert stub("Echo")(Request(text="x", payload=bytes(4_000_000))).text == "x"
    print("panics and sizes")

    calls = [stub("Echo").future(Request(text=str(number))) for number in range(500)]
    assert [call.result().text for call in calls] == [str(number) for number in range(500)]
    abandoned = stub("Sleep").future(Request(sleep_ms=20_000))
    abandoned.cancel()
    assert stub("Echo")(Request(text="after")).text == "after"
    print("many at once")

    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ["", SERVICE]:
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == serving, name
    fails(grpc.StatusCode.NOT_FOUND, lambda: health.Check(health_pb2.HealthCheckRequest(service="nobody")))
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert next(watch).status == serving
    print("watching health", flush=True)
    # The test ends the provider now.
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    channel.close()
    print("saw it leave", flush=True)


main()
