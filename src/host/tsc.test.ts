import assert from 'node:assert/strict';
import { test } from 'node:test';
import { timeStamp } from './syscalls.ts';
import { measureTscKhz } from './tsc.ts';

test('what is measured of the time-stamp counter is what it counts in a longer time', async () => {
  const khz = await measureTscKhz();
  const [ticks, ns] = [timeStamp(), process.hrtime.bigint()];
  // busy, not asleep: one that stops while the processor rests would not do
  while (process.hrtime.bigint() - ns < 300_000_000n);
  const counted = Number(timeStamp() - ticks) / (Number(process.hrtime.bigint() - ns) / 1e6);
  // who else has the processor between two looks makes this figure worse, and not the other
  assert.ok(Math.abs(khz / counted - 1) < 0.02, `${khz} kHz were measured, ${counted} counted`);
});
