/** Containers: a shared image below, a layer of its own above, root inside, hanging off its own keeper. */
import { within } from '#base/deadline.ts';
import { removeTree } from '#host/trees.ts';
import { readInside, writeInside } from '../../files.ts';
import { createCloner } from '#images/clone.ts';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { adoptKeeper, execPaths, type Keeper } from '#isolate/machine.ts';
import type { Driver, MachineSpec, RunningMachine, Runtime } from '../../driver.ts';
import { endReport, lastEnd, reach } from '../kept.ts';
import { keptDriver, keptMachine } from '../keptmachine.ts';
import { openKept } from '../terminal.ts';
import type { DriverHost } from '../table.ts';
import { introduce } from './identity.ts';
import { observe } from './observe.ts';
import { answers, keepProgram, openConsole, runProgram } from './programs.ts';
import { changePassword } from './password.ts';
import { uidBaseOf } from '../ids.ts';
import { prepareContainer, startPrepared, type StartParts } from './start.ts';
import { stopContainer } from './stop.ts';
import { validateContainer } from './validate.ts';
import { createWarmer } from './warm.ts';

export function createContainerDriver(host: DriverHost): Driver {
  const parts: StartParts = {
    ...host,
    cloner: createCloner(host.images.layout),
    warm: createWarmer(readCgroupLayout()),
  };
  const adopt = async (spec: MachineSpec): Promise<RunningMachine | undefined> => {
    const keeper = await reach(spec, adoptKeeper);
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
      inspect: false,
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
    lastEnd: ({ directory }) => lastEnd(directory),
    ...keptDriver('container', host),
    openExec: ({ directory }, execId) => openKept(directory, execId),
    dropExec: ({ directory }, execId) => removeTree(execPaths(directory, execId).folder),
  };
}

/** The host's own processors run it, and nothing was started ahead of it. */
const runtime: Runtime = { accelerator: null, startedFrom: 'image', note: null };

function runningContainer(keeper: Keeper, spec: MachineSpec, host: DriverHost): RunningMachine {
  const { usage, ...machine } = keptMachine(keeper, spec, host, (options) =>
    stopContainer(keeper, spec.directory, options),
  );
  return {
    ...machine,
    runtime,
    ended: endReport(keeper),
    ready: ({ limitMs }) => within(limitMs, `machine ${spec.name} to answer`, answers(keeper, limitMs)),
    run: (request, { signal } = {}) =>
      runProgram(keeper, request, { signal, oomKills: () => usage().oomKills }),
    exec: (id, request) => keepProgram(keeper, id, request),
    console: () => openConsole(keeper, spec.directory),
    readFile: (path, options) => readInside(keeper.initPid, path, options),
    writeFile: (path, bytes, { mode }) =>
      writeInside(keeper.initPid, path, bytes, { mode, owner: uidBaseOf(spec) }),
    resetPassword: () => changePassword(keeper),
    stats: () => observe(spec.id, keeper.initPid, usage(), host.fabric),
  };
}
