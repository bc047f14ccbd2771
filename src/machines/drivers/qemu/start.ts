/**
 * From a prepared disk to a running QEMU. A cold boot is told here; a template and its clones start the same way, with
 * other facts (`Launch`).
 */
import { randomBytes } from 'node:crypto';
import { chmod, chown, constants, copyFile, mkdir, open, rename, rm } from 'node:fs/promises';
import { sleep } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { tapOf } from '#fabric/fabric.ts';
import { openTap } from '#fabric/tap.ts';
import type { Fd } from '#host/fds.ts';
import { isLocked } from '#host/flock.ts';
import { listenUnix } from '#host/unix.ts';
import type { Image } from '#images/layout.ts';
import { type Kept, keptOperations, keptPaths, startKept } from '#isolate/kept.ts';
import type { MachineSpec } from '../../driver.ts';
import type { DriverHost } from '../table.ts';
import type { Acceleration } from './accelerator.ts';
import { type QemuFacts, qemuArguments } from './argv.ts';
import { writeCloudInitDisk } from './cloudinit.ts';
import { consoleTail } from './console.ts';
import { layerInJail, openDisk } from './disk/disk.ts';
import { nodeOf } from './disk/state.ts';
import { type Identity, makeIdentity, secretsOf } from './identity.ts';
import { qemuProgram, requireQemu } from './installed.ts';
import { type JailFile, jailOperations } from '../jail.ts';
import { type Qmp, withQmp } from './qmp.ts';
import { writeRuntime } from './runtime.ts';
import { seedArchive } from './seed.ts';
import { groupLimits, layerFileBytes, qemuUid, vcpusOf, vmPaths } from './spec.ts';

export interface QemuParts extends DriverHost {
  readonly acceleration: () => Promise<Acceleration>;
}

/** QEMU that does not greet by then does not run. */
const greetMs = 30_000;
/** Between the end of QEMU's socket and the report of its end. */
const newsMs = 1000;
const randomSeedBytes = 512;

/** Descriptors in the program: op.descriptor in jail.ts counts from 3. */
const numbers = { tap: 3, qmp: 4, agent: 5 } as const;

/** What a start may differ in. */
export interface Launch {
  readonly memory: QemuFacts['memory'];
  readonly incoming: boolean;
  /** More files for the jail. */
  readonly files: readonly JailFile[];
  /** Descriptors for QEMU, from number 6 on; they stay the caller's. */
  readonly fds: readonly number[];
  /** `loose`: a wire whose other end lies on the floor; not a frame goes anywhere, nothing needs an address. */
  readonly cable: 'plugged' | 'loose';
  /** The longest file that QEMU makes; null: as long as a layer of the machine's disk becomes at most. */
  readonly fileBytes: number | null;
  /** The machine is told who it is as it boots. Else the one that is told otherwise must not be told again. */
  readonly seeded: boolean;
  readonly startedFrom: 'image' | 'template';
  /** Why it was not started faster; null: what the accelerator has to say. */
  readonly note: string | null;
}

const coldBoot: Launch = {
  memory: null,
  incoming: false,
  files: [],
  fds: [],
  cable: 'plugged',
  fileBytes: null,
  seeded: true,
  startedFrom: 'image',
  note: null,
};

export type DiskImage = Image & { readonly disk: NonNullable<Image['disk']> };

/** The image of a machine, which is a disk. */
export async function requireDiskImage(
  spec: Pick<MachineSpec, 'name' | 'image'>,
  { images }: Pick<DriverHost, 'images'>,
): Promise<DiskImage> {
  const image = await images.find(spec.image);
  if (image?.disk) return { ...image, disk: image.disk };
  throw new CarrelError(
    'not_found',
    `the image that machine ${spec.name} was made of is not there any more`,
    {
      hint: 'import or build the same image again, or make a new machine',
      details: { hash: spec.image },
    },
  );
}

/**
 * Starts QEMU under its keeper; `wrong_state` when it runs already. Resolves when its monitor has answered and `first`,
 * the first that is said to it, is done; when that fails QEMU is ended.
 */
export async function launchQemu(
  spec: MachineSpec,
  parts: QemuParts,
  more: Partial<Launch> = {},
  first: (qmp: Qmp) => Promise<void> = async () => undefined,
): Promise<Kept> {
  const launch = { ...coldBoot, ...more };
  const { server, fabric, instance } = parts;
  const { id, directory, limits, network } = spec;
  // before anything that a machine that runs would miss: its wire, its sockets
  if (isLocked(keptPaths(directory).lock)) throw new CarrelError('wrong_state', `Machine ${id} runs already`);
  requireQemu();
  const paths = vmPaths(directory);
  const [image, acceleration, layers] = await Promise.all([
    requireDiskImage(spec, parts),
    parts.acceleration(),
    openDisk(directory),
    mkdir(paths.root, { recursive: true, mode: 0o700 }),
  ]);
  const { accelerator, groups, tscKhz } = acceleration;
  const uid = qemuUid(spec);
  await writeRuntime(directory, {
    accelerator,
    startedFrom: launch.startedFrom,
    note: launch.note ?? acceleration.note,
    agent: image.disk.agent,
  });
  const identity = launch.seeded ? makeIdentity(spec, await secretsOf(paths.identity)) : null;
  const boot = await bootOf(spec, image, { uid, identity });
  const cloudInit = identity && !image.disk.agent ? paths.cloudInit : null;
  if (identity && cloudInit !== null) await writeCloudInitDisk(cloudInit, identity, { uid });
  const tap = launch.cable === 'loose' ? openTap(tapOf(id)) : await plugged(spec, fabric);
  try {
    using qmp = listenUnix(paths.qmp);
    using agent = listenUnix(paths.agent);
    const fds = [tap.fd, qmp.fd, agent.fd, ...launch.fds];
    const argv = qemuArguments({
      name: spec.name,
      accelerator,
      tscKhz,
      vcpus: vcpusOf(limits),
      memoryBytes: wholePages(limits.memoryBytes),
      memory: launch.memory,
      boot: boot && { kernel: '/image/kernel', initrd: '/machine/initrd', append: boot.append },
      disk: [
        { node: 'image', path: '/image/disk.qcow2' },
        ...layers.map((layer) => ({ node: nodeOf(layer), path: layerInJail(layer) })),
      ],
      cloudInit: cloudInit && '/machine/cidata.iso',
      network: { kind: 'tap', fd: numbers.tap },
      mac: network.mac,
      qmpFd: numbers.qmp,
      agentFd: numbers.agent,
      incoming: launch.incoming,
    });
    const files: JailFile[] = [
      { source: image.path, target: '/image/disk.qcow2', kind: 'file' },
      ...(boot ? [{ source: boot.kernel, target: '/image/kernel', kind: 'file' } as const] : []),
      ...(boot ? [{ source: boot.initrd, target: '/machine/initrd', kind: 'file' } as const] : []),
      ...(cloudInit === null
        ? []
        : [{ source: cloudInit, target: '/machine/cidata.iso', kind: 'file' } as const]),
      { source: paths.disk, target: '/machine/disk', kind: 'directory', writable: true },
      ...launch.files,
    ];
    const kept = await startKept(
      server,
      {
        id,
        directory,
        limits: groupLimits(limits, accelerator),
        fds,
        plan: (group) => [
          ...keptOperations(directory, group),
          ...jailOperations({
            root: paths.root,
            uid,
            groups,
            devices: accelerator === 'kvm' ? ['kvm'] : [],
            files,
            proc: launch.memory !== null,
            descriptors: fds.length,
            fileBytes:
              launch.fileBytes ?? layerFileBytes(Math.max(limits.diskBytes, image.disk.virtualBytes)),
            argv: [qemuProgram, ...argv],
          }),
        ],
      },
      { instance },
    );
    return await answering(kept, directory, first);
  } finally {
    tap.close(); // QEMU has it, or nobody: then the wire is gone
  }
}

/** Memory comes in pages. */
export const wholePages = (bytes: number): number => Math.floor(bytes / 4096) * 4096;

/** The wire in the machine's network. */
async function plugged({ id, ownerId, network }: MachineSpec, fabric: DriverHost['fabric']): Promise<Fd> {
  const { address, mac, name, bytesPerSecond } = network;
  const { fd } = await fabric.plugTap({
    machineId: id,
    address,
    mac,
    owner: ownerId,
    network: name,
    bytesPerSecond,
  });
  return fd;
}

interface Boot {
  readonly kernel: string;
  readonly initrd: string;
  readonly append: string;
}

/** The kernel and the RAM disk, with the machine's seed; null when the BIOS boots the disk. */
async function bootOf(
  spec: MachineSpec,
  { disk, kernel, initrd }: DiskImage,
  { uid, identity }: { uid: number; identity: Identity | null },
): Promise<Boot | null> {
  if (!disk.boot || kernel === undefined || initrd === undefined) return null;
  const { append } = disk.boot;
  if (!identity) return { kernel, initrd, append };
  const paths = vmPaths(spec.directory);
  const beside = `${paths.initrd}.new`;
  await rm(beside, { force: true });
  await copyFile(initrd, beside, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
  await chmod(beside, 0o600); // it holds the machine's keys
  {
    await using file = await open(beside, 'a');
    // an archive begins at a multiple of four bytes; zeros between two are passed over
    const { size } = await file.stat();
    const seed = seedArchive(identity, randomBytes(randomSeedBytes));
    await file.writeFile(Buffer.concat([Buffer.alloc((4 - (size % 4)) % 4), seed]));
  }
  await chown(beside, uid, uid);
  await rename(beside, paths.initrd);
  return { kernel, initrd: paths.initrd, append };
}

/** Waits for QEMU's monitor, and for what is said to it; if QEMU ends instead, its last words say why. */
async function answering(kept: Kept, directory: string, first: (qmp: Qmp) => Promise<void>): Promise<Kept> {
  const early = kept.ended().then(() => {
    throw new CarrelError(
      'helper_failed',
      `QEMU ended at once: ${consoleTail(directory) || 'it said nothing'}`,
    );
  });
  early.catch(() => undefined);
  const said = withQmp(directory, first, { limitMs: greetMs });
  said.catch(() => undefined);
  try {
    await Promise.race([said, early]);
    return kept;
  } catch (error) {
    // when its socket closes, the news of its end is on the way
    await Promise.race([early, sleep(newsMs)]);
    await kept.kill().catch(() => undefined);
    kept.close();
    throw error;
  }
}
