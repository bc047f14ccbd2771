/**
 * What a machine has to know about itself: its name, whom to ask for names, and who may come in. Images leave
 * these files empty.
 */
import { isCarrelError } from '#base/errors.ts';
import type { MachineSpec } from '../../driver.ts';
import { makeDirectoryInside, readInside, writeInside } from '../../files.ts';
import { uidBaseOf } from '../ids.ts';

/** More than any of these files has. */
const maxBytes = 64 * 2 ** 10;

/** Fills in what is empty at the first start; what somebody has written there stays. */
export async function introduce(pid: number, spec: MachineSpec): Promise<void> {
  const { name, network, sshKeys } = spec;
  const write = (path: string, text: string): Promise<void> =>
    writeInside(pid, path, Buffer.from(text), { mode: 0o644, owner: uidBaseOf(spec) });
  const read = async (path: string): Promise<string> =>
    Buffer.from((await readInside(pid, path, { maxBytes })).bytes).toString();
  const fill = async (path: string, text: string): Promise<void> => {
    if ((await read(path)).trim() === '') await write(path, text);
  };
  const nameItself = async (): Promise<void> => {
    const known = await read('/etc/hosts');
    if (!known.split(/\s+/).includes(name))
      await write('/etc/hosts', `${known.trimEnd()}\n127.0.1.1 ${name}\n`);
  };
  /** Once: what root does with his keys afterwards is his business. */
  const letIn = async (): Promise<void> => {
    if (sshKeys.length === 0) return;
    const owner = uidBaseOf(spec);
    if (!(await makeDirectoryInside(pid, '/root/.ssh', { mode: 0o700, owner }))) return;
    const text = sshKeys.map((key) => `${key}\n`).join('');
    await writeInside(pid, '/root/.ssh/authorized_keys', Buffer.from(text), { mode: 0o600, owner });
  };
  await Promise.all(
    [
      letIn(),
      fill('/etc/hostname', `${name}\n`),
      fill('/etc/resolv.conf', `nameserver ${network.gateway}\n`),
      nameItself(),
    ].map(unlessImpossible),
  );
}

/**
 * An image may lack such a file, or have a link there that leads nowhere yet; its owner may have filled the disk,
 * or made of the file what he likes: then it does without. It must start, or he could never put it right.
 */
const harmless = ['not_found', 'invalid_request', 'forbidden', 'too_large', 'disk_full'] as const;

async function unlessImpossible(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!harmless.some((code) => isCarrelError(error, code))) throw error;
  }
}
