/** ICMP echo, RFC 792: the bytes. */

export const echoRequest = 8;
export const echoReply = 0;

/** RFC 1071: the ones' complement of the ones' complement sum. */
export function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

export function encodeEcho(id: number, sequence: number, payload: Uint8Array): Buffer {
  const packet = Buffer.alloc(8 + payload.length);
  packet.writeUInt8(echoRequest, 0);
  packet.writeUInt16BE(id, 4);
  packet.writeUInt16BE(sequence, 6);
  packet.set(payload, 8);
  packet.writeUInt16BE(checksum(packet), 2);
  return packet;
}

/** Is this IPv4 packet the answer of `address` to our echo? */
export function isEchoReply(packet: Buffer, address: string, id: number, payload: Uint8Array): boolean {
  if (packet.length < 20 || packet.readUInt8(0) >> 4 !== 4) return false;
  const header = (packet.readUInt8(0) & 15) * 4;
  if (header < 20 || packet.length < header + 8 + payload.length) return false;
  const from = packet.subarray(12, 16).join('.');
  const message = packet.subarray(header);
  return (
    packet.readUInt8(9) === 1 &&
    from === address &&
    message.readUInt8(0) === echoReply &&
    message.readUInt8(1) === 0 &&
    message.readUInt16BE(4) === id &&
    Buffer.compare(message.subarray(8, 8 + payload.length), payload) === 0
  );
}
