/**
 * Where each controller lives. Hosts differ per controller, not as a whole: v1 for some, v2 for others (hybrid),
 * or nowhere. Parsed from /proc/self/mountinfo and the v2 root's cgroup.controllers; cgroups(7).
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export const controllers = ['cpu', 'cpuacct', 'memory', 'pids', 'freezer'] as const;
export type Controller = (typeof controllers)[number];

export interface Hierarchy {
  readonly version: 1 | 2;
  /** Its mount point. */
  readonly mount: string;
}

export interface CgroupLayout {
  readonly where: Readonly<Partial<Record<Controller, Hierarchy>>>;
  /** The v2 hierarchy, with controllers or without. */
  readonly unified: Hierarchy | undefined;
}

const isController = (name: string): name is Controller => controllers.some((known) => known === name);

/** `\040` and its like, as mountinfo writes blanks. */
const unescape = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));

/** Pure. Lines that make no sense are passed over: a host may mount what it likes. */
export function parseCgroupLayout(mountinfo: string, v2Controllers: (mount: string) => string): CgroupLayout {
  const where: Partial<Record<Controller, Hierarchy>> = {};
  let unified: Hierarchy | undefined;
  for (const line of mountinfo.split('\n')) {
    const [head = '', tail = ''] = line.split(' - ', 2);
    const mount = unescape(head.split(' ')[4] ?? '');
    const [type = '', , options = ''] = tail.split(' ');
    if (!mount.startsWith('/')) continue;
    if (type === 'cgroup')
      for (const name of options.split(',')) if (isController(name)) where[name] ??= { version: 1, mount };
    if (type === 'cgroup2') unified ??= { version: 2, mount };
  }
  if (unified) {
    for (const name of v2Controllers(unified.mount).trim().split(/\s+/))
      if (isController(name)) where[name] ??= unified;
    // cpu.stat and cgroup.freeze need no controller, but only count where the processes are placed anyway
    if (where.cpu === unified || where.memory === unified || where.pids === unified) {
      where.cpuacct ??= unified;
      where.freezer ??= unified;
    }
  }
  return { where, unified };
}

/** The layout of this host; empty where nothing can be written (no root and nothing delegated). */
export function readCgroupLayout(): CgroupLayout {
  return parseCgroupLayout(readFileSync('/proc/self/mountinfo', 'utf8'), (mount) => {
    const file = join(mount, 'cgroup.controllers');
    return existsSync(file) ? readFileSync(file, 'utf8') : '';
  });
}
