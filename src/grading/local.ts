/**
 * What grading needs on this host, without a daemon: for `carrel lab check` and for tests. Everything it opens
 * hangs off a fork server of its own, and is gone when it is closed or this process dies.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Logger, silent } from '#base/log.ts';
import { isLocked } from '#host/flock.ts';
import { openImages } from '#images/store.ts';
import { openWorkspace } from '#images/workspace.ts';
import { instanceGroup, sweepGroups } from '#isolate/cgroups/group.ts';
import { type CgroupLayout, readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { openSandboxes } from '#isolate/sandbox.ts';
import { startForkServer } from '#isolate/server.ts';
import { imageOfLab } from './image.ts';
import { openRegexGuard } from './judge/regex.ts';
import { type LocalMachines, openLocalMachines } from './local-machines.ts';
import type { WithFreshMachine } from './machine.ts';
import type { GraderDeps } from './run.ts';

export interface LocalGraderOptions {
  /** The image cache. */
  readonly cache?: string;
  /** Runs at the same time. */
  readonly slots?: number;
  /** For machine labs; unless given, machines are made here when the first one is needed. */
  readonly withFreshMachine?: WithFreshMachine;
  readonly logger?: Logger;
}

export interface LocalGrader extends GraderDeps, AsyncDisposable {
  close(): Promise<void>;
}

/** Names the control groups of what hangs off this directory. */
const instanceIn = (directory: string): string =>
  createHash('sha256').update(directory).digest('hex').slice(0, 8);

/** Ends the machines of predecessors that were killed: they hang off keepers and outlive everything else. */
async function sweepDead(base: string, layout: CgroupLayout): Promise<void> {
  await mkdir(base, { recursive: true, mode: 0o700 });
  for (const name of await readdir(base)) {
    if (!name.endsWith('.lock') || isLocked(join(base, name))) continue;
    await sweepGroups(layout, instanceGroup(instanceIn(join(base, name.slice(0, -'.lock'.length)))));
  }
}

/** Ctrl-C closes first, then ends the process as the signal says; a second one ends it at once. */
function closeOnSignals(close: () => Promise<void>): { stop(): void } {
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const onSignal = (signal: NodeJS.Signals): void => {
    stop();
    void close().finally(() => process.kill(process.pid, signal));
  };
  const stop = (): void => {
    for (const name of names) process.off(name, onSignal);
  };
  for (const name of names) process.on(name, onSignal);
  return { stop };
}

/**
 * @example
 * await using grader = await openLocalGrader();
 * const proof = await proveLab('labs/reach-number', grader);
 */
export async function openLocalGrader({
  cache,
  slots,
  withFreshMachine,
  logger,
}: LocalGraderOptions = {}): Promise<LocalGrader> {
  await using opened = new AsyncDisposableStack();
  const images = await openImages(cache === undefined ? {} : { cache });
  const layout = readCgroupLayout();
  const base = join(images.layout.cache, 'local');
  await sweepDead(base, layout);
  const { directory } = opened.use(await openWorkspace(base, 'grader'));
  const instance = instanceIn(directory);
  const server = await startForkServer({
    socket: join(directory, 'isolate.sock'),
    ...(logger && { logger }),
  });
  opened.defer(() => server.close());
  opened.defer(() => sweepGroups(layout, instanceGroup(instance)));
  const sandboxes = await openSandboxes({ server, instance, layout, ...(slots !== undefined && { slots }) });
  opened.defer(() => sandboxes.close());
  const guard = openRegexGuard();
  opened.defer(() => guard.close());
  let machines: Promise<LocalMachines> | undefined;
  opened.defer(async () => {
    // if they could not be opened, whoever asked for one was told
    await (await machines?.catch(() => undefined))?.[Symbol.asyncDispose]();
  });
  const makeMachine: WithFreshMachine = async (request, use) => {
    machines ??= openLocalMachines({
      server,
      images,
      directory: join(directory, 'machines'),
      instance,
      log: logger ?? silent,
    });
    return await (await machines).withFreshMachine(request, use);
  };
  const all = opened.move();
  const signals = closeOnSignals(() => close());
  const close = async (): Promise<void> => {
    signals.stop();
    await all.disposeAsync();
  };
  return {
    sandboxes,
    guard,
    scratch: directory,
    imageOf: (lab) => imageOfLab(images, lab),
    withFreshMachine: withFreshMachine ?? makeMachine,
    close,
    [Symbol.asyncDispose]: close,
  };
}
