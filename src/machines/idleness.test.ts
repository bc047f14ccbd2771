import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { createIdleness } from './idleness.ts';

test('a machine is quiet for as long as its figures hardly move', () => {
  const idle = createIdleness();
  assert.equal(idle.observe('m', { cpuMs: 5000, bytes: 900 }, 1000), 0, 'nothing is known at first');
  assert.equal(idle.observe('m', { cpuMs: 5020, bytes: 1000 }, 4000), 3000);
  assert.equal(idle.observe('m', { cpuMs: 5040, bytes: 1000 }, 7000), 6000);
  assert.equal(idle.observe('m', { cpuMs: 5400, bytes: 1000 }, 10_000), 0, 'it computed');
  assert.equal(idle.observe('m', { cpuMs: 5400, bytes: 9000 }, 13_000), 0, 'it was spoken to');
  assert.equal(idle.observe('m', { cpuMs: 0, bytes: 0 }, 16_000), 0, 'it was started anew');
  assert.equal(idle.observe('m', { cpuMs: 0, bytes: 0 }, 19_000), 3000);
});

test('a machine at which somebody works is not quiet, whatever its figures say', () => {
  const idle = createIdleness();
  const still = { cpuMs: 0, bytes: 0 };
  idle.observe('m', still, 0);
  const outer = idle.atWork('m');
  {
    using _inner = idle.atWork('m');
  }
  assert.ok(idle.isAtWork('m'), 'two at once');
  assert.equal(idle.observe('m', still, 60_000), 0);
  outer[Symbol.dispose]();
  assert.ok(!idle.isAtWork('m'));
});

test('never is a machine quiet for longer than it has been watched', () => {
  const step = fc.record({ ms: fc.nat(5000), cpuMs: fc.nat(300), bytes: fc.nat(2000) });
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const idle = createIdleness();
      let [now, cpuMs, bytes] = [0, 0, 0];
      idle.observe('m', { cpuMs, bytes }, now);
      for (const each of steps) {
        now += each.ms;
        cpuMs += each.cpuMs;
        bytes += each.bytes;
        const quiet = idle.observe('m', { cpuMs, bytes }, now);
        assert.ok(quiet >= 0 && quiet <= now);
      }
    }),
  );
});
