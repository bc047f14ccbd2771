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
  mergeable,
  merged,
  newDisk,
  nodeOf,
  restored,
  settled,
  snapshotted,
} from './state.ts';

const image = 'a'.repeat(64);

/** Clusters by their place, and what was written there. */
type Clusters = Readonly<Record<string, number>>;

/**
 * A disk as QEMU would have it: what each layer holds by itself. It is the measure against which the states are held.
 */
interface Model {
  state: DiskState;
  /** Of each layer file, the clusters in it. */
  readonly files: Map<number, Clusters>;
  /** What a snapshot showed when it was made. */
  readonly shown: Map<string, Clusters>;
  /** No two writes are alike. */
  writes: number;
}

const newModel = (): Model => ({
  state: newDisk(image, 2 ** 30),
  files: new Map([[1, {}]]),
  shown: new Map(),
  writes: 0,
});

const contentOf = ({ state, files }: Model, layer: number): Clusters =>
  Object.assign(
    {},
    ...chainOf(state, layer).map((each) => files.get(each) ?? assert.fail(`layer ${each} has no file`)),
  );

function write(model: Model, layer: number, place: string): void {
  model.writes += 1;
  model.files.set(layer, { ...model.files.get(layer), [place]: model.writes });
}

/** What a step that was cut off left behind goes. */
function collect(model: Model): void {
  for (const layer of model.files.keys()) if (!(layer in model.state.layers)) model.files.delete(layer);
}

type Step =
  | { readonly do: 'write'; readonly place: string }
  /** Of as many pairs of layers as there are; the last one may be cut off after some of its clusters. */
  | { readonly do: 'merge'; readonly cutAfter: number | null }
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
  fc.record({ do: fc.constant('write' as const), place: fc.constantFrom('p', 'q', 'r', 's') }),
  fc.record({ do: fc.constant('merge' as const), cutAfter: fc.option(fc.integer({ min: 0, max: 3 })) }),
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
  if (each.do === 'write') return write(model, state.active, each.place);
  if (each.do === 'merge') return merge(model, each.cutAfter);
  const has = each.name in state.snapshots;
  if (each.do === 'restore') {
    if (!has) return;
    files.set(state.next, {});
    model.state = restored(state, each.name);
  } else if (each.do === 'forget') {
    model.state = forgotten(state, each.name);
    shown.delete(each.name);
  } else if (has) {
    return; // repeated: it is there
  } else if (each.do === 'live') {
    live(model, each);
  } else {
    files.set(state.next, {});
    shown.set(each.name, contentOf(model, state.active));
    model.state = snapshotted(state, each.name);
  }
  collect(model);
}

function merge(model: Model, cutAfter: number | null): void {
  for (let [pair] = mergeable(model.state); pair; [pair] = mergeable(model.state)) {
    const upper = Object.entries(model.files.get(pair.upper) ?? {});
    const written = Object.fromEntries(upper.slice(0, cutAfter ?? upper.length));
    model.files.set(pair.lower, { ...model.files.get(pair.lower), ...written });
    if (cutAfter !== null) return;
    model.state = merged(model.state, pair);
    collect(model);
  }
}

function live(model: Model, each: Extract<Step, { do: 'live' }>): void {
  const { state, files, shown } = model;
  const before = contentOf(model, state.active);
  files.set(state.next, {});
  if (each.cut === 'before') return; // the file is there, nobody knows it
  model.state = begun(state, each.name);
  const written = each.cut === 'asked' ? state.active : state.next;
  write(model, written, 'p');
  const finishing = each.cut === 'never' ? each.name : undefined;
  model.state = settled(model.state, each.survives || finishing ? written : undefined, finishing);
  if (finishing) shown.set(each.name, before);
  assert.deepEqual(
    contentOf(model, model.state.active),
    { ...before, p: model.writes },
    'nothing that was written is lost',
  );
}

test('whatever happens to a disk, and wherever a step is cut off, snapshots show what they showed and nothing is lost', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const model = newModel();
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
  const model = newModel();
  const steps: Step[] = [
    { do: 'write', place: 'p' },
    { do: 'snapshot', name: 'a' },
    { do: 'write', place: 'q' },
    { do: 'restore', name: 'a' },
  ];
  for (const each of steps) apply(model, each);
  assert.deepEqual(contentOf(model, model.state.active), { p: 1 });
});

test('a snapshot and what two others lie on stay as they are; a disk without snapshots comes to one layer', () => {
  const disk = snapshotted(snapshotted(newDisk(image, 2 ** 30), 'a'), 'b');
  assert.deepEqual(mergeable(disk), []);
  const one = forgotten(disk, 'a');
  assert.deepEqual(mergeable(one), [{ lower: 1, upper: 2 }]);
  const now = merged(one, { lower: 1, upper: 2 });
  assert.deepEqual([now.layers, now.snapshots, now.active], [{ 1: null, 3: 1 }, { b: 1 }, 3]);
  assert.deepEqual(mergeable(forgotten(restored(disk, 'a'), 'a')), [], 'layer 1 has two on it');
  const last = merged(forgotten(now, 'b'), { lower: 1, upper: 3 });
  assert.deepEqual([last.layers, last.active], [{ 1: null }, 1]);
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
