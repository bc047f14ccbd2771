/** A virtual machine that runs. */
import { CarrelError } from '#base/errors.ts';
import { type Kept, machineGroup } from '#isolate/kept.ts';
import type { MachineSpec, RunningMachine } from '../../driver.ts';
import { newPassword } from '../../password.ts';
import { endReport } from '../kept.ts';
import type { DriverHost } from '../table.ts';
import { createSerialRunner } from './agentless.ts';
import type { Agents } from './agents.ts';
import { openConsole } from '../terminal.ts';
import { observeVm } from './observe.ts';
import { hashPassword } from './password.ts';
import { nothing, runState, withQmp } from './qmp.ts';
import { untilReady } from './ready.ts';
import type { VmRuntime } from './runtime.ts';
import { stopVm } from './stop.ts';

/** Of a guest that wrote when the host's disk was full (werror=enospc, which is what a disk has unless told otherwise). */
const fullState = 'io-error';
/** It waits for `cont`. */
const pausedStates: ReadonlySet<string> = new Set(['paused', fullState]);

/** For a guest that has just gone on: whoever woke it is waiting. */
const clockMs = 3000;

export interface RunningParts extends DriverHost {
  readonly agents: Agents;
}

/** What is known of a machine whose keeper has been reached. */
export async function openRunning(
  kept: Kept,
  spec: MachineSpec,
  runtime: VmRuntime,
  parts: RunningParts,
): Promise<RunningMachine> {
  const { status: state } = await withQmp(spec.directory, (qmp) => qmp.execute('query-status', {}, runState));
  return runningVm(kept, spec, runtime, parts, pausedStates.has(state));
}

/** QEMU is not frozen: with its processors stopped it uses nothing. */
export function runningVm(
  kept: Kept,
  spec: MachineSpec,
  { agent: hasAgent, ...runtime }: VmRuntime,
  { agents, instance, fabric }: RunningParts,
  startsPaused = false,
): RunningMachine {
  const { directory } = spec;
  const group = machineGroup(instance, spec.id);
  const ofGuest = { kept, directory, agents, hasAgent };
  let paused = startsPaused;
  const command = (name: string): Promise<unknown> =>
    withQmp(directory, (qmp) => qmp.execute(name, {}, nothing));
  const runOnConsole = createSerialRunner(directory);
  const needAgent = (): void => {
    if (hasAgent) return;
    throw new CarrelError('driver_unsupported', `the image of machine ${spec.name} has no agent`, {
      hint: 'run commands, which go over its console, or use ssh',
    });
  };
  kept.console.onOutput(() => undefined); // what the serial line says is recorded; nobody waits for it here
  return {
    process: { pid: kept.initPid, startTime: kept.initStartTime },
    runtime,
    ended: endReport(kept),
    stop: (options) => stopVm(ofGuest, options),
    async pause() {
      await command('stop');
      paused = true;
    },
    async resume() {
      await command('cont');
      paused = false;
      if (!hasAgent) return;
      // it has no idea that it stood still; one that cannot be told is a machine with a wrong clock, and runs
      await agents
        .use(directory, (agent) => agent.setClock({ limitMs: clockMs }), { limitMs: clockMs })
        .catch(() => undefined);
    },
    isPaused: () => paused,
    async isStalled() {
      const { status: state } = await withQmp(directory, (qmp) => qmp.execute('query-status', {}, runState));
      const stalled = state === fullState;
      paused ||= stalled;
      return stalled;
    },
    ready: (options) => untilReady(ofGuest, options),
    run: (request, options) =>
      hasAgent
        ? agents.use(directory, (agent) => agent.run(request, options))
        : runOnConsole(request, options),
    async exec(id, request) {
      needAgent();
      await agents.use(directory, (agent) => agent.startKept(id, request));
    },
    console: () => openConsole(directory),
    async readFile(path, options) {
      needAgent();
      return agents.use(directory, (agent) => agent.readFile(path, options));
    },
    async writeFile(path, bytes, options) {
      needAgent();
      await agents.use(directory, (agent) => agent.writeFile(path, bytes, options));
    },
    async resetPassword() {
      needAgent();
      const password = newPassword();
      const hash = await hashPassword(password);
      await agents.use(directory, (agent) => agent.setPassword(hash));
      return password;
    },
    stats: () => observeVm(spec, { usage: group.usage(), fabric, accelerator: runtime.accelerator }),
    release: () => kept.close(),
  };
}
