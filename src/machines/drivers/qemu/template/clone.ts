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
import type { ProcessIdentity } from '#host/processes.ts';
import { lowerFileLimit } from '#host/rlimit.ts';
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
  saveNewState,
  saveState,
  syncNewDisk,
} from '../disk/files.ts';
import { nodeOf } from '../disk/state.ts';
import { makeIdentity, secretsOf } from '../identity.ts';
import { nothing, type Qmp, withQmp } from '../qmp.ts';
import { readRuntime } from '../runtime.ts';
import { groupLimits, layerFileBytes, vmPaths } from '../spec.ts';
import { type Launch, launchQemu } from '../start.ts';
import type { TemplateFiles } from './files.ts';
import type { TemplateMemory } from './memory.ts';
import { becomeNobody, partingMs, runTrue, type TemplateParts } from './park.ts';
import { loadState, memoryInJail } from './qemu.ts';

export interface CloneParts extends TemplateParts {
  readonly memory: TemplateMemory;
}

/** For the guest to take its name: beyond that a cold boot is the better way. */
const namingMs = 20_000;

/** The copy's own layer over the template's, whose number in the template was 1 as well. */
const layers = { template: 1, own: 2 } as const;

/** What a guest does when its link is up (IPv6 looks whether its address is its own) takes a second at most. */
const linkMs = 1500;

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

/**
 * A disk that begins where the template's has got to. The template's layer is held by a link of our own. Whoever makes
 * somebody of the copy calls `syncNewDisk` before that.
 */
async function makeCloneDisk(files: DiskFiles, { disk, diskBytes, image }: TemplateFiles): Promise<void> {
  const { directory, bytes } = files;
  await rm(vmPaths(directory).disk, { recursive: true, force: true });
  await makeDiskDirectory(directory);
  await link(disk, layerPath(directory, layers.template));
  // as long as the one that the parked machine knows; it is told of the rest when it runs
  await makeLayer({ ...files, bytes: diskBytes }, layers.own, layers.template, { lasting: false });
  await saveNewState(directory, {
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

/** QEMU as a copy of the template. `first` begins before anything is loaded. */
async function launchClone(
  spec: MachineSpec,
  files: DiskFiles,
  template: TemplateFiles,
  parts: CloneParts,
  owner: Pick<Launch, 'cable' | 'fileBytes'>,
  first: (qmp: Qmp) => Promise<void>,
): Promise<Kept> {
  await note(spec.directory, 'loading');
  await makeCloneDisk(files, template);
  const launch: Partial<Launch> = {
    memory: { path: memoryInJail, share: false },
    incoming: true,
    ...owner,
    seeded: false,
    startedFrom: 'template',
  };
  return await parts.memory.with(template, async (memory) => {
    await using state = await open(template.state, 'r');
    const kept = await launchQemu(spec, parts, { ...launch, fds: [memory, state.fd] }, first);
    void parts.store.touch(template.key).catch(() => undefined);
    return kept; // before the file is closed
  });
}

/**
 * Whose disk it will have is not known yet, and a hard limit can be made lower but not higher: it is the owner's from
 * `adoptSpare` on. While it waits the soft one is that of the disk it has, which holds unless somebody has taken over
 * QEMU, and nobody but the image's maker has had a word in it yet.
 */
const nobodys = { cable: 'loose', fileBytes: 2 ** 50 } as const;
const owned = { cable: 'plugged', fileBytes: null } as const;

const qemuOf = ({ initPid: pid, initStartTime: startTime }: Kept): ProcessIdentity => ({ pid, startTime });

/** A copy with everything loaded, stopped: nobody is waiting for it yet, and it has no place in a network. */
export async function preloadClone(
  spec: MachineSpec,
  files: DiskFiles,
  template: TemplateFiles,
  parts: CloneParts,
): Promise<void> {
  const { directory } = spec;
  const kept = await launchClone(spec, files, template, parts, nobodys, loadState);
  try {
    const bytes = layerFileBytes(template.diskBytes);
    await lowerFileLimit(qemuOf(kept), { uid: files.uid, bytes, forNow: true });
    await warm(spec, parts);
    await syncNewDisk(directory, layers.own);
    await note(directory, 'waiting');
  } finally {
    kept.close();
  }
}

/**
 * A copy that waits is given an identity, a link that leads nowhere, and a command to run: that is the way it will go once
 * more when it gets an owner. Under emulation most of the time of a start goes into translating this code, and what is
 * translated stays. Then it is nobody again.
 */
async function warm(spec: MachineSpec, { agents }: CloneParts): Promise<void> {
  const { directory } = spec;
  const link = (up: boolean): Promise<unknown> =>
    withQmp(directory, (qmp) => qmp.execute('set_link', { name: 'net0', up }, nothing));
  await withQmp(directory, (qmp) => qmp.execute('cont', {}, nothing));
  await agents.use(directory, async (agent) => {
    await agent.identify(makeIdentity(spec, await secretsOf(vmPaths(directory).identity)));
    await link(true);
    await runTrue(agent);
    await sleep(linkMs);
    await link(false);
    await becomeNobody(agent, spec);
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
    await Promise.all([
      lowerFileLimit(qemuOf(kept), { uid: files.uid, bytes: layerFileBytes(files.bytes) }),
      fabric.connectTap({ machineId: id, owner: ownerId, network: name, address, mac, bytesPerSecond }),
    ]);
    await withQmp(directory, async (qmp) => {
      const lasting = saveState(directory, { ...state, bytes: files.bytes });
      const named = identify(spec, parts);
      await nameClone(qmp, spec, { from: state.bytes, to: files.bytes }, [named, lasting], parts);
    });
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

/**
 * Tells a copy who it is, as soon as it listens. Begun before the state is loaded: then the port is open from the first
 * moment on, as it was when the machine was parked, and what is said waits for the guest.
 */
async function identify(spec: MachineSpec, { agents }: CloneParts): Promise<void> {
  const { directory } = spec;
  const secrets = secretsOf(vmPaths(directory).identity);
  await agents.use(directory, async (agent) => agent.identify(makeIdentity(spec, await secrets)), {
    limitMs: namingMs,
  });
}

/** Lets a loaded copy run, and gives it its link only when it has been told who it is and what it has will last. */
async function nameClone(
  qmp: Qmp,
  { directory }: MachineSpec,
  { from, to }: { readonly from: number; readonly to: number },
  before: readonly Promise<unknown>[],
  { agents }: CloneParts,
): Promise<void> {
  const done = Promise.all(before);
  done.catch(() => undefined);
  await note(directory, 'naming');
  if (to > from) await qmp.execute('block_resize', { 'node-name': nodeOf(layers.own), size: to }, nothing);
  await qmp.execute('cont', {}, nothing);
  await done;
  await qmp.execute('set_link', { name: 'net0', up: true }, nothing);
  await rm(noteOf(directory));
  // the machine is usable meanwhile; where it fails, the next start does it
  if (to > from) await agents.use(directory, (agent) => agent.growRoot());
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
  try {
    return await launchClone(spec, files, template, parts, owned, async (qmp) => {
      const before = [identify(spec, parts), syncNewDisk(spec.directory, layers.own)];
      for (const each of before) each.catch(() => undefined);
      await loadState(qmp);
      await nameClone(qmp, spec, { from: template.diskBytes, to: files.bytes }, before, parts);
    });
  } catch (error) {
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
