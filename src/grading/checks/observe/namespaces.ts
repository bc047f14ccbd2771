/** Namespaces of processes, read from this host's /proc: the kernel's word, which no program inside can change. */
import { closeSync, fstatSync, openSync, readdirSync, readlinkSync } from 'node:fs';
import { type ProcessIdentity, identify } from '#host/processes.ts';
import { trySyscall } from '#host/syscalls.ts';
import type { NamespaceKind } from '../../format/kinds.ts';

/** ioctl_ns(2): a descriptor of the parent of a user or pid namespace. */
const NS_GET_PARENT = 0xb702;
/** The kernel's own limit (MAX_PID_NS_LEVEL). */
const maxLevels = 32;

/** The namespace's inode number; undefined when the process is gone. */
export function namespaceOf(pid: number, kind: NamespaceKind): string | undefined {
  try {
    return /\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/ns/${kind}`))?.[1];
  } catch {
    return undefined;
  }
}

/** The inode numbers of a process's pid namespace and its ancestors, as far as we may see them. */
function pidNamespaceLine(pid: number): string[] {
  const line: string[] = [];
  let fd: number;
  try {
    fd = openSync(`/proc/${pid}/ns/pid`, 'r');
  } catch {
    return line;
  }
  for (let level = 0; fd >= 0 && level < maxLevels; level += 1) {
    line.push(String(fstatSync(fd).ino));
    const parent = trySyscall('ioctl', fd, NS_GET_PARENT, 0);
    closeSync(fd);
    fd = parent;
  }
  if (fd >= 0) closeSync(fd);
  return line;
}

/** Every process in the machine's pid namespace or one below it, without the machine's init itself. */
export function processesOf(initPid: number): ProcessIdentity[] {
  const machine = namespaceOf(initPid, 'pid');
  if (machine === undefined) return [];
  const inside = new Map<string, boolean>();
  const found: ProcessIdentity[] = [];
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === initPid) continue;
    const own = namespaceOf(pid, 'pid');
    if (own === undefined) continue;
    const known = inside.get(own) ?? pidNamespaceLine(pid).includes(machine);
    inside.set(own, known);
    const identity = known ? identify(pid) : undefined;
    if (identity) found.push(identity);
  }
  return found;
}
