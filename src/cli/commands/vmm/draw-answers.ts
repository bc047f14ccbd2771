/** The answers to a course's questions on one page: what a student hands in, from the machine itself. */
import { formatDuration, formatSize, hex } from '#base/units.ts';
import { describeEnd } from '#vmm/end.ts';
import type { Answers, HostPlace, VcpuAnswers } from '#vmm/inspect/answers.ts';
import { sourceLine } from '#vmm/inspect/source.ts';
import type { MappedRange } from '#vmm/paging/ranges.ts';
import type { TracedExit } from '#vmm/trace.ts';
import { drawCode } from './draw-code.ts';
import { drawMap, marksOf } from './draw-map.ts';
import { drawWalk } from './draw-walk.ts';

const plural = (count: number, word: string): string => `${count} ${word}${count === 1 ? '' : 's'}`;

const indent = (text: string): string => text.replaceAll(/^(?=.)/gm, '  ');

function host({ hostVirtual, bytes, mapping, hostPhysical }: HostPlace): string[] {
  const end = hostVirtual + BigInt(bytes);
  return [
    `host-virtual ${hex(hostVirtual)} to ${hex(end - 1n)}`,
    ...(mapping
      ? [
          `in a ${mapping.shared ? 'shared' : 'private'} mapping, ${mapping.rights}, of ${mapping.path === '' ? 'anonymous memory' : mapping.path} (/proc/self/maps)`,
        ]
      : []),
    hostPhysical === 0n
      ? 'host-physical: not told (no page yet, or no right to read /proc/self/pagemap)'
      : `host-physical ${hex(hostPhysical)}, its first page (/proc/self/pagemap)`,
  ];
}

function memory({ memory: place, vcpus }: Answers): string[] {
  const windows = vcpus.length === 1 ? '' : `, ${vcpus.length} windows`;
  return [
    `${hex(place.bytes)} bytes (${formatSize(place.bytes)}) from guest-physical 0x0 on${windows}`,
    ...host(place),
    `allocated in ${sourceLine('src/kvm/memory.ts', 'new SharedArrayBuffer')}, handed to KVM in ${sourceLine('src/kvm/vm.ts', "'SET_USER_MEMORY_REGION'")}`,
  ];
}

const runPage = ({ before, run }: VcpuAnswers): string[] => [
  `kvm_run of vcpu ${before.vcpu}: ${run.bytes} bytes; the host’s alone, at no guest address`,
  ...host(run),
  `holds why the guest left (exit_reason), the port, size and direction of an I/O exit and its data, and registers`,
  `mapped in ${sourceLine('src/kvm/runpage.ts', "syscall('mmap'")}; its layout: ${sourceLine('src/kvm/abi/structs.ts', 'export const kvmRun')}`,
];

const regions = ({ before }: VcpuAnswers): string[] => [
  ...drawMap(before, marksOf(before.registers, before)).split('\n'),
  `code is placed in ${sourceLine('src/vmm/image/place.ts', 'export function placeImage')}; tables and registers: ${sourceLine('src/vmm/machine.ts', 'this.mode.setUp')}`,
];

function range({ linear, physical, bytes, pageBytes, writable, user }: MappedRange): string {
  const pages = pageBytes === undefined ? '' : `, pages of ${formatSize(pageBytes)}`;
  const rights = `${writable ? 'writable' : 'read-only'}, ${user ? 'user too' : 'kernel only'}`;
  return `virtual ${hex(linear)} to ${hex(linear + bytes - 1n)} -> physical ${hex(physical)} to ${hex(physical + bytes - 1n)}${pages}; ${rights}`;
}

function paging({ before, walks }: VcpuAnswers): string[] {
  const { format, levels, tablePages, ranges, isPart } = before.paging;
  if (format === 'none') return ['no paging: an address is its guest-physical address', ...ranges.map(range)];
  const used = [...new Set(before.tables.map(({ table }) => table))];
  return [
    `${format} paging: of ${levels.join(', ')} this guest uses ${used.join(', ')}: ${plural(used.length, 'level')}, ${plural(tablePages, 'page')} of 4 KiB`,
    ...ranges.map(range),
    ...(isPart ? ['and more'] : []),
    ...walks.map((walk) => drawWalk(walk, before.registers.cr3)),
  ];
}

const start = ({ before }: VcpuAnswers): string[] => [
  `RIP is ${hex(before.registers.rip)}, RSP ${hex(before.registers.rsp)}; set in ${sourceLine('src/vmm/machine.ts', 'rip: BigInt')} by KVM_SET_REGS`,
  ...drawCode(before.code.slice(0, 4), before.registers.rip).split('\n'),
];

/** `0x48 H`. */
function value({ value: sent, size }: TracedExit): string {
  if (sent === undefined) return '';
  const isLetter = size === 1 && sent > 0x20 && sent < 0x7f;
  return isLetter ? `${hex(sent)} ${String.fromCharCode(Number(sent))}` : hex(sent);
}

function ports({ result, data }: VcpuAnswers): string[] {
  const { exits, trace } = result;
  const io = trace?.exits.find(({ port }) => port !== undefined);
  const reasons = Object.entries(exits.byReason).map(([reason, count]) => `${count} ${reason}`);
  return [
    ...exits.ports.map(
      ({ port, direction, count }) => `port ${hex(port)} (${port}), ${direction}: ${plural(count, 'exit')}`,
    ),
    ...(io
      ? [
          `the first: ${io.size} ${io.size === 1 ? 'byte' : 'bytes'}, ${value(io)}, ${formatDuration(io.ns / 1e6)} after the first instruction`,
        ]
      : []),
    ...(data
      ? [
          `its data lay in kvm_run at data_offset ${hex(data.offset)}: host-virtual ${hex(data.hostVirtual)}; read in ${sourceLine('src/kvm/runpage.ts', 'ioValue(index')}`,
        ]
      : []),
    `${plural(exits.total, 'exit')} in all (${reasons.join(', ')}), counted in ${sourceLine('src/vmm/counters.ts', 'count(page')}; ${describeEnd(result.end)}`,
  ];
}

function writes({ result, written, writer }: VcpuAnswers): string[] {
  const lines = written.words
    .filter(({ where }) => where !== 'stack')
    .slice(0, 8)
    .map(
      ({ linear, physical, hostVirtual, was, is, name }) =>
        `virtual ${hex(linear)}${name === undefined ? '' : ` (${name})`}, physical ${hex(physical)}, host-virtual ${hex(hostVirtual)}: ${hex(was)} -> ${hex(is)} (${is})`,
    );
  const by = writer?.instruction;
  return [
    ...(lines.length === 0 ? ['nothing was written but the stack'] : lines),
    ...(by ? [`${hex(writer.word.linear)} was written by:`, drawCode([by])] : []),
    `RAX at the end: ${hex(result.registers.rax)} (${result.registers.rax})`,
    `the host reads memory as bytes of its own (${sourceLine('src/kvm/memory.ts', 'slice(at')}) and RAX by KVM_GET_REGS (${sourceLine('src/kvm/vcpu.ts', "'GET_REGS'")})`,
  ];
}

const section = (title: string, lines: readonly string[]): string => `${title}\n${indent(lines.join('\n'))}`;

export function drawAnswers(answers: Answers): string {
  const perVcpu = (lines: (vcpu: VcpuAnswers) => string[]): string[] =>
    answers.vcpus.flatMap((vcpu) =>
      answers.vcpus.length === 1 ? lines(vcpu) : [`vcpu ${vcpu.before.vcpu}`, indent(lines(vcpu).join('\n'))],
    );
  return [
    `${answers.title}, looked at live`,
    section('a.1  Guest memory: how much, and where', memory(answers)),
    section('a.2  Other memory', perVcpu(runPage)),
    section('a.3  What lies where', perVcpu(regions)),
    section('a.4  The page tables', perVcpu(paging)),
    section('a.5  Where the guest begins', perVcpu(start)),
    section('a.6  Ports and exits', perVcpu(ports)),
    section('a.7  What was written', perVcpu(writes)),
  ].join('\n\n');
}
