/**
 * The identity as an archive to be appended to the image's initial RAM disk, which puts it where it belongs
 * (src/native/early/early.c names the paths). Pure.
 */
import { type CpioEntry, cpioArchive } from '#images/disk/cpio.ts';
import {
  type Identity,
  type IdentityFile,
  identityDirectories,
  networkFile,
  personalFiles,
} from './identity.ts';

const entryOf = (folder: string, { path, mode, data }: IdentityFile): CpioEntry => ({
  path: `seed/${folder}${path}`,
  kind: 'file',
  mode,
  data,
});

/** `random`: bytes that no other boot is given. */
export function seedArchive(identity: Identity, random: Uint8Array): Buffer {
  // cp -a gives existing directories the modes of these: /root must not become readable
  const directories = identityDirectories.map(({ path, mode }): CpioEntry => ({
    path: `seed/once${path}`,
    kind: 'directory',
    mode,
  }));
  const { id, passwordHash } = identity;
  return cpioArchive([
    { path: 'seed/id', kind: 'file', data: `${id}\n` },
    ...(passwordHash === null
      ? []
      : [{ path: 'seed/password', kind: 'file', mode: 0o600, data: `${passwordHash}\n` } as const]),
    { path: 'seed/random', kind: 'file', mode: 0o600, data: random },
    ...directories,
    ...personalFiles(identity).map((file) => entryOf('once', file)),
    entryOf('always', networkFile(identity)),
  ]);
}
