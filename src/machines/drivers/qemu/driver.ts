/** Virtual machines: QEMU in a jail of its own, hanging off its own keeper, with a disk in layers over a shared image. */
import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { isLocked } from '#host/flock.ts';
import { adoptKept, type Kept, keptPaths } from '#isolate/kept.ts';
import { consoleName, type Driver, type MachineSpec, type RunningMachine } from '../../driver.ts';
import { isEnding, killKept, lastEnd, reach, removeDirectory, tidyKept, tracesOf } from '../kept.ts';
import type { DriverHost } from '../table.ts';
import { openConsole } from '../terminal.ts';
import { createAcceleration } from './accelerator.ts';
import { giveSerialPassword } from './agentless.ts';
import { dropOutput, openOutput, saving } from './agent/saved.ts';
import { createAgents } from './agents.ts';
import { copyDisk, dropDiskSnapshot, makeDisk, restoreDisk, snapshotDisk } from './disk/disk.ts';
import type { DiskFiles } from './disk/files.ts';
import { missing, readStopped } from './disk/read.ts';
import { untilLeft } from './disk/lock.ts';
import { createMerging } from './disk/merging.ts';
import { secretsOf } from './identity.ts';
import { openRunning, runningVm } from './running.ts';
import { readRuntime } from './runtime.ts';
import { qemuUid, vmPaths, wholeSectors } from './spec.ts';
import { flushGuest } from './flush.ts';
import { requireQemu } from './installed.ts';
import { launchQemu, requireDiskImage } from './start.ts';
import { type CloneParts, phaseOf } from './template/clone.ts';
import { TemplateStore } from './template/files.ts';
import { openTemplateMemory } from './template/memory.ts';
import { createTemplating } from './template/service.ts';
import { validateVm } from './validate.ts';

/** A machine that starts over more layers than these waits a moment for those that nobody asks for to be merged. */
const longestChain = 8;

export function createQemuDriver(host: DriverHost): Driver {
  const parts: CloneParts = {
    ...host,
    acceleration: createAcceleration(),
    agents: createAgents(),
    // on the file system of the machines, which hold the disks of templates by links
    store: new TemplateStore(join(dirname(host.directory), 'templates')),
    memory: openTemplateMemory(),
  };
  const templating = createTemplating(parts);
  const merging = createMerging(host);
  const filesOf = async (spec: MachineSpec): Promise<DiskFiles> => ({
    directory: spec.directory,
    uid: qemuUid(spec),
    bytes: wholeSectors(spec.limits.diskBytes),
    image: (await requireDiskImage(spec, host)).path,
  });
  const adopt = async (spec: MachineSpec): Promise<RunningMachine | undefined> => {
    if (phaseOf(spec.directory) !== undefined) return undefined; // a copy that is nobody's machine yet
    const kept = await reach(spec, adoptKept);
    if (!kept) return undefined;
    try {
      const runtime = await readRuntime(spec.directory);
      if (!runtime)
        throw new CarrelError('machine_lost', `nothing tells how machine ${spec.name} was started`);
      return await openRunning(kept, spec, runtime, parts);
    } catch (error) {
      kept.close();
      if (await isEnding(spec.directory)) return undefined;
      throw error;
    }
  };
  const prepare: Driver['prepare'] = async (spec, { starting = false } = {}) => {
    await mkdir(spec.directory, { recursive: true, mode: 0o700 });
    const makeIt = async (): Promise<void> => {
      await host.images.hold(spec.image, spec.directory);
      const files = await filesOf(spec);
      if (spec.source) {
        if (spec.source.snapshot === null) await flushGuest(spec.source.directory, parts.agents);
        return copyDisk(files, spec.source);
      }
      // a copy of a parked machine begins with the parked one's
      if (!starting || !(await templating.found(spec, files))) await makeDisk(files, spec.image);
    };
    const keep = async (): Promise<void> => {
      await secretsOf(vmPaths(spec.directory).identity);
      const { disk } = await requireDiskImage(spec, host);
      if (!disk.agent) await giveSerialPassword(spec.directory);
    };
    await Promise.all([keep(), makeIt()]);
  };
  /** Without its image a machine is of no use, but can still be tidied. */
  const mergeLater = async (spec: MachineSpec, options?: { readonly asked: boolean }): Promise<void> => {
    const files = await filesOf(spec).catch((error: unknown) => {
      if (!isCarrelError(error, 'not_found')) throw error;
    });
    if (files) await merging.later(files, options);
  };
  /** `note`: why it is not a copy of one that has booted. */
  const bootNow = async (spec: MachineSpec, files: DiskFiles, note: string | null): Promise<Kept> => {
    if (!spec.source) await makeDisk(files, spec.image); // what was left of a copy is gone
    return launchQemu(spec, parts, { note });
  };
  return {
    name: 'qemu',
    templates: templating,
    capabilities: {
      pause: true,
      run: true,
      exec: true,
      console: true,
      files: true,
      stats: true,
      snapshot: true,
      clone: true,
      password: true,
      inspect: false,
    },
    async validate(request, image) {
      requireQemu();
      validateVm(request, image);
    },
    prepare,
    async start(spec) {
      const running = await adopt(spec);
      if (running) return running;
      // its making failed, and was undone
      if (!spec.source && !existsSync(vmPaths(spec.directory).diskState))
        await prepare(spec, { starting: true });
      await templating.settle(spec);
      const files = await filesOf(spec);
      await merging.before(files, { longest: longestChain });
      const copy = await templating.start(spec, files);
      const kept = typeof copy === 'object' ? copy : await bootNow(spec, files, copy ?? null);
      const runtime = await readRuntime(spec.directory);
      if (!runtime) throw new CarrelError('internal', 'a machine was started and nothing tells how');
      return runningVm(kept, spec, runtime, parts);
    },
    adopt,
    lastEnd: ({ directory }) => lastEnd(directory),
    kill: (spec) => killKept(spec, host),
    async tidy(spec) {
      await tidyKept(spec, host);
      await forgetSockets(spec.directory);
      await mergeLater(spec);
    },
    async remove(spec) {
      await tidyKept(spec, host);
      await untilLeft(spec.directory);
      await removeDirectory(spec, host);
    },
    async snapshot(spec, snapshot) {
      await flushGuest(spec.directory, parts.agents);
      return snapshotDisk(await filesOf(spec), snapshot);
    },
    async restore(spec, snapshot) {
      await restoreDisk(await filesOf(spec), snapshot);
      await mergeLater(spec, { asked: true });
    },
    async dropSnapshot(spec, snapshot) {
      await dropDiskSnapshot(spec.directory, snapshot);
      await mergeLater(spec, { asked: true });
    },
    async readDisk(spec, path, options) {
      const image = await requireDiskImage(spec, host).catch(missing);
      return readStopped({ directory: spec.directory, image: image.path }, path, options);
    },
    async openExec({ directory }, execId) {
      if (execId === consoleName) return openConsole(directory);
      if (!isLocked(keptPaths(directory).lock)) return openOutput(directory, execId);
      try {
        const terminal = await parts.agents.terminal(directory, (agent) => agent.attachKept(execId));
        return saving(directory, execId, terminal);
      } catch (error) {
        if (isCarrelError(error, 'gone')) return openOutput(directory, execId); // the machine has started anew
        throw error;
      }
    },
    async dropExec({ directory }, execId) {
      await dropOutput(directory, execId);
      if (!isLocked(keptPaths(directory).lock)) return;
      // one that has just ended has taken the program along
      await parts.agents
        .use(directory, (agent) => agent.dropKept(execId))
        .catch((error: unknown) => {
          if (!isCarrelError(error, 'machine_lost')) throw error;
        });
    },
    traces: async () => tracesOf(host),
    async sweep(id) {
      const directory = join(host.directory, id);
      await killKept({ id, directory }, host);
      await tidyKept({ id }, host);
      await untilLeft(directory);
      await removeDirectory({ directory, image: '' }, host);
      await parts.store.abandon(id);
    },
    close: () => merging.close(),
  };
}

/** They lead nowhere any more. */
async function forgetSockets(directory: string): Promise<void> {
  const { qmp, agent } = vmPaths(directory);
  await Promise.all([rm(qmp, { force: true }), rm(agent, { force: true })]);
}
