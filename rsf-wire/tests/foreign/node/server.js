// gRPC's interop service, served by grpc-js.
//
// usage: server.js   Prints `port N`, then a line for each call that was abandoned.
const { grpc, TestService, payload } = require('./service.js');

const ECHO = { initial: 'x-grpc-test-echo-initial', trailing: 'x-grpc-test-echo-trailing-bin' };

// Sends the initial metadata back at once; what belongs behind the reply is returned.
function echoed(call) {
  const [initial, trailing] = [new grpc.Metadata(), new grpc.Metadata()];
  for (const value of call.metadata.get(ECHO.initial)) initial.add(ECHO.initial, value);
  for (const value of call.metadata.get(ECHO.trailing)) trailing.add(ECHO.trailing, value);
  if (initial.get(ECHO.initial).length > 0) call.sendMetadata(initial);
  return trailing;
}

const failure = ({ code, message }) => ({ code, details: message });
const fails = (request) => request.response_status && request.response_status.code !== 0;

const handlers = {
  EmptyCall: (_, reply) => reply(null, {}),
  UnaryCall(call, reply) {
    const trailing = echoed(call);
    if (fails(call.request)) return reply(failure(call.request.response_status));
    if (call.request.response_size < 0) {
      console.log('began');
      call.on('cancelled', () => console.log('abandoned'));
      return undefined;
    }
    return reply(null, { payload: payload(call.request.response_size) }, trailing);
  },
  StreamingOutputCall(call) {
    for (const { size } of call.request.response_parameters) call.write({ payload: payload(size) });
    call.end();
  },
  StreamingInputCall(call, reply) {
    let size = 0;
    call.on('data', (request) => (size += request.payload.body.length));
    call.on('end', () => reply(null, { aggregated_payload_size: size }));
  },
  FullDuplexCall(call) {
    const trailing = echoed(call);
    call.on('data', (request) => {
      if (fails(request)) return call.emit('error', failure(request.response_status));
      for (const { size } of request.response_parameters) call.write({ payload: payload(size) });
      return undefined;
    });
    call.on('end', () => call.end(trailing));
  },
};

const server = new grpc.Server({ 'grpc.max_receive_message_length': -1 });
server.addService(TestService.service, handlers);
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`port ${port}`);
});
