/**
 * What grading needs on this host, without a daemon: for `carrel lab check` and for tests. Everything it opens
 * hangs off a fork server of its own, and is gone when it is closed or this process dies.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Logger } from '#base/log.ts';
import { openImages } from '#images/store.ts';
import { instanceGroup, sweepGroups } from '#isolate/cgroups/group.ts';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { openSandboxes } from '#isolate/sandbox.ts';
import { startForkServer } from '#isolate/server.ts';
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
  const directory = await realpath(await mkdtemp(join(tmpdir(), 'carrel-local-')));
  opened.defer(() => rm(directory, { recursive: true, force: true }));
  const images = await openImages(cache === undefined ? {} : { cache });
  const server = await startForkServer({
    socket: join(directory, 'isolate.sock'),
    ...(logger && { logger }),
  });
  opened.defer(() => server.close());
  const instance = createHash('sha256').update(directory).digest('hex').slice(0, 8);
  const layout = readCgroupLayout();
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
    machines ??= openLocalMachines({ server, images, directory: join(directory, 'machines'), instance });
    return await (await machines).withFreshMachine(request, use);
  };
  const all = opened.move();
  const close = (): Promise<void> => all.disposeAsync();
  return {
    sandboxes,
    guard,
    scratch: directory,
    rootOf: async (image) => (await images.ensure(image)).path,
    withFreshMachine: withFreshMachine ?? makeMachine,
    close,
    [Symbol.asyncDispose]: close,
  };
}
