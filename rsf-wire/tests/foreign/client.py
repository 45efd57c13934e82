"""gRPC's interop cases, called by grpcio.

usage: client.py host:port case...   Prints one line for each case that held, and fails with the first that did not.
"""

import queue
import sys
import threading

import grpc

messages, services = grpc.protos_and_services("testing.proto")
CODE = grpc.StatusCode
STREAM_SIZES = (31415, 9, 2653, 58979)
INPUT_SIZES = (27182, 8, 1828, 45904)


def payload(size):
    return messages.Payload(body=bytes(size))


def fails(code, call):
    try:
        reply = call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        return error
    raise AssertionError(f"{code} was expected, and {str(reply)[:100]!r} came")


def asks(size, with_bytes):
    parameters = [messages.ResponseParameters(size=size)]
    return messages.StreamingOutputCallRequest(response_parameters=parameters, payload=payload(with_bytes))


class Cases:
    def __init__(self, address):
        # Each case on a connection of its own would hide what one leaves behind for the next.
        self.channel = grpc.insecure_channel(address)
        self.stub = services.TestServiceStub(self.channel)

    def empty_unary(self):
        assert self.stub.EmptyCall(messages.Empty()) == messages.Empty()

    def large_unary(self):
        reply = self.stub.UnaryCall(messages.SimpleRequest(response_size=314159, payload=payload(271828)))
        assert len(reply.payload.body) == 314159

    def many_at_once(self):
        request = messages.SimpleRequest(response_size=2000, payload=payload(3000))
        calls = [self.stub.UnaryCall.future(request) for _ in range(500)]
        assert all(len(call.result().payload.body) == 2000 for call in calls)

    def custom_metadata(self):
        sent = (("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))
        request = messages.SimpleRequest(response_size=314159, payload=payload(271828))
        _, call = self.stub.UnaryCall.with_call(request, metadata=sent)
        assert sent[0] in tuple(call.initial_metadata()), call.initial_metadata()
        assert sent[1] in tuple(call.trailing_metadata()), call.trailing_metadata()

    def status_code_and_message(self):
        self.status("test status message")

    def special_status_message(self):
        self.status("\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n")

    def status(self, text):
        status = messages.EchoStatus(code=2, message=text)
        error = fails(CODE.UNKNOWN, lambda: self.stub.UnaryCall(messages.SimpleRequest(response_status=status)))
        assert error.details() == text, error.details()

    def unimplemented_method(self):
        fails(CODE.UNIMPLEMENTED, lambda: self.stub.UnimplementedCall(messages.Empty()))

    def unimplemented_service(self):
        stub = services.UnimplementedServiceStub(self.channel)
        fails(CODE.UNIMPLEMENTED, lambda: stub.UnimplementedCall(messages.Empty()))

    def compressed_unary(self):
        request = messages.SimpleRequest(response_size=10_000, payload=payload(5000))
        response = self.stub.UnaryCall(request, compression=grpc.Compression.Gzip)
        assert len(response.payload.body) == 10_000
        fails(CODE.UNIMPLEMENTED, lambda: self.stub.UnaryCall(request, compression=grpc.Compression.Deflate))

    def cancel_unary(self):
        call = self.stub.UnaryCall.future(messages.SimpleRequest(response_size=-1))
        call.cancel()
        assert call.cancelled() and call.code() == CODE.CANCELLED

    def timeout_unary(self):
        request = messages.SimpleRequest(response_size=-1)
        fails(CODE.DEADLINE_EXCEEDED, lambda: self.stub.UnaryCall(request, timeout=0.2))

    def client_streaming(self):
        requests = (messages.StreamingInputCallRequest(payload=payload(size)) for size in INPUT_SIZES)
        assert self.stub.StreamingInputCall(requests).aggregated_payload_size == sum(INPUT_SIZES)

    def server_streaming(self):
        parameters = [messages.ResponseParameters(size=size) for size in STREAM_SIZES]
        replies = self.stub.StreamingOutputCall(messages.StreamingOutputCallRequest(response_parameters=parameters))
        assert tuple(len(reply.payload.body) for reply in replies) == STREAM_SIZES

    def ping_pong(self):
        with Talk(self.stub) as talk:
            for size, with_bytes in zip(STREAM_SIZES, INPUT_SIZES):
                talk.say(asks(size, with_bytes))
                assert len(next(talk.replies).payload.body) == size
            talk.end()
            assert list(talk.replies) == []

    def empty_stream(self):
        assert list(self.stub.FullDuplexCall(iter(()))) == []

    def cancel_after_begin(self):
        with Talk(self.stub) as talk:
            call = self.stub.StreamingInputCall.future(talk.said())
            call.cancel()
            assert call.cancelled() and call.code() == CODE.CANCELLED

    def cancel_after_first_response(self):
        with Talk(self.stub) as talk:
            talk.say(asks(31415, 27182))
            assert len(next(talk.replies).payload.body) == 31415
            talk.replies.cancel()
            fails(CODE.CANCELLED, lambda: next(talk.replies))

    def timeout_on_sleeping_server(self):
        with Talk(self.stub, timeout=0.2) as talk:
            talk.say(messages.StreamingOutputCallRequest(payload=payload(27182)))
            fails(CODE.DEADLINE_EXCEEDED, lambda: next(talk.replies))

    def status_of_a_stream(self):
        with Talk(self.stub) as talk:
            status = messages.EchoStatus(code=2, message="test status message")
            talk.say(messages.StreamingOutputCallRequest(response_status=status))
            talk.end()
            error = fails(CODE.UNKNOWN, lambda: list(talk.replies))
            assert error.details() == "test status message"


class Talk:
    """A stream whose requests are said one by one."""

    def __init__(self, stub, timeout=20):
        self.queue = queue.Queue()
        self.replies = stub.FullDuplexCall(self.said(), timeout=timeout)

    def say(self, request):
        self.queue.put(request)

    def end(self):
        self.queue.put(None)

    def said(self):
        while (request := self.queue.get()) is not None:
            yield request

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Twice: `cancel_after_begin` reads it twice.
        self.end()
        self.end()


def main():
    cases = Cases(sys.argv[1])
    # A case that hangs is a case that failed.
    guard = threading.Timer(40, lambda: (print("hangs", flush=True), sys.stdout.flush(), __import__("os")._exit(3)))
    guard.daemon = True
    guard.start()
    for name in sys.argv[2:]:
        try:
            getattr(cases, name)()
        except Exception as error:
            print(f"{name} failed: {error!r}", flush=True)
            sys.exit(1)
        print(name, flush=True)


if __name__ == "__main__":
    main()
