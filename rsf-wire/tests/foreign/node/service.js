// What client and server share: gRPC's interop service by its schema.
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const schema = loader.loadSync(path.join(__dirname, '..', 'testing.proto'), { keepCase: true, defaults: true });
const { TestService, UnimplementedService } = grpc.loadPackageDefinition(schema).grpc.testing;

module.exports = {
  grpc,
  TestService,
  UnimplementedService,
  STREAM_SIZES: [31415, 9, 2653, 58979],
  INPUT_SIZES: [27182, 8, 1828, 45904],
  payload: (size) => ({ body: Buffer.alloc(size) }),
};
