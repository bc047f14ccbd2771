/**
 * Runs inside a fresh mount namespace (mounting.ts starts it): mounts things and says as JSON what worked. All
 * of it is gone with this process. Argument: a directory on the file system that images will be on.
 */
import { spawn } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { addressOf, cString, syscall } from '../syscalls.ts';

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE = 1;
const MOUNT_ATTR_IDMAP = 0x0010_0000n;

interface Verdict {
  readonly ok: boolean;
  readonly said: string;
}

async function verdictOf(work: () => void | Promise<void>): Promise<Verdict> {
  try {
    await work();
    return { ok: true, said: '' };
  } catch (error) {
    return { ok: false, said: messageOf(error) };
  }
}

function mount(source: string, target: string, type: string, data = ''): void {
  mkdirSync(target, { recursive: true });
  syscall('mount', cString(source), cString(target), cString(type), 0, cString(data));
}

/** Lower and upper with one directory in both, mounted, and the merged directory read or removed. */
function overlay(base: string, option: string, remove: boolean): void {
  for (const name of ['lower/both', 'upper/both', 'work', 'merged'])
    mkdirSync(join(base, name), { recursive: true });
  writeFileSync(join(base, 'lower/both/file'), 'x');
  const options = `lowerdir=${base}/lower,upperdir=${base}/upper,workdir=${base}/work${option}`;
  mount('overlay', join(base, 'merged'), 'overlay', options);
  readFileSync(join(base, 'merged/both/file'));
  // without userxattr, and without root, this is what fails
  if (!remove) return;
  unlinkSync(join(base, 'merged/both/file'));
  rmdirSync(join(base, 'merged/both'));
}

/** A detached copy of the mount with ids shifted by a user namespace of a child (mount_setattr(2)). */
async function idmap(directory: string): Promise<void> {
  const holder = spawn('unshare', ['--user', '--map-root-user', '--', 'sleep', '30'], { stdio: 'ignore' });
  try {
    const own = readlinkSync('/proc/self/ns/user');
    // The ids are mapped after the namespace is made; one without a map cannot be used.
    const path = await until(20_000, 'a user namespace', () => {
      const at = `/proc/${holder.pid}`;
      const mapped = readlinkSync(`${at}/ns/user`) !== own && readFileSync(`${at}/gid_map`, 'utf8') !== '';
      return mapped ? `${at}/ns/user` : undefined;
    });
    const userns = openSync(path, 'r');
    const tree = syscall('open_tree', AT_FDCWD, cString(directory), OPEN_TREE_CLONE | 0o2000000);
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    const attributes = BigUint64Array.of(MOUNT_ATTR_IDMAP, 0n, 0n, BigInt(userns));
    syscall('mount_setattr', tree, cString(''), AT_EMPTY_PATH, addressOf(attributes), attributes.byteLength);
  } finally {
    holder.kill('SIGKILL');
  }
}

const [, , directory = tmpdir()] = process.argv;
const scratch = mkdtempSync(join(tmpdir(), 'carrel-probe-'));
try {
  const room = join(scratch, 'room');
  const ready = await verdictOf(() => mount('tmpfs', room, 'tmpfs', 'size=1m,mode=755'));
  const overlayVerdict = ready.ok ? await verdictOf(() => overlay(join(room, 'a'), '', false)) : ready;
  const userxattr = ready.ok ? await verdictOf(() => overlay(join(room, 'b'), ',userxattr', true)) : ready;
  const idmapped = await verdictOf(() => idmap(directory));
  process.stdout.write(JSON.stringify({ overlay: overlayVerdict, userxattr, idmapped }));
  for (const mounted of ['a/merged', 'b/merged'])
    await verdictOf(() => void syscall('umount2', cString(join(room, mounted)), 2));
  if (ready.ok) syscall('umount2', cString(room), 2);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
