// What the device service needs besides gRPC: tickets, certificates, signed tasks, chunks.
import crypto from 'node:crypto';
import zlib from 'node:zlib';

export const PROTOCOL = 1;

export function readTicket(text, types) {
  const prefix = 'fedpoet1.';
  if (!text.startsWith(prefix)) throw new Error('not a ticket');
  const bytes = Buffer.from(text.slice(prefix.length).trim(), 'base64url');
  return types.lookupType('fedpoet.v1.Ticket').decode(bytes);
}

export function pem(label, der) {
  const lines = Buffer.from(der).toString('base64').match(/.{1,64}/g).join('\n');
  return Buffer.from(`-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`);
}

// The message for Enroll, and the key that it proves to have.
export function enrollment(secret) {
  const pair = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const publicKey = pair.publicKey.export({ type: 'spki', format: 'der' });
  const signed = Buffer.concat([Buffer.from('fedpoet.v1.Enroll\0'), secret, publicKey]);
  const proof = crypto.sign('sha256', signed, pair.privateKey);
  const key = pair.privateKey.export({ type: 'pkcs8', format: 'pem' });
  return { key: Buffer.from(key), request: { secret, publicKey, proof, protocol: PROTOCOL } };
}

// The task, if the coordinator signed it for this device and it is new.
export function openTask(signed, { authority, deviceId, seen, types }) {
  const certificate = new crypto.X509Certificate(signed.certificate);
  const trusted = new crypto.X509Certificate(authority);
  if (!certificate.checkIssued(trusted) || !certificate.verify(trusted.publicKey)) {
    throw new Error('the task is signed by a stranger');
  }
  const now = Date.now();
  if (now < Date.parse(certificate.validFrom) || now > Date.parse(certificate.validTo)) {
    throw new Error('the signer has expired');
  }
  if (!certificate.subject.split('\n').includes('OU=tasks')) throw new Error('no signer of tasks');
  const bytes = Buffer.concat([Buffer.from('fedpoet.v1.Task\0'), signed.task]);
  if (!crypto.verify('sha256', bytes, certificate.publicKey, signed.signature)) {
    throw new Error('the signature does not hold');
  }
  const type = types.lookupType('fedpoet.v1.Task');
  const task = type.toObject(type.decode(signed.task), { longs: String, oneofs: true });
  const id = Buffer.from(task.taskId).toString('hex');
  if (task.protocol !== PROTOCOL || task.deviceId !== deviceId) throw new Error('not for me');
  if (now > task.expiresAtS * 1000 || seen.has(id)) throw new Error('expired or seen');
  seen.add(id);
  return task;
}

export const sha256 = (...parts) =>
  parts.reduce((hash, part) => hash.update(part), crypto.createHash('sha256')).digest();

// The blob that the chunks of a stream make up.
export function assembled(received, { digest, size }) {
  let offset = 0;
  for (const chunk of received) {
    if (Number(chunk.offsetBytes) !== offset) throw new Error('a chunk is missing');
    if (zlib.crc32(chunk.data) !== chunk.crc32) throw new Error('a chunk is damaged');
    offset += chunk.data.length;
  }
  const blob = Buffer.concat(received.map((chunk) => chunk.data));
  if (blob.length !== size || !sha256(blob).equals(Buffer.from(digest))) {
    throw new Error('another blob came');
  }
  return blob;
}

export function* cut(blob, offset, bytes) {
  for (; offset < blob.length; offset += bytes) {
    const data = blob.subarray(offset, offset + bytes);
    yield { chunk: { offsetBytes: String(offset), data, crc32: zlib.crc32(data) } };
  }
}
