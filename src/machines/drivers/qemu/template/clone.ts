/**
 * A machine's first start as a copy of a parked one: its memory is the template's, copied on write; its disk a layer
 * over the template's; processors and devices are loaded. It has no link until it has been told who it is.
 *
 *     clone.json written ─ disk ─ QEMU, loaded and stopped ─ runs, told who it is ─ link up ─ clone.json removed
 *                                  └─ `waiting`: a spare stays here until it gets an owner
 *
 * A copy that has not come to the end of that line is nobody: whoever finds one (its file is still there) ends it, and
 * the machine begins anew. So a kill -9 anywhere costs a start and nothing else.
 */
import { existsSync, readFileSync } from 'node:fs';
import { link, open, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep } from '#base/deadline.ts';
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';
import { isLocked } from '#host/flock.ts';
import { adoptKept, type Kept, keptPaths, machineGroup } from '#isolate/kept.ts';
import type { MachineSpec } from '../../../driver.ts';
import { killKept, reach } from '../../kept.ts';
import {
  type DiskFiles,
  layerPath,
  loadState as loadDisk,
  makeDiskDirectory,
  makeLayer,
  requireState,
  saveState,
} from '../disk/files.ts';
import { nodeOf } from '../disk/state.ts';
import { makeIdentity, secretsOf } from '../identity.ts';
import { nothing, type Qmp, withQmp } from '../qmp.ts';
import { readRuntime } from '../runtime.ts';
import { groupLimits, vmPaths } from '../spec.ts';
import { type Launch, launchQemu } from '../start.ts';
import type { TemplateFiles } from './files.ts';
import type { TemplateMemory } from './memory.ts';
import { partingMs, runTrue, type TemplateParts } from './park.ts';
import { loadState, memoryInJail } from './qemu.ts';

export interface CloneParts extends TemplateParts {
  readonly memory: TemplateMemory;
}

/** For the guest to take its name: beyond that a cold boot is the better way. */
const namingMs = 20_000;

/** The copy's own layer over the template's, whose number in the template was 1 as well. */
const layers = { template: 1, own: 2 } as const;

type Place = Pick<MachineSpec, 'id' | 'directory'>;
type Phase = 'loading' | 'waiting' | 'naming';

const noteOf = (directory: string): string => join(directory, 'clone.json');

/** How far a copy has come; undefined when there is none, or it is a machine like any other by now. */
export function phaseOf(directory: string): Phase | undefined {
  try {
    const text = readFileSync(noteOf(directory), 'utf8');
    return text === 'waiting' || text === 'naming' ? text : 'loading';
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Not synced: after a power cut there are no copies left that it could tell of. */
const note = (directory: string, phase: Phase): Promise<void> =>
  writeFile(noteOf(directory), phase, { mode: 0o600 });

/** Ends a copy that is nobody, and forgets its disk: the machine has never been started then. */
export async function discardClone(place: Place, parts: CloneParts): Promise<void> {
  parts.agents.drop(place.directory);
  if (isLocked(keptPaths(place.directory).lock)) await killKept(place, parts);
  await parts.fabric.unplug(place.id);
  const { disk, diskState, runtime } = vmPaths(place.directory);
  for (const path of [diskState, disk, runtime]) await rm(path, { recursive: true, force: true });
  await rm(noteOf(place.directory), { force: true });
}

/**
 * Has it never been started, and does it begin with its image as it is? A copy's disk takes the place of its own: one
 * with snapshots keeps what it has.
 */
export async function couldBeClone({ directory, source }: MachineSpec): Promise<boolean> {
  if (source !== undefined || (await readRuntime(directory)) !== undefined) return false;
  const disk = await loadDisk(directory);
  return disk === undefined || (Object.keys(disk.snapshots).length === 0 && disk.pending === null);
}

/** A disk that begins where the template's has got to. The template's layer is held by a link of our own. */
async function makeCloneDisk(files: DiskFiles, { disk, diskBytes, image }: TemplateFiles): Promise<void> {
  const { directory, bytes } = files;
  await rm(vmPaths(directory).disk, { recursive: true, force: true });
  await makeDiskDirectory(directory);
  await link(disk, layerPath(directory, layers.template));
  // as long as the one that the parked machine knows; it is told of the rest when it runs
  await makeLayer({ ...files, bytes: diskBytes }, layers.own, layers.template);
  await saveState(directory, {
    format: 1,
    image,
    bytes: Math.max(bytes, diskBytes),
    next: layers.own + 1,
    active: layers.own,
    layers: { [layers.template]: null, [layers.own]: layers.template },
    snapshots: {},
    pending: null,
  });
}

/** QEMU with everything loaded, stopped. `waiting`: nobody is waiting for it yet, and it has no place in a network. */
export async function loadClone(
  spec: MachineSpec,
  files: DiskFiles,
  template: TemplateFiles,
  parts: CloneParts,
  { waiting = false }: { waiting?: boolean } = {},
): Promise<Kept> {
  const { directory } = spec;
  await note(directory, 'loading');
  await makeCloneDisk(files, template);
  const launch: Partial<Launch> = {
    memory: { path: memoryInJail, share: false },
    incoming: true,
    cable: waiting ? 'loose' : 'plugged',
    seeded: false,
    startedFrom: 'template',
  };
  const kept = await parts.memory.with(template, async (memory) => {
    await using state = await open(template.state, 'r');
    return await launchQemu(spec, parts, { ...launch, fds: [memory, state.fd] }); // before the file is closed
  });
  try {
    await withQmp(directory, loadState);
    if (waiting) {
      await warm(spec, parts);
      await note(directory, 'waiting');
    }
    void parts.store.touch(template.key).catch(() => undefined);
    return kept;
  } catch (error) {
    kept.close();
    throw error;
  }
}

/**
 * A copy that waits is told that it is nobody, and runs a command: that is the way it will go once more when it gets
 * an owner. Under emulation most of the time of a start goes into translating this code, and what is translated stays.
 */
async function warm(spec: MachineSpec, { agents }: CloneParts): Promise<void> {
  const { directory } = spec;
  await withQmp(directory, (qmp) => qmp.execute('cont', {}, nothing));
  await agents.use(directory, async (agent) => {
    await agent.identify(makeIdentity(spec, await secretsOf(vmPaths(directory).identity)));
    await runTrue(agent);
    await agent.sync();
  });
  agents.drop(directory);
  await sleep(partingMs);
  await withQmp(directory, (qmp) => qmp.execute('stop', {}, nothing));
}

/** Gives a waiting copy to the machine that it was for all along. Like `startClone` when that fails. */
export async function adoptSpare(
  spec: MachineSpec,
  files: DiskFiles,
  parts: CloneParts,
): Promise<Kept | string> {
  const { id, directory, limits, network, ownerId } = spec;
  const { fabric, instance } = parts;
  let kept: Kept | undefined;
  try {
    kept = await reach(spec, adoptKept);
    if (!kept) throw new CarrelError('machine_lost', 'it has ended');
    const state = await requireState(directory);
    const { accelerator } = await parts.acceleration();
    machineGroup(instance, id).limit(groupLimits(limits, accelerator));
    const { name, address, mac, bytesPerSecond } = network;
    await fabric.connectTap({ machineId: id, owner: ownerId, network: name, address, mac, bytesPerSecond });
    await saveState(directory, { ...state, bytes: files.bytes });
    await nameClone(spec, files, { diskBytes: state.bytes }, parts);
    return kept;
  } catch (error) {
    kept?.close();
    await discardClone(spec, parts);
    return `the machine had to boot: the copy that waited for it could not be used (${messageOf(error)})`.slice(
      0,
      500,
    );
  }
}

/** Lets a loaded copy run, tells it who it is, and only then gives it its link. */
export async function nameClone(
  spec: MachineSpec,
  files: DiskFiles,
  template: Pick<TemplateFiles, 'diskBytes'>,
  { agents }: CloneParts,
): Promise<void> {
  const { directory } = spec;
  await note(directory, 'naming');
  const longer = files.bytes > template.diskBytes;
  const identity = makeIdentity(spec, await secretsOf(vmPaths(directory).identity));
  await withQmp(
    directory,
    async (qmp: Qmp) => {
      if (longer)
        await qmp.execute('block_resize', { 'node-name': nodeOf(layers.own), size: files.bytes }, nothing);
      await qmp.execute('cont', {}, nothing);
      await agents.use(directory, (agent) => agent.identify(identity));
      await qmp.execute('set_link', { name: 'net0', up: true }, nothing);
    },
    { limitMs: namingMs },
  );
  await rm(noteOf(directory));
  // the machine is usable meanwhile; where it fails, the next start does it
  if (longer) await agents.use(directory, (agent) => agent.growRoot());
}

/**
 * Starts a machine as a copy of the template. Gives why not in a sentence when that fails: nothing of the try is left
 * then, and the machine can boot.
 */
export async function startClone(
  spec: MachineSpec,
  files: DiskFiles,
  template: TemplateFiles,
  parts: CloneParts,
): Promise<Kept | string> {
  let kept: Kept | undefined;
  try {
    kept = await loadClone(spec, files, template, parts);
    await nameClone(spec, files, template, parts);
    return kept;
  } catch (error) {
    kept?.close();
    await discardClone(spec, parts);
    if (error instanceof CarrelError && error.code === 'wrong_state') throw error; // it runs already
    return `the machine had to boot: its template could not be used (${messageOf(error)})`.slice(0, 500);
  }
}

/** Lives, and waits for an owner. */
export function isWaiting({ directory }: Pick<Place, 'directory'>): boolean {
  return (
    existsSync(keptPaths(directory).lock) &&
    isLocked(keptPaths(directory).lock) &&
    phaseOf(directory) === 'waiting'
  );
}
