/**
 * Initial RAM disks: archives in the "new ASCII" format of cpio, as the kernel unpacks them at boot
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Several may follow each other: what a later
 * one holds comes on top. Equal entries give equal bytes: no times, no inode numbers of the host.
 */
import { CarrelError } from '#base/errors.ts';

export type CpioEntry =
  | { readonly path: string; readonly kind: 'directory'; readonly mode?: number }
  | {
      readonly path: string;
      readonly kind: 'file';
      readonly mode?: number;
      readonly data: Uint8Array | string;
    }
  | { readonly path: string; readonly kind: 'symlink'; readonly target: string };

/** File types as in stat(2). */
const types = { directory: 0o040000, file: 0o100000, symlink: 0o120000 } as const;
const defaultModes = { directory: 0o755, file: 0o644 } as const;
/** Archives are padded to whole blocks, so that another one may follow. */
const blockBytes = 512;
const headerBytes = 110;

const padding = (length: number, unit: number): number => (unit - (length % unit)) % unit;

function member(ino: number, mode: number, path: string, data: Uint8Array): Buffer {
  const name = Buffer.from(`${path}\0`);
  const links = (mode & 0o170000) === types.directory ? 2 : 1;
  // magic, then: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
  const fields = [ino, mode, 0, 0, links, 0, data.length, 0, 0, 0, 0, name.length, 0];
  const header = `070701${fields.map((value) => value.toString(16).padStart(8, '0')).join('')}`;
  return Buffer.concat([
    Buffer.from(header, 'latin1'),
    name,
    Buffer.alloc(padding(headerBytes + name.length, 4)),
    data,
    Buffer.alloc(padding(data.length, 4)),
  ]);
}

/**
 * An archive of entries that belong to root. Directories above an entry are made where they are not given; a
 * path may come only once.
 *
 * @example
 * const seed = cpioArchive([{ path: 'seed/id', kind: 'file', data: 'm-0123' }]);
 * await writeFile(initrd, Buffer.concat([await readFile(image.initrd), seed]));
 */
export function cpioArchive(entries: Iterable<CpioEntry>): Buffer {
  const parts: Buffer[] = [];
  const seen = new Set<string>();
  const add = (path: string, mode: number, data: Uint8Array): void => {
    if (path === '' || path.startsWith('/') || path.includes('\0') || seen.has(path))
      throw new CarrelError('invalid_request', `${JSON.stringify(path)} cannot be a path in a RAM disk`);
    seen.add(path);
    parts.push(member(seen.size, mode, path, data));
  };
  const parents = (path: string): void => {
    for (let at = path.indexOf('/'); at > 0; at = path.indexOf('/', at + 1)) {
      const above = path.slice(0, at);
      if (!seen.has(above)) add(above, types.directory | defaultModes.directory, Buffer.alloc(0));
    }
  };
  for (const entry of entries) {
    parents(entry.path);
    if (entry.kind === 'symlink') {
      add(entry.path, types.symlink | 0o777, Buffer.from(entry.target));
      continue;
    }
    const { kind, mode = defaultModes[kind] } = entry;
    add(
      entry.path,
      types[kind] | (mode & 0o7777),
      kind === 'file' ? Buffer.from(entry.data) : Buffer.alloc(0),
    );
  }
  parts.push(member(0, 0, 'TRAILER!!!', Buffer.alloc(0)));
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return Buffer.concat([...parts, Buffer.alloc(padding(length, blockBytes))]);
}
