/**
 * Micro-machines: guests of the kit (guests/) on our own VMM, one process for each, hanging off its own keeper. A start is
 * a run: the machine is stopped when its guest has halted, and failed when that ended otherwise.
 *
 * One made of a guest runs that; one made of a root file system with a compiler runs what its user puts among its files.
 */
import { until } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { adoptKept, type Kept } from '#isolate/kept.ts';
import { kvmHere } from '#vmm/apart/device.ts';
import type { Driver, MachineSpec, RunByStart, RunningMachine, Runtime } from '../../driver.ts';
import { endReport, lastEnd, reach } from '../kept.ts';
import { keptDriver, keptMachine, refuse } from '../keptmachine.ts';
import type { DriverHost } from '../table.ts';
import { openConsole } from '../terminal.ts';
import { observeMicro } from './observe.ts';
import { hasBegun, inspectionOf, withFault } from './report.ts';
import { makeRun } from './run.ts';
import { readShared, usageOf, writeShared } from './share.ts';
import { imageOf, prepareMicro, startMicro } from './start.ts';
import { stopMicro } from './stop.ts';
import { validateMicro } from './validate.ts';

export function createMicroDriver(host: DriverHost): Driver {
  const adopt = async (spec: MachineSpec): Promise<RunningMachine | undefined> => {
    const kept = await reach(spec, adoptKept);
    return kept && runningMicro(kept, spec, await runtimeHere(), host);
  };
  return {
    name: 'micro',
    capabilities: {
      pause: true,
      run: true,
      exec: false,
      console: true,
      files: true,
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
    runByStart: runsOf(host),
    files: { read: readShared, write: writeShared },
    inspect: async (spec) => inspectionOf(spec),
    ...keptDriver('micro', host),
    openExec: ({ directory }) => openConsole(directory), // there is no other program
    dropExec: refuse('micro', 'exec'),
  };
}

/** Of each machine one guest is made at a time: a compiler is not cheap, and has one directory to work in. */
function runsOf(host: DriverHost): RunByStart {
  const busy = new Set<string>();
  return {
    hasOwn: ({ kind }) => kind === 'guest',
    async make(spec, request, { signal } = {}) {
      if (busy.has(spec.id))
        throw new CarrelError('wrong_state', `another guest is being made for machine ${spec.name}`, {
          hint: 'wait until that is done',
        });
      busy.add(spec.id);
      try {
        return await makeRun(spec, await imageOf(spec, host), request, { sandboxes: host.sandboxes, signal });
      } finally {
        busy.delete(spec.id);
      }
    },
  };
}

async function runtimeHere(): Promise<Runtime> {
  const { kind } = await kvmHere();
  const note =
    kind === 'emulating'
      ? 'KVM on this host is itself emulated: a guest makes about a million instructions in a second'
      : null;
  return { accelerator: 'kvm', startedFrom: 'image', note };
}

function runningMicro(kept: Kept, spec: MachineSpec, runtime: Runtime, host: DriverHost): RunningMachine {
  const { directory } = spec;
  const { usage, ...machine } = keptMachine(kept, spec, host, (options) =>
    stopMicro(kept, directory, options),
  );
  let over = false;
  const ended = endReport(kept).then((report) => {
    over = true;
    return withFault(report, directory);
  });
  ended.catch(() => undefined); // let go of: then nobody need be waiting
  return {
    ...machine,
    runtime,
    ended,
    async ready({ limitMs }) {
      await until(
        limitMs,
        `the guest of machine ${spec.name} to begin`,
        // a small guest has ended before anybody looks
        () => (over || hasBegun(directory) ? true : undefined),
        { everyMs: 10 },
      );
    },
    run: refuse('micro', 'run'), // it runs already: see runByStart
    exec: refuse('micro', 'exec'),
    console: () => openConsole(directory),
    readFile: (path, options) => readShared(spec, path, options),
    writeFile: (path, bytes, options) => writeShared(spec, path, bytes, options),
    resetPassword: refuse('micro', 'password'),
    stats: async () => observeMicro(usage(), usageOf(spec).bytes),
  };
}
