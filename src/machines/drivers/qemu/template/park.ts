/**
 * A template is made: a machine boots, settles, and is parked. It boots under the same jail and keeper as every other
 * one, with a wire that leads nowhere, and as nobody: names, keys and addresses are each clone's own.
 */
import { link, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { within } from '#base/deadline.ts';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { createMemfd } from '#host/memfd.ts';
import { copySparse } from '#host/sparse.ts';
import { type Kept, machineGroup } from '#isolate/kept.ts';
import type { MachineSpec } from '../../../driver.ts';
import { type Rest, untilAtRest, watchRest } from '../../../rest.ts';
import type { EarlySpec, ParkContext } from '../../../templates/driver.ts';
import { keeperEnd } from '../../kept.ts';
import type { Agent } from '../agent/agent.ts';
import { makeDisk } from '../disk/disk.ts';
import { layerPath } from '../disk/files.ts';
import { nothing, type Qmp, withQmp } from '../qmp.ts';
import { untilReady } from '../ready.ts';
import type { RunningParts } from '../running.ts';
import { identityPaths } from '../agent/identify.ts';
import { makeIdentity, secretsOf } from '../identity.ts';
import { qemuUid, vmPaths } from '../spec.ts';
import { launchQemu, type QemuParts, requireDiskImage, wholePages } from '../start.ts';
import type { TemplateFiles, TemplateStore } from './files.ts';
import { keyOfMachine, memoryInJail, sendState, stateSocketInJail, takeState } from './qemu.ts';

export interface TemplateParts extends QemuParts, RunningParts {
  readonly store: TemplateStore;
}

const bootMs = 120_000;
/** When it is parked, or when its services never come to rest. Longer than it takes one that waits for another service. */
const rest: Rest = { idleMs: 3000, idleShare: 0.06, patienceMs: 60_000 };
/** The agent notices that nobody is connected any more. */
export const partingMs = 300;
const endMs = 20_000;

/** TEST-NET-1 (RFC 5737): an address that is nobody's; the wire leads nowhere anyway. */
const nobody = {
  address: '192.0.2.1',
  prefix: 24,
  gateway: '192.0.2.254',
  mac: '02:00:00:00:00:01',
} as const;

/** The machine that boots, and the clone that waits for its owner, as `launchQemu` takes them. */
export function specOfNobody(
  { id, directory, image, limits, uidSlot }: EarlySpec,
  diskBytes: number,
): MachineSpec {
  return {
    id,
    name: 'template',
    ownerId: id,
    directory,
    image,
    limits: { ...limits, diskBytes },
    uidSlot,
    network: { name: 'default', ...nobody, bytesPerSecond: null },
    sshKeys: [],
  };
}

/** Boots the image and parks it. Repeatable: whatever is in the directory is begun anew. */
export async function parkTemplate(
  early: EarlySpec,
  parts: TemplateParts,
  { signal, step }: ParkContext,
): Promise<TemplateFiles> {
  const image = await requireDiskImage({ name: 'template', image: early.image }, parts);
  if (!image.disk.agent)
    throw new CarrelError(
      'validation_failed',
      `image ${image.name} has no agent: a copy of it could not get a name`,
    );
  const key = await keyOfMachine(image, early.limits, await parts.acceleration());
  const diskBytes = image.disk.virtualBytes; // the least of all: a copy with a longer one grows
  const spec = specOfNobody(early, diskBytes);
  const { id, directory } = spec;
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await parts.images.hold(image.hash, directory);
  try {
    step('make its disk');
    await makeDisk({ directory, uid: qemuUid(spec), bytes: diskBytes, image: image.path }, image.hash);
    const place = await parts.store.begin(id);
    const ramBytes = wholePages(spec.limits.memoryBytes);
    using memory = createMemfd(`carrel-park-${key.slice(0, 12)}`, ramBytes);
    const socket = join(directory, 'state.sock');
    await using taker = await takeState(socket, place.state);
    step('boot');
    const kept = await launchQemu(spec, parts, {
      memory: { path: memoryInJail, share: true },
      fds: [memory.fd],
      files: [{ source: socket, target: stateSocketInJail, kind: 'file', writable: true }],
      cable: 'loose',
    });
    try {
      await boot(spec, kept, parts, { signal, step });
      step('park');
      const parked = async (qmp: Qmp): Promise<void> => {
        await qmp.execute('stop', {}, nothing);
        await sendState(qmp);
        await within(endMs, 'the state to be written', taker.taken);
        await qmp.execute('quit', {}, nothing);
      };
      // somebody is connected, as somebody will be when a copy begins: so a copy's guest sees no change
      await parts.agents.use(directory, () => withQmp(directory, parked, { limitMs: endMs }));
      await within(endMs, 'QEMU to end', kept.ended());
      await keeperEnd(directory);
    } finally {
      parts.agents.drop(directory);
      await kept.kill().catch(() => undefined);
      kept.close();
    }
    signal.throwIfAborted();
    step('write its memory');
    {
      await using ram = await open(place.ram, 'wx', 0o600);
      await ram.truncate(ramBytes);
      await copySparse(memory.fd, ram.fd, ramBytes, { signal });
    }
    await link(layerPath(directory, 1), place.disk);
    return await parts.store.publish(id, {
      key,
      image: image.hash,
      ramBytes,
      diskBytes,
    });
  } finally {
    await parts.images.release(image.hash, directory);
    await parts.store.abandon(id);
  }
}

const quietly = { env: {}, cwd: '/', user: 'root', stdin: '', limitMs: 30_000, outputBytes: 4096 } as const;

/** A command that does nothing but be run. */
export async function runTrue(agent: Agent, options?: { signal: AbortSignal }): Promise<void> {
  await agent.run({ ...quietly, argv: ['/bin/true'] }, options);
}

/** A program of the image that another image may do without. */
async function runIfThere(agent: Agent, argv: [string, ...string[]]): Promise<void> {
  try {
    await agent.run({ ...quietly, argv });
  } catch (error) {
    if (!isCarrelError(error, 'invalid_request')) throw error;
  }
}

/**
 * The machine has an identity without an address, its interface is down, and what it was told is not on its disk: so who
 * tells it another one takes nothing away, and it takes half as long.
 */
export async function becomeNobody(agent: Agent, spec: MachineSpec): Promise<void> {
  const network = { ...spec.network, address: '0.0.0.0', gateway: '0.0.0.0' };
  const identity = makeIdentity({ ...spec, network }, await secretsOf(vmPaths(spec.directory).identity));
  await agent.identify(identity);
  await agent.run({ ...quietly, argv: ['/bin/rm', '-f', ...identityPaths(identity)] });
}

/** From power on to a machine that has nothing to do, is known to nobody, and has everything on its disk. */
async function boot(
  spec: MachineSpec,
  kept: Kept,
  { agents, instance }: TemplateParts,
  { signal, step }: ParkContext,
): Promise<void> {
  const { id, directory } = spec;
  // its wire is loose; to the guest, too: a clone begins without a link, and gets it together with its address
  await withQmp(directory, (qmp) => qmp.execute('set_link', { name: 'net0', up: false }, nothing));
  await untilReady({ kept, directory, agents, hasAgent: true }, { limitMs: bootMs });
  step('wait until it is idle');
  const group = machineGroup(instance, id);
  const idle = (): Promise<void> =>
    untilAtRest(watchRest({ cpuMs: async () => group.usage().cpuMs ?? 0 }, rest), signal);
  await idle();
  // Not before: the SSH server is still to come when the agent answers, and an init that begins without a machine-id makes
  // one and lays it over the file for good (machine-id(5)).
  await agents.use(directory, async (agent) => {
    await runIfThere(agent, ['/etc/carrel/ssh', 'late']);
    // an image whose copies could not get a name is no template
    await becomeNobody(agent, spec);
  });
  await idle();
  await agents.use(directory, async (agent) => {
    // what a first command needs is in memory then
    await runTrue(agent, { signal });
    await agent.sync();
  });
}
