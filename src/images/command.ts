/** Runs one helper program to its end: no shell, a time limit, and death together with this process. */
import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { CarrelError, isCarrelError } from '#base/errors.ts';

export interface CommandOptions {
  /** Limit in milliseconds. */
  readonly ms: number;
  /** Own mount and process namespaces: what it mounts or leaves running ends with it. Needs root. */
  readonly contained?: boolean;
  /** No network either. */
  readonly offline?: boolean;
  /** Held open by the program, so that a lock on it lasts until the program is gone too. */
  readonly lockFd?: number | undefined;
  /** More descriptors for it, from the next number on. */
  readonly fds?: readonly number[] | undefined;
  /** Working directory; the root unless given. */
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** Each line of standard output and standard error. */
  readonly onLine?: ((line: string) => void) | undefined;
}

/** What a helper may know of our environment. */
const passedOn = ['PATH', 'http_proxy', 'https_proxy', 'no_proxy'] as const;

function environment(more: Readonly<Record<string, string>>): Record<string, string> {
  const env: Record<string, string> = { LANG: 'C.UTF-8', LC_ALL: 'C.UTF-8' };
  for (const name of passedOn) {
    const value = process.env[name];
    if (value !== undefined) env[name] = value;
  }
  // mkfs and chroot live in sbin, which is not in every user's path.
  env['PATH'] = `${env['PATH'] ?? '/usr/bin:/bin'}:/usr/sbin:/sbin`;
  return { ...env, ...more };
}

/**
 * If this process is killed, the kernel kills the program (setpriv --pdeathsig), and with it, by
 * --kill-child, everything in its process namespace.
 */
function wrap(argv: readonly string[], { contained, offline }: CommandOptions): string[] {
  const die = ['setpriv', '--pdeathsig', 'KILL', '--'];
  if (contained !== true) return [...die, ...argv];
  const apart = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
  return [...die, ...apart, ...(offline === true ? ['--net'] : []), '--', ...argv];
}

/** The exit status of a program that failed; undefined for other errors. 127: it is not installed. */
export function exitStatusOf(error: unknown): number | undefined {
  const status = isCarrelError(error, 'helper_failed') ? error.details?.['status'] : undefined;
  return typeof status === 'number' ? status : undefined;
}

/** Lines kept for the error. */
const keptLines = 20;

/** Characters of a line; the rest is not kept, however much the program writes before it ends the line. */
const maxLine = 500;

function eachLine(stream: Readable, onLine: (line: string) => void): void {
  const decoder = new StringDecoder('utf8');
  let open = '';
  const add = (text: string): void => {
    const pieces = text.split(/[\r\n]/);
    for (const [index, piece] of pieces.entries()) {
      if (index > 0 && open !== '') onLine(open);
      open = ((index > 0 ? '' : open) + piece).slice(0, maxLine);
    }
  };
  stream.on('data', (chunk: Buffer) => add(decoder.write(chunk)));
  stream.on('end', () => add(`${decoder.end()}\n`));
}

/** Resolves when the program ended with status 0; else `helper_failed` with its last lines. */
export async function runCommand(argv: readonly string[], options: CommandOptions): Promise<void> {
  const name = argv[0] ?? '';
  const [program, ...args] = wrap(argv, options);
  if (program === undefined) throw new CarrelError('internal', 'no program to run');
  options.signal?.throwIfAborted();
  const last: string[] = [];
  const child = spawn(program, args, {
    stdio: [
      'ignore',
      'pipe',
      'pipe',
      ...(options.lockFd === undefined ? [] : [options.lockFd]),
      ...(options.fds ?? []),
    ],
    env: environment(options.env ?? {}),
    cwd: options.cwd ?? '/',
  });
  const kill = (): void => void child.kill('SIGKILL');
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    kill();
  }, options.ms);
  options.signal?.addEventListener('abort', kill, { once: true });
  for (const stream of [child.stdout, child.stderr]) {
    if (stream === null) continue;
    eachLine(stream, (text) => {
      last.push(text);
      if (last.length > keptLines) last.shift();
      options.onLine?.(text);
    });
  }
  try {
    const status = await new Promise<number | NodeJS.Signals>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) => resolve(code ?? signal ?? 'SIGKILL'));
    });
    options.signal?.throwIfAborted();
    if (late) throw new CarrelError('deadline_exceeded', `${name} took longer than ${options.ms} ms`);
    if (status !== 0)
      throw new CarrelError('helper_failed', `${name} ended with ${status}: ${last.at(-1) ?? 'no output'}`, {
        details: { argv, status, output: last },
      });
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', kill);
  }
}
