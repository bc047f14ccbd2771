/**
 * Drivers that do anything: register accesses, rings and descriptors at random, in RAM whose surroundings are taken
 * away, so that a byte read or written outside ends this process. CARREL_FUZZ_RUNS multiplies the number of runs.
 */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import * as fc from 'fast-check';
import { fuzzRuns } from '#base/fuzz.ts';
import { type DriverFaultName, describeFault } from './fault.ts';
import { describe, offer, operation, perform, ramBytes, setUp, size } from './testing-mischief.ts';
import { diskBytes, diskPath, subjects } from './testing-subjects.ts';
import { TestDriver } from './testing.ts';

for (const [name, makeSubject] of Object.entries(subjects))
  test(`${name}: whatever a driver does, nothing outside of its RAM is touched, and the device ends in order`, (context) => {
    const faults = new Map<DriverFaultName, number>();
    let served = 0;
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 60, size: 'max' }),
        fc.constantFrom(0n, 1n << 28n, 1n << 29n),
        (steps, without) => {
          const subject = makeSubject();
          const { device } = subject;
          const driver = new TestDriver({
            device,
            ramBytes,
            onFault(fault) {
              faults.set(fault.fault, (faults.get(fault.fault) ?? 0) + 1);
              assert.match(describeFault(name, fault), /needs a reset/);
            },
          });
          using _fence = driver.ram.fence();
          describe(driver, device.queueSizes.length, subject.template);
          setUp(driver, device.queueSizes.length, without);
          for (const step of steps) {
            perform(driver, device.queueSizes.length, step);
            if (step.op === 'disturb') subject.disturb(step.bytes);
            // a driver that meets a device that needs a reset
            if (driver.mmio.fault && step.op !== 'poke') setUp(driver, device.queueSizes.length, without);
            assert.equal(driver.line.level, driver.read32(0x060) !== 0);
            assert.equal((driver.status & 64) !== 0, driver.mmio.fault !== undefined);
          }
          served += subject.served();
          // and in the end it works again
          setUp(driver, device.queueSizes.length, without);
          assert.equal(driver.status, 15);
        },
      ),
      { numRuns: fuzzRuns(800) },
    );
    context.diagnostic(
      `served ${served}; ${[...faults].map(([fault, count]) => `${fault} ${count}`).join(', ')}`,
    );
    assert.equal(statSync(diskPath).size, diskBytes);
    assert.ok(served > 0, 'no run came as far as a request');
    assert.ok(faults.size >= 5, `only these mistakes were met: ${[...faults.keys()].join(', ')}`);
  });

/** A second processor of the guest: rewrites rings and descriptors as fast as it can, until it is told to stop. */
const scribbler = `
const { workerData } = require('node:worker_threads');
const { buffer, offset, length, stop } = workerData;
const bytes = new Uint8Array(buffer, offset, length);
const view = new DataView(buffer, offset, length);
const halt = new Int32Array(stop);
let state = 12345;
const random = (below) => ((state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 8) % below;
while (Atomics.load(halt, 0) === 0) {
  Atomics.add(halt, 1, 1);
  const base = 0x1000 + 0x1000 * random(2);
  const at = base + 16 * random(16);
  const what = random(8);
  if (what === 0) view.setBigUint64(at, BigInt(random(length)), true);
  else if (what === 1) view.setBigUint64(at, 0xffffffffffffff00n + BigInt(random(256)), true);
  else if (what === 2) view.setUint32(at + 8, random(2048), true);
  else if (what === 3) view.setUint16(at + 12, random(8), true);
  else if (what === 4) view.setUint16(at + 14, random(17), true);
  else if (what === 5) view.setUint16(base + 0x404 + 2 * random(16), random(16), true);
  else if (what === 6 && random(100) === 0) view.setUint16(base + 0x402, random(65536), true);
  else view.setBigUint64(at, 0x100n, true);
}
`;

for (const [name, makeSubject] of Object.entries(subjects))
  test(`${name}: a guest that rewrites its rings while they are read gets no further`, async (context) => {
    const subject = makeSubject();
    const queues = subject.device.queueSizes.length;
    let faults = 0;
    const driver = new TestDriver({ device: subject.device, ramBytes, onFault: () => (faults += 1) });
    using _fence = driver.ram.fence();
    describe(driver, queues, subject.template);
    setUp(driver, queues, 0n);
    const stop = new Int32Array(new SharedArrayBuffer(8));
    const worker = new Worker(scribbler, {
      eval: true,
      workerData: { ...driver.ram.handle, stop: stop.buffer },
    });
    const ended = new Promise((resolve) => worker.once('exit', resolve));
    await new Promise((resolve) => worker.once('online', resolve));
    const limit = Date.now() + 60_000;
    for (let round = 0; Atomics.load(stop, 1) < fuzzRuns(300_000) && Date.now() < limit; round += 1) {
      offer(driver, round % 2, round % size, 1);
      if (round % 3 === 0) subject.disturb(round % 200);
      if (driver.mmio.fault) {
        describe(driver, queues, subject.template);
        setUp(driver, queues, 0n);
      }
    }
    Atomics.store(stop, 0, 1);
    await ended;
    context.diagnostic(`served ${subject.served()}, ${faults} mistakes`);
    assert.ok(faults > 0, 'the other processor did nothing');
    assert.ok(subject.served() > 0, 'this processor did nothing');
    setUp(driver, queues, 0n);
    assert.equal(driver.status, 15);
  });
