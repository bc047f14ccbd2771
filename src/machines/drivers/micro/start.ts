/** From a guest's program to the process that runs it: our VMM in a jail, under its keeper. */
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { openSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';
import { ownFd } from '#host/fds.ts';
import { isLocked } from '#host/flock.ts';
import type { Image } from '#images/layout.ts';
import { type Kept, keptOperations, keptPaths, startKept } from '#isolate/kept.ts';
import { openKvmDevice } from '#kvm/kvm.ts';
import { machineCommand, ownInside } from '#vmm/apart/inside.ts';
import type { RunOrder } from '#vmm/apart/order.ts';
import { plainFacts } from '#vmm/inspect/facts.ts';
import type { MachineSpec } from '../../driver.ts';
import { uidBaseOf } from '../ids.ts';
import { type JailFile, jailOperations } from '../jail.ts';
import type { DriverHost } from '../table.ts';
import { groupLimits, microPaths, outputBytes, reportBytes, runLimitMs, vcpusOf } from './spec.ts';
import { modeOf } from './validate.ts';

const orderInside = '/machine/order.json';
const guestInside = '/machine/guest.elf';

async function guestImage(
  { name, image: hash }: Pick<MachineSpec, 'name' | 'image'>,
  { images }: Pick<DriverHost, 'images'>,
): Promise<Image> {
  const image = await images.find(hash);
  if (image) return image;
  throw new CarrelError('not_found', `the guest that machine ${name} was made of is not there any more`, {
    hint: 'import it again, or make a new machine',
    details: { hash },
  });
}

/** Makes the machine's directory. It has no disk: a guest's memory begins anew with each start. */
export async function prepareMicro({ image, directory }: MachineSpec, { images }: DriverHost): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await images.hold(image, directory);
}

/** Starts it; `wrong_state` when it runs already. */
export async function startMicro(spec: MachineSpec, host: DriverHost): Promise<Kept> {
  const { id, directory, limits } = spec;
  if (isLocked(keptPaths(directory).lock)) throw new CarrelError('wrong_state', `Machine ${id} runs already`);
  const image = await guestImage(spec, host);
  await prepareMicro(spec, host);
  const paths = microPaths(directory);
  await mkdir(paths.root, { recursive: true, mode: 0o700 });
  const vcpus = vcpusOf(limits);
  const order: RunOrder = {
    guest: guestInside,
    mode: modeOf(image),
    vcpus,
    ports: 'carrel',
    limitMs: runLimitMs,
    outputBytes,
    share: null,
    runs: 1,
    live: true,
    words: [],
    facts: [...plainFacts],
  };
  await writeFile(paths.order, JSON.stringify(order), { mode: 0o644 });
  await chmod(paths.order, 0o644); // whatever the umask: the jail's user is nobody we know
  const files: JailFile[] = [
    { source: image.path, target: guestInside, kind: 'file' },
    { source: paths.order, target: orderInside, kind: 'file' },
    ...ownInside().map(({ host: source, guest: target }): JailFile => ({
      source,
      target,
      kind: /\/(?:node|package\.json)$/.test(target) ? 'file' : 'directory',
    })),
  ];
  const [program, ...args] = machineCommand(orderInside);
  using report = ownFd(openSync(paths.report, 'w', 0o600));
  using kvm = openKvmDevice();
  return await startKept(
    host.server,
    {
      id,
      directory,
      limits: groupLimits(limits),
      fds: [report.fd, kvm.fd],
      plan: (group) => [
        ...keptOperations(directory, group),
        ...jailOperations({
          root: paths.root,
          uid: uidBaseOf(spec) + 1,
          groups: [],
          devices: [],
          files,
          proc: true,
          descriptors: 2,
          fileBytes: reportBytes(vcpus),
          argv: [program ?? '', ...args],
        }),
      ],
    },
    { instance: host.instance },
  );
}
