/** Where code and page tables lie, and where addresses lead through them. */
import { formatOf } from '../../paging/formats.ts';
import type { Region } from '../map.ts';
import { type Fact, number } from './fact.ts';

/** From the lowest to the highest address of regions of a kind. */
function extent(regions: readonly Region[], kind: Region['kind']): { from: bigint; to: bigint } | undefined {
  const of = regions.filter((region) => region.kind === kind);
  if (of.length === 0) return undefined;
  return {
    from: BigInt(Math.min(...of.map(({ from }) => from))),
    to: BigInt(Math.max(...of.map(({ to }) => to))),
  };
}

export const tableFacts: readonly Fact[] = [
  {
    name: 'code.from',
    when: 'before',
    doc: 'first guest-physical address of the guest’s code',
    value: ({ map }) => extent(map.regions, 'code')?.from,
  },
  {
    name: 'code.to',
    when: 'before',
    doc: 'the first one behind it',
    value: ({ map }) => extent(map.regions, 'code')?.to,
  },
  {
    name: 'tables.from',
    when: 'before',
    doc: 'first guest-physical address of the page tables',
    value: ({ map }) => extent(map.regions, 'table')?.from,
  },
  {
    name: 'tables.to',
    when: 'before',
    doc: 'the first one behind them',
    value: ({ map }) => extent(map.regions, 'table')?.to,
  },
  {
    name: 'tables.count',
    when: 'before',
    doc: 'pages that page tables occupy',
    value: ({ map }) => BigInt(map.tables.length),
  },
  {
    name: 'table.at',
    argument: 'table',
    when: 'before',
    doc: 'guest-physical address of a table: PML4, PDPT, PD, PT',
    value: ({ map }, name) => map.tables.find(({ table }) => table === name)?.at,
  },
  {
    name: 'table.entry',
    argument: 'address',
    when: 'before',
    doc: 'the page table entry at a guest-physical address',
    value: ({ space }, at) => space.readEntry(BigInt(at), formatOf(space.paging).entryBytes),
  },
  {
    name: 'walk.levels',
    argument: 'address',
    when: 'before',
    doc: 'tables that are read to translate a guest-virtual address',
    value: ({ space }, at) => BigInt(space.walk(BigInt(at)).steps.length),
  },
  {
    name: 'walk.page',
    argument: 'address',
    when: 'before',
    doc: 'size of the page that a guest-virtual address lies in, or: none',
    value: ({ space }, at) => {
      const { result } = space.walk(BigInt(at));
      return (result.mapped ? number(result.pageBytes) : undefined) ?? 'none';
    },
  },
  {
    name: 'walk',
    argument: 'address',
    when: 'before',
    doc: 'guest-physical address of a guest-virtual one, or: not mapped',
    value: ({ space }, at) => {
      const { result } = space.walk(BigInt(at));
      return result.mapped ? result.physical : 'not mapped';
    },
  },
  {
    name: 'walk.why',
    argument: 'address',
    when: 'before',
    doc: 'why a guest-virtual address is not mapped, or: mapped',
    value: ({ space }, at) => {
      const { result } = space.walk(BigInt(at));
      return result.mapped ? 'mapped' : result.why;
    },
  },
];
