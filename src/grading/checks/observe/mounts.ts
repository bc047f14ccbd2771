/** The mounts of a process, from /proc/PID/mountinfo. */
import { readFileSync } from 'node:fs';
import type { MountsSpec } from '../../format/kinds.ts';
import { type Outcome, failed, passed } from '../../judge/outcome.ts';

export interface Mount {
  readonly path: string;
  readonly type: string;
  /** Options of the mount and of the file system. */
  readonly options: readonly string[];
}

/** proc_pid_mountinfo(5): blanks and the like are octal escapes. */
const unescape = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));

export function parseMounts(text: string): Mount[] {
  return text.split('\n').flatMap((line) => {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    const [path, options, type, superOptions] = [fields[4], fields[5], fields[dash + 1], fields[dash + 3]];
    if (dash < 0 || path === undefined || options === undefined || type === undefined) return [];
    return [
      { path: unescape(path), type, options: [...options.split(','), ...(superOptions ?? '').split(',')] },
    ];
  });
}

/** The last mount on a path is the one that is seen. */
export function observeMounts(pid: number, { path, type, options, absent }: MountsSpec): Outcome {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/mountinfo`, 'utf8');
  } catch {
    return failed('the process whose mounts were to be read has ended');
  }
  const mount = parseMounts(text).findLast((each) => each.path === path);
  if (absent)
    return mount && (type === undefined || mount.type === type)
      ? failed(`${path} is mounted`)
      : passed(`${path} is not mounted`);
  if (!mount) return failed(`nothing is mounted on ${path}`);
  if (type !== undefined && mount.type !== type) return failed(`${path} is a ${mount.type}`);
  const missing = options.find((option) => !mount.options.includes(option));
  return missing === undefined
    ? passed(`${path} is mounted`)
    : failed(`${path} is mounted without ${missing}`);
}
