/** What the vmm commands have in common: their options as values, and a machine made of them. */
import { realpath, stat } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';
import { flatImage } from '#vmm/image/image.ts';
import { loadGuest } from '#vmm/image/compile.ts';
import { createMachine, type GuestOptions, type Machine, type MachineOptions } from '#vmm/machine.ts';
import { type ModeName, modeNames } from '#vmm/modes/mode.ts';
import { requireMode } from '#vmm/modes/require.ts';
import { modes } from '#vmm/modes/table.ts';
import type { Breakpoint } from '#vmm/debug/breakpoint.ts';
import { parseBreakpoint } from '#vmm/debug/parse.ts';
import type { GuestSymbol } from '#vmm/image/symbols.ts';
import type { Arguments } from '../../arguments.ts';

export function modeOf(args: Arguments): ModeName {
  const word = args.option('mode') ?? 'long';
  const mode = modeNames.find((name) => name === word);
  if (!mode) throw new CarrelError('invalid_request', `there is no mode ${word}`);
  return mode;
}

/** A whole number of an option, within limits. */
export function countOf(
  args: Arguments,
  name: string,
  { usual, most }: { usual: number; most: number },
): number {
  const value = args.number(name) ?? usual;
  if (!Number.isInteger(value) || value < 0 || value > most)
    throw new CarrelError('invalid_request', `--${name} wants a whole number up to ${most}, not ${value}`);
  return value;
}

/** --limit: a guest of which nothing may run is none. */
export function limitOf(args: Arguments, usualMs = 5000): number {
  const ms = args.duration('limit') ?? usualMs;
  if (ms < 1) throw new CarrelError('invalid_request', '--limit is 1ms at least');
  return ms;
}

/** What machine the options want. Without a guest its memory is empty. */
export async function machineOptionsOf(args: Arguments): Promise<MachineOptions> {
  const mode = modeOf(args);
  const vcpus = args.number('vcpus') ?? 1;
  await requireMode(mode, vcpus);
  const guest = args.wordIf('guest');
  const image = guest === undefined ? flatImage(new Uint8Array()) : await loadGuest(guest, modes[mode]);
  return { mode, image, vcpus };
}

/** The same, ready to run. */
export async function machineOf(
  args: Arguments,
  more: Pick<MachineOptions, 'watchDirty' | 'vmcall'> = {},
): Promise<Machine> {
  return createMachine({ ...(await machineOptionsOf(args)), ...more });
}

/** --break, --watch and --watch-access. */
export function breakpointsOf(args: Arguments, symbols: readonly GuestSymbol[]): Breakpoint[] {
  return [
    ...args.many('break').map((text) => parseBreakpoint(text, 'execute', symbols)),
    ...args.many('watch').map((text) => parseBreakpoint(text, 'write', symbols)),
    ...args.many('watchAccess').map((text) => parseBreakpoint(text, 'access', symbols)),
  ];
}

/** The directory of --share, as far as it is one. */
export async function shareOf(args: Arguments): Promise<{ share?: string }> {
  const path = args.option('share');
  if (path === undefined) return {};
  const share = await realpath(path);
  if ((await stat(share)).isDirectory()) return { share };
  throw new CarrelError('invalid_request', `--share ${path} is no directory`);
}

/** The image of --disk; it is opened with the machine. */
export function diskOf(args: Arguments): Pick<GuestOptions, 'disk'> {
  const path = args.option('disk');
  return path === undefined ? {} : { disk: { path } };
}

/** Ctrl-C stops the guests, and what they did until then is shown. */
export function interruptible(): Disposable & { readonly signal: AbortSignal } {
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once('SIGINT', stop);
  return {
    signal: abort.signal,
    [Symbol.dispose]() {
      process.removeListener('SIGINT', stop);
    },
  };
}
