/** vmcalls of a run, and what they would have cost as ports. What is simulated says so in every line. */
import { hex } from '#base/units.ts';
import type { ExitCosts } from '#vmm/vmcall/cost.ts';
import type { CallCount, TracedCall, VmcallReport } from '#vmm/vmcall/log.ts';
import { type Column, renderTable } from '../../ui/table.ts';

const us = (value: number): string => `${value < 10 ? value.toFixed(1) : Math.round(value)} µs`;

const answerOf = (result: bigint): string => (result < 0n ? `, answered ${result}` : '');

const call = ({ nr, name, count, result }: CallCount): string =>
  `${count} ${name ?? 'unknown'} (${nr}${answerOf(result)})`;

/** `vcpu 0: 11 vmcalls (simulated): 10 add (101), 1 print (102); none left the kernel`. */
export function drawVmcalls(vcpu: number, { simulated, total, exits, calls }: VmcallReport): string {
  const label = simulated ? ' (simulated)' : ' that KVM handed to the monitor';
  const left = simulated ? `; ${exits === 0 ? 'none' : exits} left the kernel` : '';
  return `vcpu ${vcpu}: ${total} ${total === 1 ? 'vmcall' : 'vmcalls'}${label}: ${calls.map(call).join(', ')}${left}`;
}

const words: readonly Column<TracedCall>[] = ['RBX', 'RCX', 'RDX', 'RSI'].map((head, index) => ({
  head,
  cell: (call) => hex(call.words[index] ?? 0n),
}));

/** The calls one by one, to be read beside the trace of exits. */
export function traceVmcalls(vcpu: number, { simulated, last }: VmcallReport): string {
  return renderTable(last, [
    { head: 'VCPU', cell: () => vcpu },
    { head: 'AFTER EXIT', cell: ({ afterExit }) => afterExit, align: 'right' },
    {
      head: simulated ? 'VMCALL (SIMULATED)' : 'VMCALL',
      cell: ({ nr, name }) => `${name ?? 'unknown'} (${nr})`,
    },
    ...words,
    { head: 'ANSWER', cell: ({ result }) => (result < 0n ? String(result) : hex(result)) },
  ]);
}

/** What `count` calls cost, as vmcalls and as ports. */
export function drawCosts({ kernelUs, kernelBy, monitorUs }: ExitCosts, count: number): string {
  const measured = kernelBy === 'vmcall' ? 'measured with vmcall' : 'measured with cpuid, in place of vmcall';
  const calls = count === 1 ? '1 vmcall' : `${count} vmcalls`;
  return [
    `cost (simulated): ${calls} ${us(count * kernelUs)}; as port hypercalls ${us(count * monitorUs)}`,
    `  on this host an exit that KVM serves in the kernel takes ${us(kernelUs)} (${measured}), one to the monitor ${us(monitorUs)} (measured with out)`,
  ].join('\n');
}
