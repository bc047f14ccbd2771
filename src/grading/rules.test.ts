import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { visibility as visibilities, type CheckResult, type LateRule } from '#contract/schemas/labs.ts';
import { applyLateRule, latenessOf } from './late.ts';
import { keepsPromise, unprovenChecks } from './prove.ts';
import { inOrder } from './schedule.ts';
import { passed } from './judge/outcome.ts';
import { studentView } from './visible.ts';

const day = 86_400_000;
const due = new Date('2026-03-01T12:00:00Z');
const at = (ms: number): Date => new Date(due.getTime() + ms);
const rule = (change: Partial<LateRule> = {}): LateRule => ({
  accept: true,
  graceMinutes: 0,
  percentPerDay: 10,
  floorPercent: 0,
  ...change,
});
const instant = fc.date({ min: at(-30 * day), max: at(60 * day), noInvalidDate: true });
const anyRule = fc.record({
  accept: fc.boolean(),
  graceMinutes: fc.nat(1440),
  percentPerDay: fc.double({ min: 0, max: 100, noNaN: true }),
  floorPercent: fc.double({ min: 0, max: 100, noNaN: true }),
});

test('lateness counts days begun since the due instant, after the grace', () => {
  assert.deepEqual(latenessOf(at(0), due, rule()), { late: false, days: 0, share: 1 });
  assert.deepEqual(latenessOf(at(1), due, rule()), { late: true, days: 1, share: 0.9 });
  assert.deepEqual(latenessOf(at(day), due, rule()).days, 1);
  assert.deepEqual(latenessOf(at(day + 1), due, rule()).days, 2);
  assert.equal(latenessOf(at(15 * 60_000), due, rule({ graceMinutes: 15 })).late, false);
  assert.equal(latenessOf(at(15 * 60_000 + 1), due, rule({ graceMinutes: 15 })).days, 1);
  assert.equal(latenessOf(at(30 * day), due, rule({ floorPercent: 40 })).share, 0.4);
  assert.equal(latenessOf(at(1), due, rule({ accept: false })).share, 0);
  assert.equal(latenessOf(at(99 * day), null, rule()).share, 1);
  assert.equal(applyLateRule(10, latenessOf(at(2 * day), due, rule())), 8);
});

test('later never gives more, and nobody gets more than he earned or less than the floor', () => {
  fc.assert(
    fc.property(instant, instant, anyRule, fc.nat(100_000), (one, other, rule, cents) => {
      const [early, late] = one <= other ? [one, other] : [other, one];
      const raw = cents / 100;
      const first = applyLateRule(raw, latenessOf(early, due, rule));
      const second = applyLateRule(raw, latenessOf(late, due, rule));
      assert.ok(second <= first && first <= raw && second >= 0);
      if (rule.accept) assert.ok(second >= (raw * rule.floorPercent) / 100 - 0.0101);
      if (early <= due) assert.equal(first, raw);
    }),
  );
});

const result = (visibility: CheckResult['visibility'], index: number): CheckResult => ({
  id: `c${index}`,
  title: 'T',
  state: 'passed',
  points: 1,
  maxPoints: 1,
  visibility,
  reason: '',
  stdout: '',
  stderr: '',
  wallMs: null,
  cpuMs: null,
  memoryBytes: null,
});

const view = (now: Date, publishedAt: Date | null = null) =>
  studentView([result('visible', 0), result('after_due_date', 1), result('hidden', 2)], {
    now,
    dueAt: due,
    publishedAt,
  });

test('what a student has seen he goes on seeing, and a total is never shown beside unpublished hidden checks', () => {
  const checks = fc.array(fc.constantFrom(...visibilities.options), { maxLength: 12 });
  const maybe = fc.option(instant, { nil: null });
  fc.assert(
    fc.property(checks, maybe, maybe, instant, instant, (kinds, dueAt, publishedAt, one, other) => {
      const [before, after] = one <= other ? [one, other] : [other, one];
      const all = kinds.map(result);
      const first = studentView(all, { now: before, dueAt, publishedAt });
      const second = studentView(all, { now: after, dueAt, publishedAt });
      assert.ok(first.checks.every((check) => second.checks.includes(check)));
      assert.ok(!first.totalShown || second.totalShown);
      assert.equal(first.checks.length + first.hiddenChecks, all.length);
      assert.ok(second.checks.every(({ visibility }) => visibility !== 'hidden'));
      const published = publishedAt !== null && publishedAt <= after;
      if (!published && second.hiddenChecks > 0) assert.equal(second.totalShown, false);
      if (second.hiddenChecks === 0) assert.equal(second.totalShown, true);
    }),
  );
  assert.deepEqual([view(at(-1)).checks.length, view(at(-1)).totalShown], [1, false]);
  assert.deepEqual([view(at(0)).checks.length, view(at(0)).totalShown], [2, false]);
  assert.deepEqual([view(at(1), at(1)).checks.length, view(at(1), at(1)).totalShown], [2, true]);
});

test('failed is kept by every failure, everything else by itself only', () => {
  for (const found of ['failed', 'timeout', 'memory', 'crashed', 'raised'] as const)
    assert.ok(keepsPromise('failed', found));
  for (const found of ['passed', 'partial', 'error', 'skipped'] as const)
    assert.ok(!keepsPromise('failed', found));
  assert.ok(!keepsPromise('timeout', 'failed'));
  assert.ok(!keepsPromise('passed', 'error'));
});

test('a check that is only skipped or passed is unproven', () => {
  const verdicts = [
    new Map([
      ['a', 'passed'],
      ['b', 'skipped'],
      ['c', 'raised'],
    ] as const),
  ];
  assert.deepEqual(unprovenChecks(['a', 'b', 'c'], verdicts), ['a', 'b']);
});

test('checks run after what they need, at most so many at once, each exactly once', async () => {
  const graph = fc
    .array(fc.array(fc.nat(1000), { maxLength: 3 }), { minLength: 1, maxLength: 20 })
    .map((all) =>
      all.map((needs, index) => ({
        id: `c${index}`,
        needs: index === 0 ? [] : needs.map((need) => `c${need % index}`),
      })),
    );
  await fc.assert(
    fc.asyncProperty(graph, fc.integer({ min: 1, max: 4 }), async (checks, parallel) => {
      let running = 0;
      const order: string[] = [];
      const outcomes = await inOrder(checks, {
        parallel,
        signal: new AbortController().signal,
        run: async ({ id, needs }, before) => {
          running += 1;
          assert.ok(running <= parallel && needs.every((need) => before.has(need)));
          await new Promise((resolve) => setImmediate(resolve));
          running -= 1;
          order.push(id);
          return passed('');
        },
        finished: () => {},
      });
      assert.equal(outcomes.size, checks.length);
      assert.deepEqual(order.sort(), checks.map(({ id }) => id).sort());
    }),
    { numRuns: 50 },
  );
});

test('a fault is thrown after what runs has ended, and nothing new begins', async () => {
  const begun: string[] = [];
  const checks = ['a', 'b', 'c'].map((id) => ({ id, needs: [] }));
  await assert.rejects(
    inOrder(checks, {
      parallel: 1,
      signal: new AbortController().signal,
      run: async ({ id }) => {
        begun.push(id);
        throw new Error(`fault in ${id}`);
      },
      finished: () => assert.fail('nothing finished'),
    }),
    /fault in a/,
  );
  assert.deepEqual(begun, ['a']);
});
