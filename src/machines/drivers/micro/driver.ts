/**
 * Micro-machines: a guest of the kit (guests/) on our own VMM, one process for each, hanging off its own keeper. A start
 * is a run: the machine is stopped when its guest has halted, and failed when that ended otherwise.
 */
import { join } from 'node:path';
import { until } from '#base/deadline.ts';
import { probeKvm } from '#kvm/probe.ts';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { adoptKept, type Kept, machineGroup } from '#isolate/kept.ts';
import {
  type Capability,
  type Driver,
  type MachineSpec,
  type RunningMachine,
  type Runtime,
  unsupported,
} from '../../driver.ts';
import {
  endReport,
  isFrozen,
  killKept,
  lastEnd,
  reach,
  removeDirectory,
  tidyKept,
  tracesOf,
} from '../kept.ts';
import type { DriverHost } from '../table.ts';
import { openConsole } from '../terminal.ts';
import { observeMicro } from './observe.ts';
import { hasBegun, inspectionOf, withFault } from './report.ts';
import { prepareMicro, startMicro } from './start.ts';
import { stopMicro } from './stop.ts';
import { validateMicro } from './validate.ts';

const refuse = (capability: Capability) => async (): Promise<never> => {
  throw unsupported('micro', capability);
};

export function createMicroDriver(host: DriverHost): Driver {
  let known: Promise<Runtime> | undefined;
  const runtimeHere = (): Promise<Runtime> => (known ??= findRuntime());
  const adopt = async (spec: MachineSpec): Promise<RunningMachine | undefined> => {
    const kept = await reach(spec, adoptKept);
    return kept && runningMicro(kept, spec, await runtimeHere(), host);
  };
  return {
    name: 'micro',
    capabilities: {
      pause: true,
      run: false,
      exec: false,
      console: true,
      files: false,
      stats: true,
      snapshot: false,
      clone: false,
      password: false,
      inspect: true,
    },
    validate: validateMicro,
    prepare: (spec) => prepareMicro(spec, host),
    async start(spec) {
      const running = await adopt(spec);
      if (running) return running;
      const runtime = await runtimeHere();
      return runningMicro(await startMicro(spec, host), spec, runtime, host);
    },
    adopt,
    lastEnd: ({ directory }) => withFault(lastEnd(directory), directory),
    inspect: async (spec) => inspectionOf(spec),
    kill: (spec) => killKept(spec, host),
    tidy: (spec) => tidyKept(spec, host),
    async remove(spec) {
      await tidyKept(spec, host);
      await removeDirectory(spec, host);
    },
    snapshot: refuse('snapshot'),
    restore: refuse('snapshot'),
    dropSnapshot: refuse('snapshot'),
    openExec: ({ directory }) => openConsole(directory), // there is no other program
    dropExec: refuse('exec'),
    traces: async () => tracesOf(host),
    async sweep(id) {
      const directory = join(host.directory, id);
      await killKept({ id, directory }, host);
      await tidyKept({ id }, host);
      await removeDirectory({ directory, image: '' }, host);
    },
  };
}

async function findRuntime(): Promise<Runtime> {
  const { kind } = await probeKvm();
  const note =
    kind === 'emulating'
      ? 'KVM on this host is itself emulated: a guest makes about a million instructions in a second'
      : null;
  return { accelerator: 'kvm', startedFrom: 'image', note };
}

function runningMicro(
  kept: Kept,
  spec: MachineSpec,
  runtime: Runtime,
  { instance }: DriverHost,
): RunningMachine {
  const { directory } = spec;
  const layout = readCgroupLayout();
  const group = machineGroup(instance, spec.id, layout);
  let frozen = isFrozen(layout, group.path);
  let over = false;
  const ended = endReport(kept).then((report) => {
    over = true;
    return withFault(report, directory);
  });
  ended.catch(() => undefined); // let go of: then nobody need be waiting
  const thaw = async (): Promise<void> => {
    await group.freeze(false);
    frozen = false;
  };
  kept.console.onOutput(() => undefined); // what it prints is recorded; nobody waits for it here
  return {
    process: { pid: kept.initPid, startTime: kept.initStartTime },
    runtime,
    ended,
    async stop(options) {
      if (frozen) await thaw(); // the frozen hear no signal
      await stopMicro(kept, directory, options);
    },
    async pause() {
      await group.freeze(true);
      frozen = true;
    },
    resume: thaw,
    isPaused: () => frozen,
    isStalled: () => Promise.resolve(false), // it writes nothing but its report
    async ready({ limitMs }) {
      await until(
        limitMs,
        `the guest of machine ${spec.name} to begin`,
        // a small guest has ended before anybody looks
        () => (over || hasBegun(directory) ? true : undefined),
        { everyMs: 10 },
      );
    },
    run: refuse('run'),
    exec: refuse('exec'),
    console: () => openConsole(directory),
    readFile: refuse('files'),
    writeFile: refuse('files'),
    resetPassword: refuse('password'),
    stats: async () => observeMicro(group.usage()),
    release: () => kept.close(),
  };
}
