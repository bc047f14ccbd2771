/** From a guest's program to the process that runs it: our VMM in a jail, under its keeper. */
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { openSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';
import { ownFd } from '#host/fds.ts';
import { isLocked } from '#host/flock.ts';
import type { Image } from '#images/layout.ts';
import { type Kept, keptOperations, keptPaths, startKept } from '#isolate/kept.ts';
import { kvmFor } from '#vmm/apart/device.ts';
import { machineCommand, ownInside } from '#vmm/apart/inside.ts';
import type { RunOrder } from '#vmm/apart/order.ts';
import { plainFacts } from '#vmm/inspect/facts.ts';
import type { MachineSpec } from '../../driver.ts';
import { type JailFile, jailOperations } from '../jail.ts';
import type { DriverHost } from '../table.ts';
import { type How, placedRun } from './run.ts';
import { prepareShare, roomOf } from './share.ts';
import { fileBytes, groupLimits, jailUid, microPaths, outputBytes, runLimitMs, vcpusOf } from './spec.ts';
import { modeOf } from './validate.ts';

const orderInside = '/machine/order.json';
const guestInside = '/machine/guest.elf';
const shareInside = '/machine/share';

export async function imageOf(
  { name, image: hash }: Pick<MachineSpec, 'name' | 'image'>,
  { images }: Pick<DriverHost, 'images'>,
): Promise<Image> {
  const image = await images.find(hash);
  if (image) return image;
  throw new CarrelError('not_found', `the image that machine ${name} was made of is not there any more`, {
    hint: 'import or build it again, or make a new machine',
    details: { hash },
  });
}

/** Makes the machine's directory. It has no disk: a guest's memory begins anew with each start, and its files stay. */
export async function prepareMicro(spec: MachineSpec, { images }: DriverHost): Promise<void> {
  await mkdir(spec.directory, { recursive: true, mode: 0o700 });
  await images.hold(spec.image, spec.directory);
  await prepareShare(spec);
}

/** What it is to run: what it was told last, else the guest that it was made of. */
function guestFor(
  { name, directory, limits }: MachineSpec,
  image: Image,
): { readonly file: string; readonly how: How } {
  const how = placedRun(directory);
  if (how) return { file: microPaths(directory).guest, how };
  if (image.kind !== 'guest')
    throw new CarrelError('wrong_state', `machine ${name} has nothing to run yet`, {
      hint: `put a guest into it and run it: carrel machine put ${name} hello.c hello.c; carrel machine run ${name} hello.c`,
    });
  return {
    file: image.path,
    how: {
      name: image.name,
      mode: modeOf(image),
      vcpus: vcpusOf(limits),
      ports: 'carrel',
      limitMs: runLimitMs,
      outputBytes,
      facts: [],
    },
  };
}

/** Starts it; `wrong_state` when it runs already. */
export async function startMicro(spec: MachineSpec, host: DriverHost): Promise<Kept> {
  const { id, directory, limits } = spec;
  if (isLocked(keptPaths(directory).lock)) throw new CarrelError('wrong_state', `Machine ${id} runs already`);
  await prepareMicro(spec, host);
  const { file, how } = guestFor(spec, await imageOf(spec, host));
  const paths = microPaths(directory);
  await mkdir(paths.root, { recursive: true, mode: 0o700 });
  const order: RunOrder = {
    guest: guestInside,
    mode: how.mode,
    vcpus: how.vcpus,
    ports: how.ports,
    limitMs: how.limitMs,
    outputBytes: Math.floor(how.outputBytes / how.vcpus),
    share: shareInside,
    room: roomOf(spec),
    runs: 1,
    live: true,
    words: [],
    facts: [...new Set([...plainFacts, ...how.facts])],
  };
  await writeFile(paths.order, JSON.stringify(order), { mode: 0o644 });
  await chmod(paths.order, 0o644); // whatever the umask: the jail's user is nobody we know
  const files: JailFile[] = [
    { source: file, target: guestInside, kind: 'file' },
    { source: paths.order, target: orderInside, kind: 'file' },
    { source: paths.share, target: shareInside, kind: 'directory', writable: true },
    ...ownInside().map(({ host: source, guest: target }): JailFile => ({
      source,
      target,
      kind: /\/(?:node|package\.json)$/.test(target) ? 'file' : 'directory',
    })),
  ];
  const [program, ...args] = machineCommand(orderInside);
  using report = ownFd(openSync(paths.report, 'w', 0o600));
  using kvm = await kvmFor(how.mode, how.vcpus);
  return await startKept(
    host.server,
    {
      id,
      directory,
      limits: groupLimits(limits, how.vcpus),
      fds: [report.fd, kvm.fd],
      plan: (group) => [
        ...keptOperations(directory, group),
        ...jailOperations({
          root: paths.root,
          uid: jailUid(spec),
          groups: [],
          devices: [],
          files,
          proc: true,
          descriptors: 2,
          fileBytes,
          argv: [program ?? '', ...args],
        }),
      ],
    },
    { instance: host.instance },
  );
}
