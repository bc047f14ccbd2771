/**
 * Which pages of guest memory were written. KVM's dirty log knows what the guest itself wrote, page by page, and so
 * what the processor wrote for it: the accessed bits of page tables. Where a KVM does not log, a copy of memory is
 * compared instead: that also shows what the host wrote on the guest's behalf, and not what was written without a
 * change.
 */
import { debugAids } from '#kvm/debug-probe.ts';
import { type GuestMemory, pageBytes } from '#kvm/memory.ts';
import type { Vm } from '#kvm/vm.ts';

export type DirtyMethod = 'dirty log' | 'comparison with a copy';

/** The better one, if this host has it. */
export function dirtyMethod(wanted: DirtyMethod | 'as this host can'): DirtyMethod {
  if (wanted !== 'as this host can') return wanted;
  return debugAids().dirtyLog ? 'dirty log' : 'comparison with a copy';
}

export interface DirtyPages {
  readonly method: DirtyMethod;
  /** Guest-physical addresses of pages, lowest first: written since the last look. */
  readonly fresh: readonly number[];
  /** Written since the machine was made. */
  readonly all: readonly number[];
}

export class DirtyTracker {
  readonly method: DirtyMethod;
  readonly #vm: Vm;
  readonly #memory: GuestMemory;
  readonly #all = new Set<number>();
  #copy: Buffer | undefined;

  /** Memory as it is now is clean. */
  constructor(vm: Vm, memory: GuestMemory, method: DirtyMethod) {
    this.method = method;
    this.#vm = vm;
    this.#memory = memory;
    if (method === 'comparison with a copy') this.#copy = Buffer.from(memory.bytes);
  }

  /** While no vCPU runs: what is written meanwhile comes with the next look. */
  look(): DirtyPages {
    const fresh = this.#copy ? this.#differing(this.#copy) : this.#vm.takeDirtyPages(this.#memory);
    for (const page of fresh) this.#all.add(page);
    return {
      method: this.method,
      fresh: fresh.map((page) => page * pageBytes),
      all: [...this.#all].toSorted((a, b) => a - b).map((page) => page * pageBytes),
    };
  }

  #differing(copy: Buffer): number[] {
    const { bytes } = this.#memory;
    const pages: number[] = [];
    for (let at = 0; at < bytes.length; at += pageBytes) {
      const now = bytes.subarray(at, at + pageBytes);
      if (copy.subarray(at, at + pageBytes).equals(now)) continue;
      copy.set(now, at);
      pages.push(at / pageBytes);
    }
    return pages;
  }
}
