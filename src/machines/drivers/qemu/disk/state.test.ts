import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import {
  begun,
  chainOf,
  cloned,
  diskStateSchema,
  type DiskState,
  forgotten,
  layerOf,
  newDisk,
  nodeOf,
  restored,
  settled,
  snapshotted,
} from './state.ts';

const image = 'a'.repeat(64);

/**
 * A disk whose content is a history of writes: what each layer holds by itself, as QEMU would. It is the measure
 * against which the states are held.
 */
interface Model {
  state: DiskState;
  /** Of each layer file, the writes in it. */
  readonly files: Map<number, string[]>;
  /** What a snapshot showed when it was made. */
  readonly shown: Map<string, string[]>;
}

const contentOf = ({ state, files }: Model, layer: number): string[] =>
  chainOf(state, layer).flatMap((each) => files.get(each) ?? assert.fail(`layer ${each} has no file`));

/** What a step that was cut off left behind goes. */
function collect(model: Model): void {
  for (const layer of model.files.keys()) if (!(layer in model.state.layers)) model.files.delete(layer);
}

type Step =
  | { readonly do: 'write'; readonly text: string }
  | { readonly do: 'snapshot'; readonly name: string }
  | { readonly do: 'restore'; readonly name: string }
  | { readonly do: 'forget'; readonly name: string }
  /** Of a running machine: where it is cut off, and whether QEMU lives on. */
  | {
      readonly do: 'live';
      readonly name: string;
      readonly cut: 'before' | 'asked' | 'switched' | 'never';
      readonly survives: boolean;
    };

const name = fc.constantFrom('a', 'b', 'c');
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('write' as const), text: fc.string({ minLength: 1, maxLength: 3 }) }),
  fc.record({ do: fc.constant('snapshot' as const), name }),
  fc.record({ do: fc.constant('restore' as const), name }),
  fc.record({ do: fc.constant('forget' as const), name }),
  fc.record({
    do: fc.constant('live' as const),
    name,
    cut: fc.constantFrom('before' as const, 'asked' as const, 'switched' as const, 'never' as const),
    survives: fc.boolean(),
  }),
);

function apply(model: Model, each: Step): void {
  const { state, files, shown } = model;
  if (each.do === 'write') return void files.get(state.active)?.push(each.text);
  const has = each.name in state.snapshots;
  if (each.do === 'restore') {
    if (!has) return;
    files.set(state.next, []);
    model.state = restored(state, each.name);
  } else if (each.do === 'forget') {
    model.state = forgotten(state, each.name);
    shown.delete(each.name);
  } else if (has) {
    return; // repeated: it is there
  } else if (each.do === 'live') {
    live(model, each);
  } else {
    files.set(state.next, []);
    shown.set(each.name, contentOf(model, state.active));
    model.state = snapshotted(state, each.name);
  }
  collect(model);
}

function live(model: Model, each: Extract<Step, { do: 'live' }>): void {
  const { state, files, shown } = model;
  const before = contentOf(model, state.active);
  files.set(state.next, []);
  if (each.cut === 'before') return; // the file is there, nobody knows it
  model.state = begun(state, each.name);
  const written = each.cut === 'asked' ? state.active : state.next;
  files.get(written)?.push('later');
  const finishing = each.cut === 'never' ? each.name : undefined;
  model.state = settled(model.state, each.survives || finishing ? written : undefined, finishing);
  if (finishing) shown.set(each.name, before);
  assert.deepEqual(
    contentOf(model, model.state.active),
    [...before, 'later'],
    'nothing that was written is lost',
  );
}

test('whatever happens to a disk, and wherever a step is cut off, snapshots show what they showed and nothing is lost', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const model: Model = { state: newDisk(image, 2 ** 30), files: new Map([[1, []]]), shown: new Map() };
      for (const each of steps) {
        apply(model, each);
        diskStateSchema.parse(model.state);
        assert.deepEqual(Object.keys(model.state.snapshots).sort(), [...model.shown.keys()].sort());
        for (const [snapshot, content] of model.shown)
          assert.deepEqual(contentOf(model, model.state.snapshots[snapshot] ?? 0), content, snapshot);
        assert.equal(
          Object.values(model.state.snapshots).includes(model.state.active),
          false,
          'what is written is no snapshot',
        );
        assert.deepEqual(
          [...model.files.keys()].map(String).sort(),
          Object.keys(model.state.layers).sort(),
          'every layer has its file, and every file its layer',
        );
      }
    }),
    { numRuns: 500 },
  );
});

test('restoring shows what the snapshot showed', () => {
  const model: Model = { state: newDisk(image, 2 ** 30), files: new Map([[1, ['one']]]), shown: new Map() };
  const steps: Step[] = [
    { do: 'snapshot', name: 'a' },
    { do: 'write', text: 'two' },
    { do: 'restore', name: 'a' },
  ];
  for (const each of steps) apply(model, each);
  assert.deepEqual(contentOf(model, model.state.active), ['one']);
});

test('a copy has the layers it needs and no others, and writes to one of its own', () => {
  const disk = snapshotted(snapshotted(newDisk(image, 2 ** 30), 'a'), 'b');
  const copy = cloned(disk, 1);
  assert.deepEqual(copy.layers, { 1: null, 4: 1 });
  assert.equal(copy.active, 4);
  assert.deepEqual(copy.snapshots, {});
});

test('a step that is cut off again is settled again', () => {
  const disk = begun(newDisk(image, 2 ** 30), 'a');
  assert.deepEqual(settled(disk, 1).layers, { 1: null });
  assert.equal(settled(disk, 2).active, 2);
  assert.deepEqual(settled(settled(disk, undefined), undefined), settled(disk, undefined));
  assert.deepEqual(settled(disk, 2, 'a').snapshots, { a: 1 });
  assert.deepEqual(settled(disk, 2, 'other').snapshots, {});
  assert.throws(() => settled(disk, 7), /not one it was given/);
});

test('nodes and layers name each other, and a foreign node names none', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 999_999_999 }), (layer) => layerOf(nodeOf(layer)) === layer),
  );
  for (const node of ['image', 'disk-', 'disk-0', 'disk-1x', '#block123'])
    assert.equal(layerOf(node), undefined);
});
