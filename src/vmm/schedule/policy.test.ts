import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { choose, type Contender, keepsCore, policyNames } from './policy.ts';

const contender = fc.record({
  cpuMs: fc.double({ min: 0, max: 1e6, noNaN: true }),
  weight: fc.integer({ min: 1, max: 1000 }),
  ready: fc.boolean(),
});

test('whoever is chosen is ready, and somebody is as long as anybody is', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...policyNames),
      fc.array(contender, { minLength: 1, maxLength: 8 }),
      fc.nat(7),
      (policy, contenders, at) => {
        const next = choose(policy, contenders, at % contenders.length);
        if (next === undefined) assert.ok(contenders.every(({ ready }) => !ready));
        else assert.ok(contenders[next]?.ready);
      },
    ),
  );
});

test('io gives the core away at exits, the others at ticks, all at an end', () => {
  assert.deepEqual(
    policyNames.map((policy) => [
      keepsCore(policy, 'io'),
      keepsCore(policy, 'tick'),
      keepsCore(policy, 'end'),
    ]),
    [
      [false, true, false],
      [true, false, false],
      [true, false, false],
    ],
  );
});

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);

/** Runs equal ticks, with a jitter of up to a half, and says what each had in the end. */
function simulate(weights: readonly number[], ticks: number, jitter: () => number): number[] {
  const contenders: (Contender & { cpuMs: number })[] = weights.map((weight) => ({
    cpuMs: 0,
    weight,
    ready: true,
  }));
  let current = 0;
  for (let tick = 0; tick < ticks; tick += 1) {
    const chosen = contenders[current];
    assert.ok(chosen);
    chosen.cpuMs += 10 * (1 + jitter());
    current = choose('weights', contenders, current) ?? assert.fail('nobody');
  }
  return contenders.map(({ cpuMs }) => cpuMs);
}

test('weights come out as shares, however uneven the ticks', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 2, maxLength: 5 }),
      fc.infiniteStream(fc.double({ min: -0.5, max: 0.5, noNaN: true })),
      (weights, stream) => {
        const had = simulate(weights, 2000, () => stream.next().value ?? 0);
        for (const [index, weight] of weights.entries()) {
          const share = (had[index] ?? 0) / sum(had);
          // off by a tick or two of two thousand
          assert.ok(
            Math.abs(share - weight / sum(weights)) < 0.005,
            `${share} for ${weight} of ${sum(weights)}`,
          );
        }
      },
    ),
    { numRuns: 30 },
  );
});

test('in turn means in turn, and those that have ended are left out', () => {
  const ready = { cpuMs: 0, weight: 1, ready: true };
  const over = { ...ready, ready: false };
  assert.equal(choose('timer', [ready, ready, ready], 2), 0);
  assert.equal(choose('io', [ready, over, ready], 0), 2);
  assert.equal(choose('timer', [over, ready, over], 1), 1);
  assert.equal(choose('weights', [over, over], 0), undefined);
});
