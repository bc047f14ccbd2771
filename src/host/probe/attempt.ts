/** Trying something in a child process of its own namespaces: what it makes is gone with it. */
import { messageOf } from '#base/errors.ts';
import { launch } from '../launch.ts';

export type Namespace = 'mount' | 'uts' | 'ipc' | 'net' | 'pid' | 'cgroup' | 'time' | 'user';

export interface Attempt {
  readonly ok: boolean;
  /** The last line that the child said, or why it could not start. */
  readonly said: string;
  readonly stdout: string;
}

/** The command that runs `argv` in fresh namespaces; without root they need a user namespace around them. */
export function inNamespaces(
  namespaces: readonly Namespace[],
  argv: readonly string[],
  root: boolean,
): readonly [string, ...string[]] {
  const needed = root || namespaces.includes('user') ? namespaces : [...namespaces, 'user' as const];
  const flags = needed.flatMap((name) =>
    name === 'user' ? ['--user', '--map-root-user'] : name === 'pid' ? ['--pid', '--fork'] : [`--${name}`],
  );
  return ['unshare', ...flags, '--', ...argv];
}

/** The line that says why: the first that speaks of an error, else the last. */
function reasonOf(stderr: string): string {
  const lines = stderr.split('\n');
  return lines.find((line) => /error/i.test(line)) ?? lines.at(-1) ?? '';
}

/** All probes run side by side: on a cold host under emulation the last one gets its turn after some 10 s. */
const limitMs = 30_000;

/** Runs it with a limit; never throws. */
export async function attempt(
  argv: readonly [string, ...string[]],
  { input = '', timeoutMs = limitMs } = {},
): Promise<Attempt> {
  try {
    const result = await launch(argv, {
      input,
      timeoutMs,
      maxOutputBytes: 65_536,
      env: { ...process.env, LC_ALL: 'C' },
    });
    const stderr = result.stderr.toString('utf8').trim();
    const said = result.timedOut
      ? `no end in ${timeoutMs / 1000} s: this host is very slow, or very busy`
      : reasonOf(stderr);
    return { ok: result.status === 0 && !result.timedOut, said, stdout: result.stdout.toString('utf8') };
  } catch (error) {
    return { ok: false, said: messageOf(error), stdout: '' };
  }
}
