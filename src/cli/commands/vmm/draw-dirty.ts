/** Pages that were written, as a map: a character for each page, and what lies in those that were. */
import { pageBytes } from '#kvm/memory.ts';
import type { DirtyPages } from '#vmm/inspect/dirty.ts';
import { mapOf, type VcpuMap } from '#vmm/inspect/map.ts';
import type { Machine } from '#vmm/machine.ts';
import { hex } from '#vmm/inspect/plain.ts';

/** Pages in a line: 256 KiB, and it fits a terminal. */
const rowPages = 64;

export interface DirtyWindow {
  readonly vcpu: number;
  /** Guest-physical, lowest first. */
  readonly pages: readonly number[];
}

/** By vCPU. `written` is all since the machine was made. */
export function dirtyOf(machine: Machine): { method: string; vcpus: DirtyWindow[] } {
  const { method, all } = machine.dirty?.look() ?? ({ method: 'dirty log', all: [] } as const);
  return {
    method,
    vcpus: machine.vcpus.map(({ layout }, vcpu) => ({ vcpu, pages: inWindow(all, layout.base, machine) })),
  };
}

function inWindow(pages: readonly number[], base: number, machine: Machine): number[] {
  const bytes = machine.memory.length / machine.vcpus.length;
  return pages.filter((at) => at >= base && at < base + bytes);
}

const names = { code: 'code and data', stack: 'stack' } as const;

/** What lies in a page. */
function contents({ regions }: VcpuMap, page: number): string {
  const found = regions.flatMap(({ kind, what, from, to }) => {
    if (from >= page + pageBytes || to <= page || kind === 'empty') return [];
    if (kind === 'table') return [what];
    // of the stretch below the stack only its last pages are the stack's for sure
    return kind === 'code' || to - page <= 0x1_0000 ? [names[kind]] : [];
  });
  return found.join(', ');
}

/** `0x2000 PML4, 1 entry`; pages that follow each other and hold the same are one line. */
function ranges(map: VcpuMap, pages: readonly number[]): string[] {
  const runs: { from: number; to: number; what: string }[] = [];
  for (const page of pages) {
    const what = contents(map, page);
    const last = runs.at(-1);
    if (last?.to === page && last.what === what) last.to = page + pageBytes;
    else runs.push({ from: page, to: page + pageBytes, what });
  }
  return runs.map(({ from, to, what }) => `  ${hex(from)}-${hex(to - 1)}  ${what}`.trimEnd());
}

function drawWindow(map: VcpuMap, pages: readonly number[], method: DirtyPages['method']): string {
  const written = new Set(pages);
  const count = map.bytes / pageBytes;
  const lines = [`vcpu ${map.vcpu}: ${pages.length} of ${count} pages written (${method}); █ written, · not`];
  for (let row = 0; row < count; row += rowPages) {
    const at = map.base + row * pageBytes;
    const marks = Array.from({ length: rowPages }, (_, index) =>
      written.has(at + index * pageBytes) ? '█' : '·',
    );
    lines.push(`${hex(at).padStart(10)} ${marks.join('')}`);
  }
  return [...lines, ...ranges(map, pages)].join('\n');
}

export function drawDirty(machine: Machine): string {
  if (!machine.dirty) return '';
  const { method, all } = machine.dirty.look();
  return machine.vcpus
    .map((vcpu, index) => {
      const map = mapOf(machine, vcpu, index);
      return drawWindow(map, inWindow(all, map.base, machine), method);
    })
    .join('\n\n');
}
