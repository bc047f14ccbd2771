/** What is mounted: /proc/self/mountinfo as data (proc_pid_mountinfo(5)). */
import { readFileSync } from 'node:fs';

export interface Mount {
  readonly id: number;
  readonly parent: number;
  /** `major:minor` of the files' device. */
  readonly device: string;
  /** The directory of the file system that is mounted here. */
  readonly root: string;
  readonly path: string;
  readonly options: readonly string[];
  readonly type: string;
  readonly source: string;
  /** Options of the file system itself, for example the controllers of a cgroup v1 hierarchy. */
  readonly superOptions: readonly string[];
}

/** The kernel writes blank, tab, newline and backslash as octal. */
function unescape(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

/** Parses a mountinfo text; lines that are none are left out. Bytes are taken as latin1 on both ways. */
export function parseMountinfo(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    const [id, parent, device, root, path, options] = fields;
    const [type, source, superOptions] = dash < 0 ? [] : fields.slice(dash + 1);
    if (options === undefined || root === undefined || path === undefined || device === undefined) continue;
    if (type === undefined || source === undefined) continue;
    mounts.push({
      id: Number(id),
      parent: Number(parent),
      device,
      root: unescape(root),
      path: unescape(path),
      options: options.split(','),
      type,
      source: unescape(source),
      superOptions: (superOptions ?? '')
        .split(',')
        .filter((option) => option !== '')
        .map(unescape),
    });
  }
  return mounts;
}

/** The mounts a process sees; our own by default. */
export function mountsOf(pid: number | 'self' = 'self'): Mount[] {
  return parseMountinfo(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'));
}

/** The mount that serves `path` (an absolute, resolved path): the last of the longest. */
export function mountAt(path: string, mounts: readonly Mount[] = mountsOf()): Mount | undefined {
  let best: Mount | undefined;
  for (const mount of mounts) {
    const covers = mount.path === '/' || path === mount.path || path.startsWith(`${mount.path}/`);
    if (covers && mount.path.length >= (best?.path.length ?? 0)) best = mount;
  }
  return best;
}
