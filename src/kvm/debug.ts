/** The debug registers: DR0 to DR3 hold addresses, DR7 says what for. Intel SDM volume 3B, 18.2. */

/** Stop before an instruction at the address, after a write to it, or after any access. */
export const debugKinds = ['execute', 'write', 'access'] as const;
export type DebugKind = (typeof debugKinds)[number];

export interface DebugRegister {
  readonly kind: DebugKind;
  /** Linear; a multiple of `bytes`. */
  readonly address: bigint;
  /** 1 for instructions. */
  readonly bytes: 1 | 2 | 4 | 8;
}

/** How many addresses a processor watches. */
export const debugRegisterCount = 4;

const kindBits: Readonly<Record<DebugKind, bigint>> = { execute: 0n, write: 1n, access: 3n };
const lengthBits = { 1: 0n, 2: 1n, 4: 3n, 8: 2n } as const;
/** Bit 10 is always set (SDM figure 18-1). */
const alwaysSet = 0x400n;

/** DR7 for these registers, the first in DR0. Global enables, for a guest may switch tasks. */
export function debugControl(registers: readonly DebugRegister[]): bigint {
  let control = alwaysSet;
  for (const [index, { kind, bytes }] of registers.entries()) {
    const at = BigInt(index);
    control |= 2n << (at * 2n);
    control |= (kindBits[kind] | (lengthBits[bytes] << 2n)) << (16n + at * 4n);
  }
  return control;
}

/** The registers that DR6 names. */
export function triggered(status: bigint): number[] {
  return [0, 1, 2, 3].filter((index) => (status & (1n << BigInt(index))) !== 0n);
}
