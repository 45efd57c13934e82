// gRPC's interop cases, called by grpc-js.
//
// usage: client.js host:port case...   Prints one line for each case that held, and fails with the first that did not.
const assert = require('node:assert');
const { grpc, TestService, UnimplementedService, STREAM_SIZES, INPUT_SIZES, payload } = require('./service.js');

const [address, ...names] = process.argv.slice(2);
const options = [grpc.credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 }];
// Each case on a connection of its own would hide what one leaves behind for the next.
const stub = new TestService(address, ...options);
const other = new UnimplementedService(address, ...options);
const { status } = grpc;

// A unary call as a promise of its reply, or of its error.
function unary(method, request, more = {}) {
  const of = more.stub ?? stub;
  const seen = {};
  const reply = new Promise((resolve, reject) => {
    const metadata = more.metadata ?? new grpc.Metadata();
    const call = of[method](request, metadata, { deadline: more.deadline }, (error, value) => (error ? reject(error) : resolve(value)));
    call.on('metadata', (initial) => (seen.initial = initial));
    call.on('status', (end) => (seen.trailing = end.metadata));
    seen.call = call;
  });
  return Object.assign(reply, { seen });
}

async function fails(code, promise) {
  const error = await promise.then(
    (value) => assert.fail(`${status[code]} was expected, and ${String(value)} came`),
    (error) => error,
  );
  assert.strictEqual(error.code, code, `${status[error.code]} instead of ${status[code]}: ${error.details}`);
  return error;
}

// What a stream says from now on.
function heard(call) {
  const replies = [];
  return new Promise((resolve, reject) => {
    call.on('data', (reply) => replies.push(reply.payload.body.length));
    call.on('end', () => resolve(replies));
    call.on('error', reject);
  });
}

const next = (call) =>
  new Promise((resolve, reject) => {
    call.once('data', (reply) => resolve(reply.payload.body.length));
    call.once('error', reject);
  });

const asks = (size, withBytes) => ({ response_parameters: [{ size }], payload: payload(withBytes) });
const soon = (millis) => new Date(Date.now() + millis);

async function statusIs(message) {
  const error = await fails(status.UNKNOWN, unary('UnaryCall', { response_status: { code: 2, message } }));
  assert.strictEqual(error.details, message);
}

const cases = {
  async empty_unary() {
    assert.deepStrictEqual(await unary('EmptyCall', {}), {});
  },
  async large_unary() {
    const reply = await unary('UnaryCall', { response_size: 314159, payload: payload(271828) });
    assert.strictEqual(reply.payload.body.length, 314159);
  },
  async many_at_once() {
    const request = { response_size: 2000, payload: payload(3000) };
    const replies = await Promise.all(Array.from({ length: 500 }, () => unary('UnaryCall', request)));
    assert(replies.every((reply) => reply.payload.body.length === 2000));
  },
  async custom_metadata() {
    const metadata = new grpc.Metadata();
    metadata.set('x-grpc-test-echo-initial', 'test_initial_metadata_value');
    metadata.set('x-grpc-test-echo-trailing-bin', Buffer.from('ababab', 'hex'));
    const call = unary('UnaryCall', { response_size: 314159, payload: payload(271828) }, { metadata });
    await call;
    assert.deepStrictEqual(call.seen.initial.get('x-grpc-test-echo-initial'), ['test_initial_metadata_value']);
    assert.deepStrictEqual(call.seen.trailing.get('x-grpc-test-echo-trailing-bin'), [Buffer.from('ababab', 'hex')]);
  },
  status_code_and_message: () => statusIs('test status message'),
  special_status_message: () => statusIs('\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n'),
  unimplemented_method: () => fails(status.UNIMPLEMENTED, unary('UnimplementedCall', {})),
  unimplemented_service: () => fails(status.UNIMPLEMENTED, unary('UnimplementedCall', {}, { stub: other })),
  async cancel_unary() {
    const call = unary('UnaryCall', { response_size: -1 });
    // Once it is under way.
    setTimeout(() => call.seen.call.cancel(), 100);
    await fails(status.CANCELLED, call);
  },
  timeout_unary: () => fails(status.DEADLINE_EXCEEDED, unary('UnaryCall', { response_size: -1 }, { deadline: soon(200) })),
  async client_streaming() {
    const total = await new Promise((resolve, reject) => {
      const call = stub.StreamingInputCall((error, value) => (error ? reject(error) : resolve(value)));
      for (const size of INPUT_SIZES) call.write({ payload: payload(size) });
      call.end();
    });
    assert.strictEqual(total.aggregated_payload_size, INPUT_SIZES.reduce((sum, size) => sum + size));
  },
  async server_streaming() {
    const call = stub.StreamingOutputCall({ response_parameters: STREAM_SIZES.map((size) => ({ size })) });
    assert.deepStrictEqual(await heard(call), STREAM_SIZES);
  },
  async ping_pong() {
    const call = stub.FullDuplexCall();
    for (const [place, size] of STREAM_SIZES.entries()) {
      call.write(asks(size, INPUT_SIZES[place]));
      assert.strictEqual(await next(call), size);
    }
    const rest = heard(call);
    call.end();
    assert.deepStrictEqual(await rest, []);
  },
  async empty_stream() {
    const call = stub.FullDuplexCall();
    const replies = heard(call);
    call.end();
    assert.deepStrictEqual(await replies, []);
  },
  async cancel_after_begin() {
    const call = new Promise((resolve, reject) => {
      const call = stub.StreamingInputCall((error, value) => (error ? reject(error) : resolve(value)));
      setTimeout(() => call.cancel(), 100);
    });
    await fails(status.CANCELLED, call);
  },
  async cancel_after_first_response() {
    const call = stub.FullDuplexCall();
    call.write(asks(31415, 27182));
    assert.strictEqual(await next(call), 31415);
    const rest = heard(call);
    call.cancel();
    await fails(status.CANCELLED, rest);
  },
  async timeout_on_sleeping_server() {
    const call = stub.FullDuplexCall(new grpc.Metadata(), { deadline: soon(200) });
    call.write({ payload: payload(27182) });
    await fails(status.DEADLINE_EXCEEDED, heard(call));
  },
  async status_of_a_stream() {
    const call = stub.FullDuplexCall();
    const replies = heard(call);
    call.write({ response_status: { code: 2, message: 'test status message' } });
    call.end();
    assert.strictEqual((await fails(status.UNKNOWN, replies)).details, 'test status message');
  },
};

async function main() {
  for (const name of names) {
    // A case that hangs is a case that failed.
    const guard = setTimeout(() => {
      console.log(`${name} hangs`);
      process.exit(3);
    }, 20000);
    try {
      await cases[name]();
    } catch (error) {
      console.log(`${name} failed: ${error.stack}`);
      process.exit(1);
    }
    clearTimeout(guard);
    console.log(name);
  }
  stub.close();
  other.close();
}

main();
