import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { identify, statOf } from './processes.ts';
import { lowerFileLimit } from './rlimit.ts';

/** As high as those of virtual machines. */
const uid = 3_317_908_033;
const skip = process.geteuid?.() === 0 ? false : 'a process of another user is made by root only';

test(
  'a process that runs gets a lower limit on its files, hard and soft, and one that is gone gets none',
  { skip },
  async () => {
    const child = spawn('setpriv', [`--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', 'sleep', '60']);
    const ended = once(child, 'exit');
    try {
      const there = async () =>
        identify(child.pid ?? 0) && statOf(child.pid ?? 0)?.name === 'sleep' ? true : undefined;
      await until(10_000, 'it to run', there);
      const sleeper = identify(child.pid ?? 0);
      assert.ok(sleeper);
      const limits = (): string => readFileSync(`/proc/${sleeper.pid}/limits`, 'utf8');
      assert.equal(await lowerFileLimit(sleeper, { uid, bytes: 2 ** 30, forNow: true }), true);
      assert.match(limits(), /^Max file size +1073741824 +unlimited +bytes/m);
      // less than ever, and more than just now
      assert.equal(await lowerFileLimit(sleeper, { uid, bytes: 5 * 2 ** 30 }), true);
      assert.match(limits(), /^Max file size +5368709120 +5368709120 +bytes/m);
      child.kill('SIGKILL');
      await ended;
      assert.equal(await lowerFileLimit(sleeper, { uid, bytes: 2 ** 30 }), false);
    } finally {
      child.kill('SIGKILL');
    }
  },
);
