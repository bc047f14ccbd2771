/** For tests of the service: one bed for all of a file, a user, and what was on the host before any machine. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import type { Actor } from '#base/actor.ts';
import { type Census, dangling, takeCensus } from '#test/harness/census.ts';
import { tryShell } from './testing-shell.ts';
import { type Bed, exceptNameServers, startBed } from './testing.ts';

export const skip = process.getuid?.() === 0 ? false : 'needs root';

/** Opened before the first test, and closed after the last one. */
export interface ServiceBed {
  readonly bed: Bed;
  readonly anna: Actor;
  /** What a shell in a machine says, and how it ends. */
  readonly sh: (id: string, script: string, limitMs?: number) => ReturnType<typeof tryShell>;
  /** Nothing of any machine is on the host any more. */
  readonly assertNothingLeft: () => Promise<void>;
}

export function useBed(): ServiceBed {
  let bed: Bed | undefined;
  let opened: { readonly bed: Bed; readonly anna: Actor; readonly clean: Census } | undefined;
  const now = () => {
    if (!opened) throw new Error('the bed is not open');
    return opened;
  };
  before(async () => {
    if (skip) return;
    const made = await startBed();
    bed = made;
    const anna = await made.user('anna');
    const id = await made.make(anna); // the first one makes the cloud's own control groups
    await made.done(made.machines.remove(anna, id));
    opened = { bed: made, anna, clean: await takeCensus(made.dataDirectory) };
  });
  after(async () => {
    await bed?.[Symbol.asyncDispose]();
  });
  return {
    get bed() {
      return now().bed;
    },
    get anna() {
      return now().anna;
    },
    sh: (id, script, limitMs) => tryShell(now().bed.machines, id, script, limitMs),
    async assertNothingLeft() {
      const { dataDirectory } = now().bed;
      assert.deepEqual(readdirSync(join(dataDirectory, 'machines')), []);
      const left = dangling(now().clean, await takeCensus(dataDirectory));
      assert.deepEqual(exceptNameServers(left), []);
    },
  };
}
