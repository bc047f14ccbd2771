/** For tests of the service: one bed for all of a file, a user, and what was on the host before any machine. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import type { Actor } from '#base/actor.ts';
import { type Census, dangling, takeCensus } from '#test/harness/census.ts';
import { type Bed, exceptNameServers, startBed } from './testing.ts';

export const skip = process.getuid?.() === 0 ? false : 'needs root';

export interface ServiceBed {
  readonly bed: Bed;
  readonly anna: Actor;
  /** Nothing of any machine is on the host any more. */
  readonly assertNothingLeft: () => Promise<void>;
}

/** Opens it before the first test, and closes it after the last one. */
export function useBed(ready: (opened: ServiceBed) => void): void {
  let bed: Bed | undefined;
  before(async () => {
    if (skip) return;
    const opened = await startBed();
    bed = opened;
    const anna = await opened.user('anna');
    const id = await opened.make(anna); // the first one makes the cloud's own control groups
    await opened.done(opened.machines.remove(anna, id));
    const clean = await takeCensus(opened.dataDirectory);
    ready({ bed: opened, anna, assertNothingLeft: () => assertNothingLeft(opened, clean) });
  });
  after(async () => {
    await bed?.[Symbol.asyncDispose]();
  });
}

async function assertNothingLeft({ dataDirectory }: Bed, clean: Census): Promise<void> {
  assert.deepEqual(readdirSync(join(dataDirectory, 'machines')), []);
  const left = dangling(clean, await takeCensus(dataDirectory));
  assert.deepEqual(exceptNameServers(left), []);
}
