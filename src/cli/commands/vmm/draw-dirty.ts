/** Pages that were written, as a map: a character for each page, and what lies in those that were. */
import { hex } from '#base/units.ts';
import { pageBytes } from '#kvm/memory.ts';
import type { DirtyMethod, DirtyPages } from '#vmm/inspect/dirty.ts';
import { mapOf, type VcpuMap } from '#vmm/inspect/map.ts';
import type { Machine } from '#vmm/machine.ts';

/** Pages in a line: 256 KiB, and it fits a terminal. */
const rowPages = 64;

export interface DirtyWindow {
  readonly vcpu: number;
  /** Guest-physical, lowest first: found since the machine was made. */
  readonly pages: readonly number[];
  /** Of these, those that changed. */
  readonly changed: readonly number[];
}

function windowsOf(machine: Machine, { all, changed }: DirtyPages): DirtyWindow[] {
  const bytes = machine.memory.length / machine.vcpus.length;
  return machine.vcpus.map(({ layout: { base } }, vcpu) => {
    const isInside = (at: number): boolean => at >= base && at < base + bytes;
    return { vcpu, pages: all.filter(isInside), changed: changed.filter(isInside) };
  });
}

/** By vCPU; undefined for a machine that does not watch. */
export function dirtyOf(
  machine: Machine,
): { readonly method: DirtyMethod; readonly vcpus: readonly DirtyWindow[] } | undefined {
  const found = machine.dirty?.look();
  return found && { method: found.method, vcpus: windowsOf(machine, found) };
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

/** `0x2000 PML4, 1 entry`; pages that follow each other and are alike are one line. */
function ranges(map: VcpuMap, { pages, changed }: DirtyWindow): string[] {
  const runs: { from: number; to: number; what: string; isChanged: boolean }[] = [];
  for (const page of pages) {
    const what = contents(map, page);
    const isChanged = changed.includes(page);
    const last = runs.at(-1);
    if (last?.to === page && last.what === what && last.isChanged === isChanged) last.to = page + pageBytes;
    else runs.push({ from: page, to: page + pageBytes, what, isChanged });
  }
  return runs.map(({ from, to, what, isChanged }) =>
    `  ${isChanged ? '█' : '▒'} ${hex(from)}-${hex(to - 1)}  ${what}`.trimEnd(),
  );
}

const legends: Readonly<Record<DirtyMethod, string>> = {
  'dirty log': '█ changed, ▒ logged (written without a change, or read first), · neither',
  'comparison with a copy': '█ changed, · not',
};

function drawWindow(map: VcpuMap, window: DirtyWindow, method: DirtyMethod): string {
  const { pages, changed } = window;
  const count = map.bytes / pageBytes;
  const lines = [`vcpu ${map.vcpu}: ${pages.length} of ${count} pages, by ${method}: ${legends[method]}`];
  for (let row = 0; row < count; row += rowPages) {
    const from = map.base + row * pageBytes;
    const marks = Array.from({ length: rowPages }, (_, index) => {
      const page = from + index * pageBytes;
      if (changed.includes(page)) return '█';
      return pages.includes(page) ? '▒' : '·';
    });
    lines.push(`${hex(from).padStart(10)} ${marks.join('')}`);
  }
  return [...lines, ...ranges(map, window)].join('\n');
}

export function drawDirty(machine: Machine): string {
  const found = dirtyOf(machine);
  if (!found) return '';
  return machine.vcpus
    .flatMap((vcpu, index) => {
      const window = found.vcpus[index];
      return window ? [drawWindow(mapOf(machine, vcpu, index), window, found.method)] : [];
    })
    .join('\n\n');
}
