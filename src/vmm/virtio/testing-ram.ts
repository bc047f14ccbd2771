/** RAM for tests of whatever reaches into a guest's memory: what lies around it must not be touched. */
import assert from 'node:assert/strict';
import { syscall } from '#host/syscalls.ts';
import { GuestMemory } from '#kvm/memory.ts';

const canary = 0xc5;
/** Whole pages, so that they can be fenced. */
const guard = 65_536;

const PROT_NONE = 0;
const PROT_READ_WRITE = 3;
const PRIVATE_FIXED_ANONYMOUS = 0x02 | 0x10 | 0x20;

/** RAM with canaries before and behind it. */
export class GuardedRam extends GuestMemory {
  readonly #all: Uint8Array;

  constructor(bytes: number) {
    const whole = bytes + 2 * guard;
    // growable, because V8 gives such a buffer pages of its own
    const buffer = new SharedArrayBuffer(whole, { maxByteLength: whole });
    super({ buffer, offset: guard, length: bytes });
    this.#all = new Uint8Array(buffer).fill(canary);
    this.bytes.fill(0);
  }

  /**
   * Takes away the pages around it: from now on one byte read or written outside ends this process (SIGSEGV), and is
   * EFAULT to the kernel. Not to be undone by a test that goes on, but by its end.
   */
  fence(): Disposable {
    const sides = [this.#all.subarray(0, guard), this.#all.subarray(guard + this.length)];
    const protect = (protection: number): void => {
      for (const side of sides) syscall('mmap', side, guard, protection, PRIVATE_FIXED_ANONYMOUS, -1, 0);
    };
    protect(PROT_NONE);
    return { [Symbol.dispose]: () => protect(PROT_READ_WRITE) };
  }

  assertIntact(): void {
    const around = [this.#all.subarray(0, guard), this.#all.subarray(guard + this.length)];
    for (const side of around)
      assert.ok(
        side.every((byte) => byte === canary),
        'written outside of RAM',
      );
  }
}
