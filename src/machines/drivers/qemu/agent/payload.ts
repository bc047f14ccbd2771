/** The inside of a frame: numbers, and texts with their length. Pure. */
import { CarrelError } from '#base/errors.ts';

export interface PayloadWriter {
  u8(value: number): PayloadWriter;
  u16(value: number): PayloadWriter;
  u32(value: number): PayloadWriter;
  u64(value: number): PayloadWriter;
  /** Its bytes in UTF-8, and a NUL; `invalid_request` if one is inside. */
  text(value: string): PayloadWriter;
  bytes(value: Uint8Array): PayloadWriter;
  done(): Buffer;
}

export function payload(): PayloadWriter {
  const parts: Buffer[] = [];
  const number = (size: number, write: (to: Buffer) => void): PayloadWriter => {
    const part = Buffer.alloc(size);
    write(part);
    parts.push(part);
    return writer;
  };
  const writer: PayloadWriter = {
    u8: (value) => number(1, (to) => to.writeUInt8(value)),
    u16: (value) => number(2, (to) => to.writeUInt16LE(value)),
    u32: (value) => number(4, (to) => to.writeUInt32LE(value)),
    u64: (value) => number(8, (to) => to.writeBigUInt64LE(BigInt(Math.floor(value)))),
    text(value) {
      if (value.includes('\0'))
        throw new CarrelError('invalid_request', 'a text for a program may not contain a NUL character');
      const bytes = Buffer.from(value);
      writer.u32(bytes.length + 1);
      parts.push(bytes, Buffer.alloc(1));
      return writer;
    },
    bytes(value) {
      parts.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength));
      return writer;
    },
    done: () => Buffer.concat(parts),
  };
  return writer;
}

export interface PayloadReader {
  u32(): number;
  /** `machine_lost` when it is no safe integer: nothing that we ask for is as large. */
  u64(): number;
  rest(): Buffer;
}

/** Reads what the guest says; `machine_lost` when there is less than there should be. */
export function reading(bytes: Buffer): PayloadReader {
  let at = 0;
  const need = (size: number): number => {
    if (bytes.length - at < size)
      throw new CarrelError('machine_lost', "the machine's agent sent an answer that is cut short");
    at += size;
    return at - size;
  };
  return {
    u32: () => bytes.readUInt32LE(need(4)),
    u64() {
      const value = bytes.readBigUInt64LE(need(8));
      if (value > BigInt(Number.MAX_SAFE_INTEGER))
        throw new CarrelError('machine_lost', "the machine's agent sent an impossible number");
      return Number(value);
    },
    rest: () => bytes.subarray(at),
  };
}
