/**
 * Netlink messages as data: netlink(7), rtnetlink(7). Pure: bytes in, values out. Integers are in host order,
 * which is little-endian on the one architecture we run on; addresses are bytes as they go over the wire.
 *
 *   message:   u32 length | u16 type | u16 flags | u32 sequence | u32 port | fixed header | attributes
 *   attribute: u16 length | u16 type | payload, padded to 4
 */
import { CarrelError } from '#base/errors.ts';

/** What an attribute can hold. A list is nested attributes. */
export type AttributeValue =
  | { readonly u8: number }
  | { readonly u16: number }
  | { readonly u32: number }
  /** NUL-terminated text. */
  | { readonly text: string }
  | { readonly bytes: Uint8Array }
  | { readonly nested: readonly Attribute[] }
  /** A fixed header followed by attributes (a veth's peer). */
  | { readonly header: Uint8Array; readonly nested: readonly Attribute[] };

export interface Attribute {
  readonly type: number;
  readonly value: AttributeValue;
}

export interface Message {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  /** Fixed header and attributes. */
  readonly body: Uint8Array;
}

const HEADER = 16;
const ATTRIBUTE_HEADER = 4;
const NESTED = 0x8000;
const TYPE_MASK = 0x3fff;

const align4 = (length: number): number => (length + 3) & ~3;

function payloadOf(value: AttributeValue): Uint8Array {
  if ('u8' in value) return Uint8Array.of(value.u8);
  if ('u16' in value) return new Uint8Array(Uint16Array.of(value.u16).buffer);
  if ('u32' in value) return new Uint8Array(Uint32Array.of(value.u32).buffer);
  if ('text' in value) {
    if (value.text.includes('\0')) throw new CarrelError('internal', 'a name holds a NUL character');
    return Buffer.from(`${value.text}\0`);
  }
  if ('bytes' in value) return value.bytes;
  const nested = encodeAttributes(value.nested);
  return 'header' in value ? Buffer.concat([value.header, nested]) : nested;
}

/** Attributes one after the other, each padded to four bytes. */
export function encodeAttributes(attributes: readonly Attribute[]): Uint8Array {
  const parts = attributes.map(({ type, value }) => {
    const payload = payloadOf(value);
    const length = ATTRIBUTE_HEADER + payload.length;
    if (length > 0xffff) throw new CarrelError('internal', `a netlink attribute of ${length} bytes`);
    const part = new Uint8Array(align4(length));
    const view = new DataView(part.buffer);
    view.setUint16(0, length, true);
    view.setUint16(2, type | ('nested' in value && !('header' in value) ? NESTED : 0), true);
    part.set(payload, ATTRIBUTE_HEADER);
    return part;
  });
  return Buffer.concat(parts);
}

/** All attributes in their order. Stops at the first malformed length. */
function* walk(bytes: Uint8Array): Generator<[type: number, payload: Uint8Array]> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + ATTRIBUTE_HEADER <= bytes.length;) {
    const length = view.getUint16(at, true);
    if (length < ATTRIBUTE_HEADER || at + length > bytes.length) return;
    yield [view.getUint16(at + 2, true) & TYPE_MASK, bytes.subarray(at + ATTRIBUTE_HEADER, at + length)];
    at += align4(length);
  }
}

/** Payloads by attribute type; the last of each wins. */
export function decodeAttributes(bytes: Uint8Array): Map<number, Uint8Array> {
  return new Map(walk(bytes));
}

/** Payloads of a list, whose elements all have one type. */
export function decodeList(bytes: Uint8Array): Uint8Array[] {
  return Array.from(walk(bytes), ([, payload]) => payload);
}

export function encodeMessage({ type, flags, sequence, body }: Message): Uint8Array {
  const message = new Uint8Array(align4(HEADER + body.length));
  const view = new DataView(message.buffer);
  view.setUint32(0, HEADER + body.length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags, true);
  view.setUint32(8, sequence, true);
  message.set(body, HEADER);
  return message;
}

/** All messages of one datagram. Throws on a length that cannot be. */
export function decodeMessages(bytes: Uint8Array): Message[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const messages: Message[] = [];
  for (let at = 0; at + HEADER <= bytes.length;) {
    const length = view.getUint32(at, true);
    if (length < HEADER || at + length > bytes.length)
      throw new CarrelError(
        'internal',
        `malformed netlink message: length ${length} of ${bytes.length - at}`,
      );
    messages.push({
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      body: bytes.subarray(at + HEADER, at + length),
    });
    at += align4(length);
  }
  return messages;
}

/** u32 of a payload, or undefined if it is shorter. */
export function readU32(payload: Uint8Array | undefined, offset = 0): number | undefined {
  if (!payload || payload.length < offset + 4) return undefined;
  return new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getUint32(offset, true);
}

/** Text up to the first NUL. */
export function readText(payload: Uint8Array | undefined): string | undefined {
  if (!payload) return undefined;
  const end = payload.indexOf(0);
  return Buffer.from(end < 0 ? payload : payload.subarray(0, end)).toString('utf8');
}
