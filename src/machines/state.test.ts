import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { activity as activitySchema, machineState } from '#contract/schemas/machines.ts';
import { decide, decideDiskWork, settled, type Standing, undone, verbs } from './state.ts';

const states = machineState.options;
const activities = activitySchema.options;
const standing = fc.record({
  state: fc.constantFrom(...states),
  activity: fc.option(fc.constantFrom(...activities)),
});
const verb = fc.constantFrom(...verbs);

test('every verb in every standing has an answer, and a refusal says why and what next', () => {
  fc.assert(
    fc.property(standing, verb, (at, verb) => {
      const decision = decide(at, verb);
      if (decision.kind === 'refused') {
        assert.ok(decision.reason.length > 0);
        assert.ok(decision.hint.length > 0);
      }
    }),
  );
});

test('a verb asked for again while it is being done joins it, and once it is done changes nothing or starts over', () => {
  fc.assert(
    fc.property(standing, verb, (at, verb) => {
      const first = decide(at, verb);
      if (first.kind !== 'begin') return;
      assert.deepEqual(decide({ ...at, activity: first.activity }, verb), { kind: 'join' });
      const state = settled(first.activity, at.state);
      if (state === null) return;
      const again = decide({ state, activity: null }, verb);
      assert.equal(again.kind, verb === 'restart' ? 'begin' : 'done');
    }),
  );
});

test('remove is never refused', () => {
  fc.assert(fc.property(standing, (at) => assert.notEqual(decide(at, 'remove').kind, 'refused')));
});

test('while something is being done, nothing but the same verb and remove gets in', () => {
  fc.assert(
    fc.property(standing, verb, (at, verb) => {
      if (at.activity === null || verb === 'remove') return;
      assert.notEqual(decide(at, verb).kind, 'begin');
      assert.notEqual(decide(at, verb).kind, 'done');
    }),
  );
});

test('work at the disk waits for nothing, is joined by nothing, and gives the machine back as it was or stopped', () => {
  const work = fc.constantFrom('snapshotting' as const, 'restoring' as const);
  fc.assert(
    fc.property(standing, work, (at, work) => {
      const decision = decideDiskWork(at, work);
      if (at.activity !== null) assert.equal(decision.kind, 'refused');
      if (decision.kind !== 'begin') return;
      for (const verb of verbs)
        assert.equal(decide({ ...at, activity: work }, verb).kind, verb === 'remove' ? 'begin' : 'refused');
      const after = settled(work, at.state);
      assert.ok(after === at.state || (work === 'restoring' && after === 'stopped'));
    }),
  );
});

test('whatever happens, a machine at rest can be brought to running, to stopped and away', () => {
  const step = fc.record({ verb, succeeds: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      let at: Standing | null = { state: 'stopped', activity: null };
      for (const { verb, succeeds } of steps) {
        const decision = decide(at, verb);
        if (decision.kind !== 'begin') continue;
        const state: Standing['state'] | null = succeeds
          ? settled(decision.activity, at.state)
          : undone(decision.activity, at.state);
        if (state === null) return;
        at = { state, activity: null };
      }
      const toRunning = at.state === 'paused' ? 'resume' : 'start';
      assert.ok(['begin', 'done'].includes(decide(at, toRunning).kind));
      assert.ok(['begin', 'done'].includes(decide(at, 'stop').kind));
      assert.equal(decide(at, 'remove').kind, 'begin');
    }),
  );
});
