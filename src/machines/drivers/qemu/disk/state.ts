/**
 * What a machine's disk consists of: qcow2 layers, each over another one, the lowest over the image.
 *
 *      image ◀── 1 ◀── 2 ◀── 4 (written)        a snapshot is a layer that is not written any more
 *                 ▲     ▲
 *              "before" "after"
 *
 * The state is one small file of root's, replaced as a whole: that is the moment in which a step is done. A layer file
 * that the state does not know is what a step left that was cut off, and goes. What the headers of the layers say of
 * each other is for people only: QEMU may write to them. All functions here are pure.
 */
import { z } from 'zod';
import { CarrelError } from '#base/errors.ts';

const number = z.int().positive();

export const diskStateSchema = z.strictObject({
  format: z.literal(1),
  /** Hash of the image below. */
  image: z.string().regex(/^[0-9a-f]{64}$/),
  /** Length as the machine sees it. */
  bytes: number,
  /** The number of the next layer: none is used twice. */
  next: number,
  /** The layer that is written. */
  active: number,
  /** The layer below each; null: the image. */
  layers: z.record(z.string().regex(/^[1-9]\d*$/), number.nullable()),
  snapshots: z.record(z.string(), number),
  /** QEMU is being told to go on in this layer; see `begun`. */
  pending: z.strictObject({ layer: number, snapshot: z.string().nullable() }).nullable(),
});
export type DiskState = z.output<typeof diskStateSchema>;

/** A disk without snapshots. Its first layer is number 1. */
export function newDisk(image: string, bytes: number): DiskState {
  return { format: 1, image, bytes, next: 2, active: 1, layers: { 1: null }, snapshots: {}, pending: null };
}

/** The node of a layer in QEMU, and back; undefined for other nodes. */
export const nodeOf = (layer: number): string => `disk-${layer}`;
export function layerOf(node: string): number | undefined {
  const digits = /^disk-([1-9]\d{0,8})$/.exec(node)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/** From the lowest to the given one; `internal` when the state contradicts itself. */
export function chainOf(state: DiskState, layer: number): number[] {
  const chain: number[] = [];
  for (let at: number | null = layer; at !== null;) {
    const below: number | null | undefined = state.layers[at];
    if (below === undefined || chain.includes(at))
      throw new CarrelError('internal', `layer ${layer} of the disk does not lead to an image`);
    chain.unshift(at);
    at = below;
  }
  return chain;
}

/** A new layer over `below`, not used by anything yet. */
function grown(state: DiskState, below: number): DiskState {
  return {
    ...state,
    next: state.next + 1,
    layers: { ...state.layers, [state.next]: below },
  };
}

/** Forgets layers that lead to nothing that is used. */
function pruned(state: DiskState): DiskState {
  const used = [
    state.active,
    ...Object.values(state.snapshots),
    ...(state.pending ? [state.pending.layer] : []),
  ];
  const kept = new Set(used.flatMap((layer) => chainOf(state, layer)));
  const layers = Object.fromEntries(
    Object.entries(state.layers).filter(([layer]) => kept.has(Number(layer))),
  );
  return { ...state, layers };
}

const named = (state: DiskState, snapshot: string | null): DiskState['snapshots'] =>
  snapshot === null ? state.snapshots : { ...state.snapshots, [snapshot]: state.active };

/**
 * What is written now becomes the snapshot (null: nobody will ask for it again), and a new layer (`state.next` before)
 * is written from now on.
 */
export function snapshotted(state: DiskState, snapshot: string | null): DiskState {
  return { ...grown(state, state.active), active: state.next, snapshots: named(state, snapshot) };
}

/**
 * The same of a disk that QEMU has open, first half: the new layer is made and known, and QEMU may be writing to the
 * old one or to the new one. If that is cut off, see `settled`.
 */
export function begun(state: DiskState, snapshot: string | null): DiskState {
  return { ...grown(state, state.active), pending: { layer: state.next, snapshot } };
}

/**
 * Second half, and the way out of a step that was cut off. `written` is what QEMU writes to, undefined when it does not
 * run. Then it is not known which one it was; but the new layer is right in both cases: either it holds what was
 * written last, or it is empty and shows the old one as it is. `finishing` names the snapshot that its maker has
 * come back for: nobody else's is taken for done.
 */
export function settled(state: DiskState, written: number | undefined, finishing?: string): DiskState {
  const { pending, active } = state;
  if (!pending) return state;
  if (written === active) return pruned({ ...state, pending: null });
  if (written !== undefined && written !== pending.layer)
    throw new CarrelError(
      'internal',
      `QEMU writes to layer ${written} of the disk, which is not one it was given`,
    );
  const done = written !== undefined && finishing !== undefined && pending.snapshot === finishing;
  const snapshots = named(state, done ? finishing : null);
  return { ...state, active: pending.layer, pending: null, snapshots };
}

/** The disk as it was: a new layer (`state.next` before) over the snapshot's; what was written since goes. */
export function restored(state: DiskState, snapshot: string): DiskState {
  return pruned({ ...grown(state, snapshotLayer(state, snapshot)), active: state.next });
}

export function snapshotLayer({ snapshots }: DiskState, snapshot: string): number {
  const layer = Object.hasOwn(snapshots, snapshot) ? snapshots[snapshot] : undefined;
  if (layer === undefined) throw new CarrelError('not_found', `the machine has no snapshot ${snapshot}`);
  return layer;
}

/** Its layer stays as long as another one lies on it; see `mergeable`. */
export function forgotten(state: DiskState, snapshot: string): DiskState {
  const { [snapshot]: _, ...snapshots } = state.snapshots;
  return pruned({ ...state, snapshots });
}

/** A layer that shows nothing to anybody but through the one layer on it: that one can be written into it. */
export interface Mergeable {
  readonly lower: number;
  readonly upper: number;
}

/** All such pairs of a disk without a step under way. */
export function mergeable({ layers, snapshots, active, pending }: DiskState): Mergeable[] {
  if (pending) return [];
  const shown = new Set([active, ...Object.values(snapshots)]);
  return Object.keys(layers).flatMap((name) => {
    const lower = Number(name);
    const [upper, ...others] = Object.keys(layers).filter((each) => layers[each] === lower);
    return shown.has(lower) || upper === undefined || others.length > 0
      ? []
      : { lower, upper: Number(upper) };
  });
}

/** Once the lower layer holds what the upper one does: it takes its place. */
export function merged(state: DiskState, { lower, upper }: Mergeable): DiskState {
  const instead = (layer: number): number => (layer === upper ? lower : layer);
  const { [upper]: _, ...left } = state.layers;
  return {
    ...state,
    active: instead(state.active),
    layers: Object.fromEntries(
      Object.entries(left).map(([layer, below]) => [layer, below === null ? null : instead(below)]),
    ),
    snapshots: Object.fromEntries(
      Object.entries(state.snapshots).map(([name, layer]) => [name, instead(layer)]),
    ),
  };
}

/** Another machine's disk that begins with a copy of these layers, and a new one (number `state.next`) over them. */
export function cloned(state: DiskState, layer: number, bytes = state.bytes): DiskState {
  const chain = new Set(chainOf(state, layer).map(String));
  const layers = Object.fromEntries(Object.entries(state.layers).filter(([each]) => chain.has(each)));
  return { ...grown({ ...state, bytes, layers, snapshots: {}, pending: null }, layer), active: state.next };
}
