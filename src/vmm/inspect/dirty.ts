/**
 * Which pages of guest memory were written. KVM's dirty log knows, page by page, what the guest wrote, and what the
 * processor wrote for it: the accessed bits of page tables. It may know too much: hardware KVM maps a page that is
 * read first as writable, and logs that. So a copy of memory is compared besides: what changed was written for sure,
 * by the guest or by the host on its behalf; what is logged and did not change was read first, or written with what
 * was there. Where a KVM does not log, the comparison alone is the answer.
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
  /** Guest-physical addresses of pages, lowest first: found since the last look. */
  readonly fresh: readonly number[];
  /** Found since the machine was made. */
  readonly all: readonly number[];
  /** Of these, the pages that are other now than when the machine was made. */
  readonly changed: readonly number[];
}

const sorted = (pages: Iterable<number>): number[] =>
  [...pages].toSorted((a, b) => a - b).map((page) => page * pageBytes);

export class DirtyTracker {
  readonly method: DirtyMethod;
  readonly #vm: Vm;
  readonly #memory: GuestMemory;
  readonly #copy: Buffer;
  readonly #all = new Set<number>();

  /** Memory as it is now is clean. */
  constructor(vm: Vm, memory: GuestMemory, method: DirtyMethod) {
    this.method = method;
    this.#vm = vm;
    this.#memory = memory;
    this.#copy = Buffer.from(memory.bytes);
  }

  /** While no vCPU runs: what is written meanwhile comes with the next look. */
  look(): DirtyPages {
    const changed = this.#changed();
    const logged = this.method === 'dirty log' ? this.#vm.takeDirtyPages(this.#memory) : [];
    const found = this.method === 'dirty log' ? logged : changed.filter((page) => !this.#all.has(page));
    for (const page of found) this.#all.add(page);
    return {
      method: this.method,
      fresh: sorted(found),
      all: sorted(this.#all),
      changed: sorted(changed.filter((page) => this.#all.has(page))),
    };
  }

  #changed(): number[] {
    const { bytes } = this.#memory;
    const pages: number[] = [];
    for (let at = 0; at < bytes.length; at += pageBytes)
      if (!this.#copy.subarray(at, at + pageBytes).equals(bytes.subarray(at, at + pageBytes)))
        pages.push(at / pageBytes);
    return pages;
  }
}
