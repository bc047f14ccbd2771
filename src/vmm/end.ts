/** How a vCPU's run can end. Each end has a sentence; only `halted` is what a guest means to do. */
import { formatDuration, formatSize, hex } from '#base/units.ts';
import { describeHit, type Hit } from './debug/breakpoint.ts';
import type { Fault } from './fault/fault.ts';
import { exceptionName, pageFault } from './fault/vectors.ts';

export type End =
  /** The guest executed hlt. */
  | { readonly kind: 'halted' }
  /** A port that the map does not know, or not in this direction. */
  | {
      readonly kind: 'unknown port';
      readonly port: number;
      readonly direction: 'in' | 'out';
      readonly size: number;
      /** RIP lies behind the guest's code: it executes what is no code. */
      readonly astray: boolean;
    }
  /** A hypercall without a result was handed an address that leads nowhere. */
  | {
      readonly kind: 'bad pointer';
      readonly call: string;
      readonly address: bigint;
      readonly why: string;
    }
  /** The guest's own fault handler handed the exception to us (guests/idt.h). */
  | {
      readonly kind: 'gave up';
      readonly vector: number;
      readonly errorCode: bigint;
      readonly rip: bigint;
      /** CR2: the address of a page fault. */
      readonly address: bigint;
    }
  | { readonly kind: 'time limit'; readonly ms: number }
  | { readonly kind: 'output limit'; readonly bytes: number }
  /** As many single steps as were asked for. */
  | { readonly kind: 'steps done'; readonly count: number }
  /** One or more breakpoints were met at the same instruction; the first says by which means. */
  | { readonly kind: 'breakpoint'; readonly hits: readonly Hit[] }
  /** Somebody stopped it from outside. */
  | { readonly kind: 'stopped' }
  | { readonly kind: 'fault'; readonly fault: Fault };

/** For people, without a full stop. */
export function describeEnd(end: End): string {
  switch (end.kind) {
    case 'halted':
      return 'halted';
    case 'unknown port':
      return `unknown port ${hex(end.port)} (${end.port}), direction ${end.direction}, ${end.size} ${end.size === 1 ? 'byte' : 'bytes'}${end.astray ? '; RIP is behind the end of the code, a hlt or a return is missing' : ''}`;
    case 'bad pointer':
      return `bad pointer in ${end.call}: ${hex(end.address)}, ${end.why}`;
    case 'gave up': {
      const where = end.vector === pageFault ? `, address ${hex(end.address)}` : '';
      return `the guest's handler gave up: ${exceptionName(end.vector)}, error code ${hex(end.errorCode)}, RIP ${hex(end.rip)}${where}`;
    }
    case 'time limit':
      return `time limit: ${formatDuration(end.ms)}`;
    case 'output limit':
      return `output limit: ${formatSize(end.bytes)}`;
    case 'steps done':
      return `stopped after ${end.count} steps`;
    case 'breakpoint':
      return `breakpoint: ${end.hits.map(describeHit).join('; ')}${end.hits[0]?.method === 'single step' ? ' (found by single steps)' : ''}`;
    case 'stopped':
      return 'stopped from outside';
    case 'fault':
      return `${end.fault.exit}: ${end.fault.cause}`;
    default:
      end satisfies never;
      return '';
  }
}
