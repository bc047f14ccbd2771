/** The kernel of virtio-kernel.c, compiled; and `carrel vmm linux` with it as a process that can be talked to. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { until, within } from '#base/deadline.ts';
import { launchOk } from '#host/launch.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** A loaded machine. */
const limitMs = 60_000;

/** An ELF kernel at 1 MiB, in `directory`: that of virtio-kernel.c, or another. */
export async function compileKernel(
  directory: string,
  source = join(import.meta.dirname, 'virtio-kernel.c'),
): Promise<string> {
  const kernel = join(directory, 'kernel');
  const code = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-ffreestanding', '-fno-pic'];
  const bare = ['-fno-stack-protector', '-fcf-protection=none', '-mgeneral-regs-only', '-mno-red-zone'];
  const layout = ['-nostdlib', '-static', '-no-pie', '-Wl,--build-id=none', '-Wl,-Ttext-segment=0x100000'];
  await launchOk(['gcc', ...code, ...bare, ...layout, '-o', kernel, source], { timeoutMs: limitMs });
  return kernel;
}

export interface Running extends AsyncDisposable {
  readonly child: ChildProcess;
  readonly pid: number;
  /** Types. */
  type(text: string): void;
  /** Waits until this is on standard output, from the beginning on. */
  said(words: RegExp): Promise<RegExpMatchArray>;
  /** Standard error so far. */
  readonly notes: string;
  /** Exit status, or the signal. */
  ended(): Promise<number | string>;
}

/** `carrel vmm ...`, in the network namespace of process `netns` if that is given; killed at the end if it still runs. */
export function startVmm(
  args: readonly string[],
  { netns, env = {} }: { netns?: number; env?: NodeJS.ProcessEnv } = {},
): Running {
  const argv = [process.execPath, 'src/cli/main.ts', 'vmm', ...args];
  const [program = '', ...rest] =
    netns === undefined ? argv : ['nsenter', `--net=/proc/${netns}/ns/net`, '--', ...argv];
  const child = spawn(program, rest, { cwd: root, detached: true, env: { ...process.env, ...env } });
  const exit = once(child, 'exit');
  let text = '';
  let notes = '';
  child.stdout.on('data', (chunk: Buffer) => void (text += chunk.toString('latin1')));
  child.stderr.on('data', (chunk: Buffer) => void (notes += chunk.toString('utf8')));
  child.stdin.on('error', () => undefined); // it may end first
  const { pid } = child;
  assert.ok(pid);
  const ended = async (): Promise<number | string> => {
    const [status, signal]: readonly unknown[] = await within(limitMs, 'the command to end', exit);
    assert.ok(typeof status === 'number' || typeof signal === 'string');
    return typeof status === 'number' ? status : String(signal);
  };
  return {
    child,
    pid,
    type: (typed) => void child.stdin.write(typed),
    said: async (words) =>
      await until(limitMs, `${words} in: ${text} ${notes}`, () => {
        const found = text.match(words);
        if (found === null) assert.equal(child.exitCode, null, `it ended: ${text} ${notes}`);
        return found ?? undefined;
      }),
    get notes() {
      return notes;
    },
    ended,
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGKILL');
      await ended();
    },
  };
}
