// A device that joins a federation with a ticket, trains some rounds, and leaves.
//
//   node client.mjs HOST:PORT PROTO_FOLDER ROUNDS < ticket
//
// Its workload is called "halves": the arrays are known here, and training halves every number.
import fs from 'node:fs';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import { read, workloadDigest, write } from './safetensors.mjs';
import { PROTOCOL, assembled, cut, enrollment, openTask, pem, readTicket, sha256 } from './wire.mjs';

const [address, protoFolder, rounds] = process.argv.slice(2);
const proto = `${protoFolder}/device.proto`;
const types = protobuf.loadSync(proto);
const { fedpoet } = grpc.loadPackageDefinition(
  loader.loadSync(proto, { longs: String, enums: String, oneofs: true, defaults: true }),
);
const FORMS = [
  { name: 'weight', dtype: 'F32', shape: [300, 400] },
  { name: 'bias', dtype: 'F64', shape: [3] },
  { name: 'count', dtype: 'I64', shape: [] },
];

const connect = (...credentials) =>
  new fedpoet.v1.DeviceService(address, grpc.credentials.createSsl(...credentials));

const call = (stub, name, request) =>
  new Promise((resolve, reject) => {
    stub[name](request, (error, reply) => (error ? reject(error) : resolve(reply)));
  });

async function join(ticket) {
  const authority = pem('CERTIFICATE', ticket.authority);
  const stranger = connect(
    authority, pem('PRIVATE KEY', ticket.privateKey), pem('CERTIFICATE', ticket.certificate),
  );
  const hello = await call(stranger, 'Hello', { protocol: PROTOCOL, client: 'node' });
  const { key, request } = enrollment(Buffer.from(ticket.secret));
  const { deviceId, certificateChain } = await call(stranger, 'Enroll', request);
  stranger.close();
  const stub = connect(authority, key, certificateChain);
  return { stub, deviceId, authority, chunkBytes: hello.chunkBytes };
}

async function model(stub, task) {
  const received = [];
  const stream = stub.FetchModel({ digest: task.modelDigest, offsetBytes: '0' });
  for await (const chunk of stream) received.push(chunk);
  return assembled(received, { digest: task.modelDigest, size: Number(task.modelBytes) });
}

function train(arrays) {
  for (const { dtype, bytes } of arrays.values()) {
    const Typed = { F32: Float32Array, F64: Float64Array, I64: BigInt64Array }[dtype];
    const values = new Typed(bytes.buffer);
    values.forEach((value, i) => { values[i] = dtype === 'I64' ? value + 1n : value / 2; });
  }
  return write(arrays);
}

// Sends from an offset on; `most` chunks at most, after which the stream is given up.
function send(stub, header, blob, offset, chunkBytes, most = Infinity) {
  return new Promise((resolve, reject) => {
    const stream = stub.SendUpdate((error, receipt) => (error ? reject(error) : resolve(receipt)));
    stream.write({ header: { ...header, offsetBytes: String(offset) } });
    let sent = 0;
    for (const part of cut(blob, offset, chunkBytes)) {
      if (sent++ === most) break;
      stream.write(part);
    }
    stream.end();
  });
}

async function update(stub, task, blob, chunkBytes, examples) {
  const digest = sha256(blob);
  const metrics = { 'num-examples': { integer: String(examples) }, 'train-loss': { real: 0.5 } };
  const header = {
    taskId: task.taskId, digest, sizeBytes: String(blob.length), metrics, modelDigest: task.modelDigest,
  };
  const small = Math.min(chunkBytes, 100_000);
  // The connection is lost after two chunks; the rest goes in another call.
  await send(stub, header, blob, 0, small, 2).catch((error) => {
    if (error.metadata.get('fedpoet-reason')[0] !== 'incomplete') throw error;
  });
  const { offsetBytes } = await call(stub, 'UpdateOffset', { taskId: task.taskId, digest });
  if (Number(offsetBytes) !== 2 * small) throw new Error(`the update goes on at ${offsetBytes}`);
  const receipt = await send(stub, header, blob, Number(offsetBytes), small);
  const again = await send(stub, header, blob, 0, small);
  if (again.receivedAtS !== receipt.receivedAtS) throw new Error('another receipt');
}

const ticket = readTicket(fs.readFileSync(0, 'utf8'), types);
const { stub, deviceId, authority, chunkBytes } = await join(ticket);
const digest = workloadDigest('halves', FORMS);
await call(stub, 'Report', {
  profile: 'node', deviceKind: process.version, freeRamBytes: '1000000000', ramBudgetBytes: '100000000',
  charging: true, idle: true, unmetered: true, ready: true, workloads: [{ name: 'halves', digest }],
});
const seen = new Set();
const waiting = stub.Wait({ protocol: PROTOCOL });
for await (const notice of waiting) {
  if (notice.notice !== 'task') continue;
  const task = openTask(notice.task, { authority, deviceId, seen, types });
  if (!digest.equals(Buffer.from(task.workloadDigest))) throw new Error('another workload');
  const trained = train(read(await model(stub, task)));
  await update(stub, task, trained, chunkBytes, 10);
  process.stdout.write(`${JSON.stringify({ round: task.round, config: Object.keys(task.config) })}\n`);
  if (seen.size === Number(rounds)) break;
}
waiting.cancel();
await call(stub, 'Leave', {});
stub.close();
