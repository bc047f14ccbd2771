/** qemu-img(1) as somebody without any right, with limits: what it reads may come from anybody. */
import { runCommand, type CommandOptions } from '../command.ts';

export interface Confinement extends Pick<CommandOptions, 'lockFd' | 'fds' | 'signal'> {
  /** Where it works: the names among its arguments are those of files there. */
  readonly directory: string;
  /** Whose rights it has; without root, ours. */
  readonly uid: number;
  /** Most bytes of a file that it writes. */
  readonly fileBytes: number;
}

/** qemu-img needs some 100 MiB; its tables at most 40 more. */
const memoryBytes = 2 ** 30;
/**
 * Addresses count, used or not: of its threads, up to 64, each would reserve the stack that the limit says (8 MiB), and
 * an arena of 64 MiB of its own (mallopt(3)), and those that come last would not be made.
 */
const stackBytes = 2 ** 20;
const oneArena = { MALLOC_ARENA_MAX: '1' } as const;
const cpuSeconds = 600;
const wallMs = 30 * 60_000;

/** Runs it to its end, without capabilities or a network; `helper_failed` with its words when it fails. */
export async function runQemuImg(
  args: readonly string[],
  { directory, uid, fileBytes, ...options }: Confinement,
): Promise<void> {
  const asRoot = process.geteuid?.() === 0;
  const limits = [
    `--as=${memoryBytes}`,
    `--stack=${stackBytes}`,
    `--cpu=${cpuSeconds}`,
    `--fsize=${fileBytes}`,
    '--core=0',
  ];
  const drop = [
    `--reuid=${uid}`,
    `--regid=${uid}`,
    '--clear-groups',
    '--bounding-set=-all',
    '--inh-caps=-all',
  ];
  const argv = ['prlimit', ...limits, '--', 'setpriv', '--no-new-privs', ...(asRoot ? drop : []), '--'];
  argv.push('qemu-img', ...args);
  await runCommand(argv, {
    ms: wallMs,
    cwd: directory,
    env: oneArena,
    contained: asRoot,
    offline: asRoot,
    ...options,
  });
}
