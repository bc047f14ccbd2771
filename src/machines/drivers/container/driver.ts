/** Containers: a shared image below, a layer of its own above, root inside, hanging off its own keeper. */
import { existsSync, readdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { within } from '#base/deadline.ts';
import { readInside, writeInside } from '../../files.ts';
import { createCloner } from '#images/clone.ts';
import { instanceGroup } from '#isolate/cgroups/group.ts';
import { controllers, readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { groupDirectories } from '#isolate/cgroups/limits.ts';
import {
  adoptKeeper,
  containerGroup,
  containerPaths,
  execPaths,
  type ExitReport,
  type Keeper,
  readExitReport,
} from '#isolate/machine.ts';
import {
  type Capability,
  type Driver,
  type EndReport,
  type MachineSpec,
  type RunningMachine,
  type Runtime,
  unsupported,
} from '../../driver.ts';
import type { DriverHost } from '../table.ts';
import { introduce } from './identity.ts';
import { isFrozen, observe } from './observe.ts';
import { answers, keepProgram, openConsole, runProgram } from './programs.ts';
import { changePassword } from './password.ts';
import { uidBaseOf } from './spec.ts';
import { prepareContainer, startPrepared, type StartParts } from './start.ts';
import { killContainer, removeDisk, stopContainer, tidyContainer } from './stop.ts';
import { endOf, openKept } from './terminal.ts';
import { validateContainer } from './validate.ts';
import { createWarmer } from './warm.ts';

/** It has nothing to do but answer; a loaded host may be slow. */
const reachMs = 5000;

export function createContainerDriver(host: DriverHost): Driver {
  const parts: StartParts = {
    ...host,
    cloner: createCloner(host.images.layout),
    warm: createWarmer(readCgroupLayout()),
  };
  const directoryOf = (id: string): string => join(host.directory, id);
  const adopt = async (spec: MachineSpec): Promise<RunningMachine | undefined> => {
    const keeper = await reach(spec);
    return keeper && runningContainer(keeper, spec, host);
  };
  return {
    name: 'container',
    capabilities: {
      pause: true,
      run: true,
      exec: true,
      console: true,
      files: true,
      stats: true,
      snapshot: false,
      clone: false,
      password: true,
    },
    async validate(request, image) {
      validateContainer(request, image);
      parts.warm();
    },
    prepare: (spec) => prepareContainer(spec, parts),
    async start(spec) {
      const running = await adopt(spec);
      if (running) return running;
      const keeper = await startPrepared(spec, parts);
      await introduce(keeper.initPid, spec);
      return runningContainer(keeper, spec, host);
    },
    adopt,
    lastEnd: ({ directory }) => reportOf(readExitReport(containerPaths(directory).report)),
    kill: (spec) => killContainer(spec, host),
    tidy: (spec) => tidyContainer(spec, host),
    async remove(spec) {
      await tidyContainer(spec, host);
      await removeDisk(spec, host);
    },
    snapshot: refuse('snapshot'),
    restore: refuse('snapshot'),
    dropSnapshot: refuse('snapshot'),
    openExec: ({ directory }, execId) => openKept(directory, execId),
    dropExec: ({ directory }, execId) =>
      rm(execPaths(directory, execId).folder, { recursive: true, force: true }),
    traces: async () => new Set([...directoriesOf(host), ...groupsOf(host)]),
    async sweep(id) {
      const directory = directoryOf(id);
      await killContainer({ id, directory }, host);
      await tidyContainer({ id }, host);
      await removeDisk({ directory, image: '' }, host);
    },
  };
}

const refuse = (capability: Capability) => async (): Promise<never> => {
  throw unsupported('container', capability);
};

/** A keeper that hangs is out of reach, like one whose socket is gone. */
async function reach({ directory, name }: MachineSpec): Promise<Keeper | undefined> {
  const pending = adoptKeeper(directory);
  try {
    return await within(reachMs, `the keeper of machine ${name}`, pending);
  } catch (error) {
    void pending.then(
      (late) => late?.close(),
      () => undefined,
    );
    throw error;
  }
}

function directoriesOf({ directory }: DriverHost): string[] {
  return existsSync(directory) ? readdirSync(directory) : [];
}

function groupsOf({ instance }: DriverHost): string[] {
  const places = groupDirectories(readCgroupLayout(), `${instanceGroup(instance)}/machines`, controllers);
  return places.flatMap((place) =>
    existsSync(place)
      ? readdirSync(place, { withFileTypes: true }).flatMap((entry) =>
          entry.isDirectory() ? entry.name : [],
        )
      : [],
  );
}

/** The host's own processors run it, and nothing was started ahead of it. */
const runtime: Runtime = { accelerator: null, startedFrom: 'image', note: null };

function runningContainer(keeper: Keeper, spec: MachineSpec, { instance }: DriverHost): RunningMachine {
  const layout = readCgroupLayout();
  const group = containerGroup(instance, spec.id, layout);
  let frozen = isFrozen(layout, group.path);
  const thaw = async (): Promise<void> => {
    await group.freeze(false);
    frozen = false;
  };
  const ended = endReport(keeper);
  ended.catch(() => undefined); // let go of: then nobody need be waiting
  keeper.console.onOutput(() => undefined); // what init says is recorded; nobody waits for it here
  return {
    process: { pid: keeper.initPid, startTime: keeper.initStartTime },
    runtime,
    ended,
    async stop(options) {
      if (frozen) await thaw(); // the frozen hear no signal
      await stopContainer(keeper, spec.directory, options);
    },
    async pause() {
      await group.freeze(true);
      frozen = true;
    },
    resume: thaw,
    isPaused: () => frozen,
    ready: ({ limitMs }) => within(limitMs, `machine ${spec.name} to answer`, answers(keeper, limitMs)),
    run: (request, { signal } = {}) =>
      runProgram(keeper, request, { signal, oomKills: () => group.usage().oomKills }),
    exec: (id, request) => keepProgram(keeper, id, request),
    console: () => openConsole(keeper, spec.directory),
    readFile: (path, options) => readInside(keeper.initPid, path, options),
    writeFile: (path, bytes, { mode }) =>
      writeInside(keeper.initPid, path, bytes, { mode, owner: uidBaseOf(spec) }),
    resetPassword: () => changePassword(keeper),
    stats: () => observe(spec.id, keeper.initPid, group.usage()),
    release: () => keeper.close(),
  };
}

async function endReport(keeper: Keeper): Promise<EndReport> {
  return reportOf(await keeper.ended());
}

function reportOf(report: ExitReport | undefined): EndReport {
  if (!report || report.killed === 'lost') return { end: null, outOfMemory: false };
  return { end: endOf(report), outOfMemory: report.signal === 'SIGKILL' && report.oomKills > 0 };
}
