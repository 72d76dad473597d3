// The safetensors format by hand: a length, a header in JSON, and the arrays' bytes.
import { sha256 } from './wire.mjs';

export function read(blob) {
  const length = Number(blob.readBigUInt64LE(0));
  const header = JSON.parse(blob.subarray(8, 8 + length).toString());
  const arrays = new Map();
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const bytes = Uint8Array.from(blob.subarray(8 + length + from, 8 + length + to));
    arrays.set(name, { dtype, shape, bytes });
  }
  return arrays;
}

export function write(arrays) {
  const header = {};
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of arrays) {
    header[name] = { dtype, shape, data_offsets: [offset, offset += bytes.length] };
  }
  let text = JSON.stringify(header);
  text += ' '.repeat((8 - (Buffer.byteLength(text) % 8)) % 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([length, Buffer.from(text), ...[...arrays.values()].map((a) => a.bytes)]);
}

// Task.workload_digest in device.proto.
export function workloadDigest(name, forms) {
  const texts = [name];
  const sorted = [...forms].sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
  for (const { name: array, dtype, shape } of sorted) texts.push(array, dtype, shape.join(','));
  return sha256(...texts.map((text) => Buffer.from(`${text}\0`)));
}
