/** Where a guest shall stop, and what is known when it did. */
import { hex } from '#base/units.ts';
import type { DebugKind, DebugRegister } from '#kvm/debug.ts';

export interface Breakpoint extends DebugRegister {
  /** As it was asked for: a symbol, or an address. */
  readonly label: string;
}

/**
 * How it is noticed. 'debug registers': by the processor, at full speed. 'single step': one instruction at a time,
 * because this host's KVM has no such breakpoint or there are more than four; thousands of times slower.
 */
export type BreakMethod = 'debug registers' | 'single step';

export interface Hit {
  readonly breakpoint: Breakpoint;
  readonly method: BreakMethod;
  /** Before which the guest stands now. */
  readonly rip: bigint;
  /** The instruction that did it; only single steps tell. */
  readonly by?: bigint;
  /** Of memory that is watched: its bytes when it was last looked at, and now, as hexadecimal digits. */
  readonly was?: string;
  readonly is?: string;
}

const verbs: Readonly<Record<DebugKind, string>> = {
  execute: 'reached',
  write: 'written',
  access: 'accessed',
};

/** `main (0x5) reached`, `0x400 written: 00000000 -> 2a000000`. */
export function describeHit({ breakpoint, was, is }: Hit): string {
  const { label, address, kind } = breakpoint;
  const where = label === hex(address) ? label : `${label} (${hex(address)})`;
  const change = was === undefined || is === undefined ? '' : was === is ? `: ${is}` : `: ${was} -> ${is}`;
  return `${where} ${verbs[kind]}${change}`;
}
