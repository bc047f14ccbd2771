/** `carrel vmm probe`. */
import { openKvm } from '#kvm/kvm.ts';
import { debugAids } from '#kvm/debug-probe.ts';
import { probeKvm } from '#kvm/probe.ts';
import { tryHello } from '#vmm/hello.ts';
import { emulationLimit } from '#vmm/linux/emulated.ts';
import { modeNames } from '#vmm/modes/mode.ts';
import { describeTrial, probeVmcall } from '#vmm/vmcall/probe.ts';
import type { Action } from '../../spec.ts';
import { renderTable } from '../../ui/table.ts';
import { plain } from '#vmm/inspect/plain.ts';

const kinds = {
  absent: 'there is none',
  forbidden: 'it may not be opened by this account',
  broken: 'it opens, and runs nothing',
  emulating: 'it emulates the kernel side of guests: our own small guests run, unmodified systems do not',
  real: 'it runs on hardware',
} as const;

const aids = [
  { name: 'execute', what: 'breakpoints in debug registers', instead: 'found by single steps' },
  { name: 'data', what: 'watchpoints in debug registers', instead: 'found by single steps' },
  { name: 'dirtyLog', what: 'a log of the pages written', instead: 'found by comparison with a copy' },
] as const;

export const vmmProbe: Action = async ({ out }) => {
  const { kind, systemCalls } = await probeKvm();
  using kvm = openKvm(); // says why if there is none
  const answers = kvm.capabilities();
  const modes = [];
  for (const name of modeNames) modes.push(await tryHello(name));
  const debug = debugAids();
  const vmcall = await probeVmcall();
  const result = {
    debug,
    kind,
    linux: { runs: systemCalls, ...(!systemCalls && { reason: emulationLimit }) },
    version: kvm.version,
    runBytes: kvm.runBytes,
    modes: modes.map(({ mode, ok, reason }) => ({ mode, runs: ok, reason })),
    vmcall: { ...vmcall },
    capabilities: Object.fromEntries(answers.map(({ name, value }) => [name, value])),
  };
  out.result(plain(result), () =>
    [
      `KVM: ${kinds[kind]}. API version ${result.version}, kvm_run of ${result.runBytes} bytes.`,
      systemCalls ? 'Linux: runs (carrel vmm linux).' : `Linux: ${emulationLimit}.`,
      renderTable(result.modes, [
        { head: 'MODE', cell: ({ mode }) => mode },
        { head: 'RUNS', cell: ({ runs }) => (runs ? 'yes' : 'no') },
        { head: 'WHY NOT', cell: ({ reason }) => reason ?? '' },
      ]),
      renderTable(aids, [
        { head: 'DEBUGGING', cell: ({ what }) => what },
        { head: 'HERE', cell: ({ name }) => (debug[name] ? 'yes' : 'no') },
        { head: 'ELSE', cell: ({ name, instead }) => (debug[name] ? '' : instead) },
      ]),
      renderTable(
        [
          { what: 'a call that nobody has', trial: vmcall.unknown },
          { what: 'MAP_GPA_RANGE', trial: vmcall.mapGpaRange },
          { what: 'with the oddities of this KVM', trial: vmcall.untouched },
        ],
        [
          { head: 'VMCALL', cell: ({ what }) => what },
          { head: 'WHAT BECOMES OF IT', cell: ({ trial }) => describeTrial(trial) },
        ],
      ),
      renderTable(answers, [
        { head: 'CAPABILITY', cell: ({ name }) => name },
        { head: 'HERE', cell: ({ value, unit }) => (unit ? `${value} ${unit}` : value > 0 ? 'yes' : 'no') },
        { head: 'WHAT IT IS', cell: ({ doc }) => doc },
      ]),
    ].join('\n\n'),
  );
  return undefined;
};
