/**
 * Guest memory by linear address, as a hypercall or a debugger wants it. Every byte goes through the guest's own
 * page tables, and must then lie in the window of its vCPU: what the guest hands us is never used as an address
 * of the host.
 */
import type { SpecialRegisters } from '#kvm/registers.ts';
import { pageBytes } from '#kvm/memory.ts';
import { type Layout, windowBytes } from './layout.ts';
import type { PagingState } from './paging/formats.ts';
import { type ReadEntry, type Walk, walkPages } from './paging/walk.ts';

/** An address that leads nowhere, and why. */
export class BadAddress {
  readonly address: bigint;
  readonly why: string;

  constructor(address: bigint, why: string) {
    this.address = address;
    this.why = why;
  }
}

export function pagingOf(special: SpecialRegisters): PagingState {
  return {
    cr0: special.get('cr0'),
    cr3: special.get('cr3'),
    cr4: special.get('cr4'),
    efer: special.get('efer'),
  };
}

export class AddressSpace {
  readonly #layout: Pick<Layout, 'memory' | 'base'>;
  readonly paging: PagingState;

  constructor(layout: Pick<Layout, 'memory' | 'base'>, special: SpecialRegisters) {
    this.#layout = layout;
    this.paging = pagingOf(special);
  }

  /** Entries may lie anywhere in guest memory: the processor does not know of windows. */
  readonly readEntry: ReadEntry = (at, bytes) => {
    const { memory } = this.#layout;
    if (at + BigInt(bytes) > BigInt(memory.length)) return undefined;
    return bytes === 4
      ? BigInt(memory.view.getUint32(Number(at), true))
      : memory.view.getBigUint64(Number(at), true);
  };

  walk(linear: bigint): Walk {
    return walkPages(this.readEntry, this.paging, linear);
  }

  /** The bytes themselves from `linear` to the end of its page, or as many as are wanted. */
  #piece(linear: bigint, wanted: number): Uint8Array | BadAddress {
    const { result } = this.walk(linear);
    if (!result.mapped) return new BadAddress(linear, result.why);
    const { memory, base } = this.#layout;
    const length = Math.min(wanted, pageBytes - Number(linear % BigInt(pageBytes)));
    const offset = result.physical - BigInt(base);
    const bytes =
      offset >= 0n && offset + BigInt(length) <= BigInt(windowBytes)
        ? memory.slice(result.physical, length)
        : undefined;
    return (
      bytes ??
      new BadAddress(
        linear,
        `guest-physical 0x${result.physical.toString(16)} is outside of this vCPU's memory`,
      )
    );
  }

  /** The bytes of a range, page by page; nothing is copied. */
  pieces(linear: bigint, length: number): Uint8Array[] | BadAddress {
    const pieces: Uint8Array[] = [];
    for (let done = 0; done < length;) {
      const piece = this.#piece(linear + BigInt(done), length - done);
      if (piece instanceof BadAddress) return piece;
      pieces.push(piece);
      done += piece.length;
    }
    return pieces;
  }

  /** A copy. */
  read(linear: bigint, length: number): Uint8Array | BadAddress {
    if (length > windowBytes) return new BadAddress(linear, `${length} bytes are more than there is`);
    const pieces = this.pieces(linear, length);
    return pieces instanceof BadAddress ? pieces : Buffer.concat(pieces);
  }

  /** Writes all of it, or nothing. */
  write(linear: bigint, data: Uint8Array): BadAddress | undefined {
    if (data.length > windowBytes)
      return new BadAddress(linear, `${data.length} bytes are more than there is`);
    const pieces = this.pieces(linear, data.length);
    if (pieces instanceof BadAddress) return pieces;
    let done = 0;
    for (const piece of pieces) {
      piece.set(data.subarray(done, done + piece.length));
      done += piece.length;
    }
    return undefined;
  }

  /** The bytes before the next NUL. Memory ends before the guest's patience does: never more than a window. */
  readString(linear: bigint): Uint8Array | BadAddress {
    const pieces: Uint8Array[] = [];
    for (let done = 0; done <= windowBytes;) {
      const piece = this.#piece(linear + BigInt(done), pageBytes);
      if (piece instanceof BadAddress) return piece;
      const end = piece.indexOf(0);
      if (end >= 0) return Buffer.concat([...pieces, piece.subarray(0, end)]);
      pieces.push(piece);
      done += piece.length;
    }
    return new BadAddress(linear, 'no NUL byte follows in the whole memory');
  }
}
