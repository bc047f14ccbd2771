/** The status machine against a model: the same sequence of a driver's doings, right or wrong, through both. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { TestDriver } from './testing.ts';

const stages = ['reset', 'acknowledged', 'driver', 'features', 'live'] as const;

/** The bit that leads to each stage (2.1), in the order of 3.1.1. */
const bits = [0, 1, 2, 8, 4];

interface Model {
  /** Index into `stages`. */
  stage: number;
  failed: boolean;
  broken: boolean;
  featuresFit: boolean;
  queueReady: boolean;
  /** Chains offered on the queue that is ready, and those of them that were given back. */
  offered: number;
  used: number;
  interrupts: number;
}

const fresh = (): Model => ({
  stage: 0,
  failed: false,
  broken: false,
  featuresFit: false,
  queueReady: false,
  offered: 0,
  used: 0,
  interrupts: 0,
});

function statusOf({ stage, failed, broken }: Model): number {
  let status = (failed ? 128 : 0) | (broken ? 64 : 0);
  for (let each = 1; each <= stage; each += 1) status |= bits[each] ?? 0;
  return status;
}

const isWorking = ({ stage, failed, broken }: Model): boolean =>
  stages[stage] === 'live' && !failed && !broken;

function serve(model: Model): void {
  if (!isWorking(model) || !model.queueReady || model.used === model.offered) return;
  model.used = model.offered;
  model.interrupts |= 1;
}

function breakDown(model: Model): void {
  model.broken = true;
  if (stages[model.stage] === 'live') model.interrupts |= 2;
}

function writeStatus(model: Model, written: number): void {
  if (written === 0) {
    Object.assign(model, fresh());
    return;
  }
  const worked = isWorking(model);
  if ((written & 128) !== 0) model.failed = true;
  while (!model.failed && !model.broken) {
    const bit = bits[model.stage + 1];
    if (bit === undefined || (written & bit) === 0 || (bit === 8 && !model.featuresFit)) break;
    model.stage += 1;
  }
  // what was offered before DRIVER_OK is served with it
  if (!worked) serve(model);
}

type Step =
  | { readonly kind: 'status'; readonly value: number }
  | { readonly kind: 'features'; readonly which: keyof typeof features }
  | { readonly kind: 'queue'; readonly which: keyof typeof queues }
  | { readonly kind: 'stop queue' }
  | { readonly kind: 'offer' }
  | { readonly kind: 'offer too much' }
  | { readonly kind: 'notify' }
  | { readonly kind: 'acknowledge'; readonly mask: number }
  | { readonly kind: 'change configuration' };

const features = { right: 1n << 32n, 'too old': 0n, foreign: (1n << 32n) | (1n << 40n) };

const queues = {
  right: [8, 0x1000, 0x2000, 0x3000],
  'odd size': [7, 0x1000, 0x2000, 0x3000],
  unaligned: [8, 0x1001, 0x2000, 0x3000],
  outside: [8, 0x1000, 0x2000, 0x4000_0000],
} as const;

const keys = <Key extends string>(object: Readonly<Record<Key, unknown>>): Key[] =>
  Object.keys(object).filter((key): key is Key => key in object);

/** Mostly what a driver does next, else anything. */
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constant('status' as const),
    value: fc.oneof(
      { weight: 8, arbitrary: fc.constantFrom(1, 3, 11, 15) },
      { weight: 1, arbitrary: fc.constantFrom(0, 128, 64, 0x8f, 4, 8) },
      { weight: 2, arbitrary: fc.integer({ min: 0, max: 0xffff_ffff }) },
    ),
  }),
  fc.record({
    kind: fc.constant('features' as const),
    which: fc.constantFrom('right' as const, ...keys(features)),
  }),
  fc.record({
    kind: fc.constant('queue' as const),
    which: fc.constantFrom('right' as const, 'right' as const, 'right' as const, ...keys(queues)),
  }),
  fc.constantFrom<Step>(
    { kind: 'offer' },
    { kind: 'notify' },
    { kind: 'offer' },
    { kind: 'notify' },
    { kind: 'stop queue' },
    { kind: 'offer too much' },
    { kind: 'change configuration' },
  ),
  fc.record({ kind: fc.constant('acknowledge' as const), mask: fc.integer({ min: 0, max: 3 }) }),
);

function makePair() {
  let change: (() => void) | undefined;
  const driver = new TestDriver({
    device: {
      name: 'counter',
      deviceId: 42,
      features: 0n,
      queueSizes: [8],
      config: new Uint8Array(4),
      attach: (link) => (change = () => link.configChanged()),
      notify: (queue, queues) => queues.drain(queue, () => 0),
      reset: () => undefined,
    },
  });
  const { view } = driver.ram;
  const model = fresh();
  const settable = (): boolean => model.stage >= 3 && !model.broken;

  const run = (step: Step): void => {
    if (step.kind === 'status') {
      driver.status = step.value;
      writeStatus(model, step.value);
    } else if (step.kind === 'features') {
      driver.accept(features[step.which]);
      if (model.stage < 3) model.featuresFit = step.which === 'right';
    } else if (step.kind === 'queue') {
      // rings as a driver leaves them before it says that they are ready
      if (settable() && !model.queueReady) driver.ram.bytes.fill(0, 0x1000, 0x4000);
      const [size, ...addresses] = queues[step.which];
      driver.setUpQueue(0, size, addresses);
      if (!settable() || model.queueReady) return;
      model.offered = model.used = 0;
      if (step.which === 'right') model.queueReady = true;
      else breakDown(model);
    } else if (step.kind === 'stop queue') {
      driver.write32(0x030, 0);
      driver.write32(0x044, 0);
      if (settable()) model.queueReady = false;
    } else if (step.kind === 'offer') {
      if (!model.queueReady || model.offered - model.used >= 8) return;
      model.offered += 1;
      view.setUint16(0x2002, model.offered, true);
    } else if (step.kind === 'offer too much') {
      if (!model.queueReady || !isWorking(model)) return;
      view.setUint16(0x2002, model.used + 9, true);
      driver.write32(0x050, 0);
      breakDown(model);
    } else if (step.kind === 'notify') {
      driver.write32(0x050, 0);
      serve(model);
    } else if (step.kind === 'acknowledge') {
      driver.write32(0x064, step.mask);
      model.interrupts &= ~step.mask;
    } else {
      change?.();
      if (isWorking(model)) model.interrupts |= 2;
    }
  };

  const compare = (): void => {
    assert.deepEqual(
      {
        status: driver.status,
        ready: driver.queueReady(0),
        interrupts: driver.read32(0x060),
        line: driver.line.level,
        fault: driver.mmio.fault !== undefined,
        used: model.queueReady ? view.getUint16(0x3002, true) : 0,
      },
      {
        status: statusOf(model),
        ready: Number(model.queueReady),
        interrupts: model.interrupts,
        line: model.interrupts !== 0,
        fault: model.broken,
        used: model.queueReady ? model.used : 0,
      },
    );
  };
  return { run, compare, model };
}

test('2.1, 3.1.1, 4.2.2: whatever a driver does in whatever order, status, queue, interrupts and line are the model’s', () => {
  const reached = new Set<string>();
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), fc.boolean(), (steps, prepared) => {
      const { run, compare, model } = makePair();
      const start: Step[] = prepared
        ? [
            { kind: 'status', value: 3 },
            { kind: 'features', which: 'right' },
            { kind: 'status', value: 11 },
            { kind: 'queue', which: 'right' },
          ]
        : [];
      for (const step of [...start, ...steps]) {
        run(step);
        compare();
        reached.add(
          `${stages[model.stage]}${model.broken ? ' broken' : ''}${model.used > 0 ? ' served' : ''}`,
        );
      }
    }),
    { numRuns: 500 },
  );
  for (const place of ['live served', 'live broken', 'features broken', 'reset'])
    assert.ok(reached.has(place), `no run came to: ${place}`);
});
