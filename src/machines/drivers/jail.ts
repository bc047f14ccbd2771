/**
 * The plan of a process that is a virtual machine (QEMU, or our own VMM): an id of its own without any capability,
 * namespaces of its own (no network at all), and a root that holds the programs of the host, read-only, and the
 * machine's files. Data: who starts it differently (a template, a clone) adds files and descriptors.
 */
import { existsSync, lstatSync, readlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { op, type Operation } from '#isolate/plan.ts';

/** A file or directory of the host in the jail. */
export interface JailFile {
  readonly source: string;
  readonly target: string;
  readonly kind: 'file' | 'directory';
  readonly writable?: boolean;
}

export interface JailSpec {
  /** An empty directory for the root to be mounted at, in the keeper's own mount namespace. */
  readonly root: string;
  readonly uid: number;
  /** Besides its own: the one that may open /dev/kvm. */
  readonly groups: readonly number[];
  /** Character devices below /dev besides the harmless ones. */
  readonly devices: readonly string[];
  readonly files: readonly JailFile[];
  /** It opens a descriptor by its name in /proc, which shows nothing but itself. */
  readonly proc: boolean;
  /** Descriptors for the program: the n-th that comes along is number 3 + n. */
  readonly descriptors: number;
  /** Length of a file that it writes; beyond it the program ends (SIGXFSZ, setrlimit(2)). */
  readonly fileBytes: number;
  readonly argv: readonly string[];
}

/** The host's programs and their libraries; without merged /usr some of them are real directories. */
const programs = ['/usr', '/lib', '/lib64', '/etc/ld.so.cache'] as const;

function programOperations(): Operation[] {
  return programs.flatMap((path): Operation[] => {
    if (!existsSync(path)) return [];
    const stat = lstatSync(path);
    if (stat.isSymbolicLink()) return [op.symlink(readlinkSync(path), path)];
    return place({ source: path, target: path, kind: stat.isDirectory() ? 'directory' : 'file' });
  });
}

function place({ source, target, kind, writable = false }: JailFile): Operation[] {
  const above = dirname(target);
  return [
    ...(above === '/' ? [] : [op.mkdir(above, 0o755)]),
    kind === 'directory' ? op.mkdir(target, 0o755) : op.touch(target, 0o644),
    op.bind(source, target, [writable ? 'rw' : 'ro', 'nosuid', 'nodev']),
  ];
}

/** The plan after its beginning, which says who keeps it and in which control groups: see `keptOperations`. */
export function jailOperations(jail: JailSpec): Operation[] {
  const { root, uid, groups, devices, files, proc, descriptors, fileBytes, argv } = jail;
  return [
    op.sessionPrivate(),
    op.sessionMount('tmpfs', 'tmpfs', root, ['nosuid', 'nodev'], 'mode=755,size=1m,nr_inodes=1k'),
    op.namespaces(['pid', 'mnt', 'uts', 'ipc', 'net']),
    // in the child
    op.private(),
    op.rootLate(root),
    ...programOperations(),
    op.mkdir('/dev', 0o755),
    op.dev(['null', 'zero', 'random', 'urandom', ...devices]),
    op.mkdir('/dev/pts', 0o755),
    op.mount('devpts', '/dev/pts', ['nosuid', 'noexec'], 'newinstance,ptmxmode=0666,mode=0620'),
    ...(proc ? [op.mkdir('/proc', 0o555), op.mount('proc', '/proc', ['nosuid', 'nodev', 'noexec'])] : []),
    ...files.flatMap(place),
    ...Array.from({ length: descriptors }, (_, index) => op.descriptor(3 + index, index)),
    op.pty(24, 80),
    op.raw(),
    op.pivot(),
    op.rlimit('core', 0),
    op.rlimit('fsize', fileBytes),
    op.caps('bounding'),
    op.identity(uid, uid, groups),
    op.noNewPrivileges(),
    // besides QEMU's own filter, which is for QEMU: keyrings, io_uring, BPF, perf
    op.seccomp('machine'),
    ...argv.map(op.arg),
  ];
}
