/**
 * `carrel vmm linux`: what was typed, as a machine. Each part can be given in two ways: by options of its own, or
 * as the reference VMM has it (keyed.ts), with the same defaults and the same words for mistakes.
 */
import { CarrelError } from '#base/errors.ts';
import { parseSize } from '#base/units.ts';
import { isKeyed, parseKeyed } from './keyed.ts';
import type { ConsoleKind } from './terminal.ts';

const MiB = 2 ** 20;

/** Texts as they were typed. */
export interface TypedOptions {
  readonly kernel: string | undefined;
  readonly initrd: string | undefined;
  readonly commandLine: string | undefined;
  readonly loadAddress: string | undefined;
  readonly starter: string | undefined;
  readonly memory: string | undefined;
  readonly vcpus: string | undefined;
  readonly tap: string | undefined;
  readonly console: string | undefined;
  readonly disks: readonly string[];
}

/** What is not there has its default. */
export interface LinuxSettings {
  readonly kernel: string;
  readonly initrd: string | undefined;
  readonly commandLine: string | undefined;
  readonly loadAddress: number | undefined;
  readonly starter: string | undefined;
  readonly memory: number | undefined;
  readonly vcpus: number | undefined;
  readonly tap: string | undefined;
  readonly console: ConsoleKind | undefined;
  readonly disks: readonly string[];
}

const kernelKeys = ['path', 'cmdline', 'kernel_load_addr', 'starter_file'] as const;

function whole(text: string | undefined, option: string): number | undefined {
  if (text === undefined) return undefined;
  if (/^(0x[0-9a-f]{1,12}|\d{1,15})$/i.test(text)) return Number(text);
  throw new CarrelError('invalid_request', `${option} wants a whole number, not ${text}`);
}

function kernelOf(
  text: string | undefined,
): Pick<LinuxSettings, 'kernel' | 'commandLine' | 'loadAddress' | 'starter'> {
  const plain = text !== undefined && !isKeyed(text, kernelKeys);
  const keyed = parseKeyed('kernel', plain ? `` : (text ?? ''), kernelKeys);
  return {
    kernel: plain ? text : keyed.need('path'),
    commandLine: keyed.get('cmdline'),
    loadAddress: keyed.number('kernel_load_addr'),
    starter: keyed.get('starter_file'),
  };
}

function memoryOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!isKeyed(text, ['size_mib'])) return parseSize(text);
  const mib = parseKeyed('memory', text, ['size_mib']).number('size_mib');
  return mib === undefined ? undefined : mib * MiB;
}

function vcpusOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!isKeyed(text, ['num'])) return whole(text, '--vcpus');
  return parseKeyed('vCPUs', text, ['num']).number('num');
}

/** A name or path by itself, or behind its one key. */
function one(what: string, key: string, text: string): string {
  return isKeyed(text, [key]) ? parseKeyed(what, text, [key]).need(key) : text;
}

function consoleOf(text: string | undefined): ConsoleKind | undefined {
  if (text === undefined || text === 'serial' || text === 'virtio') return text;
  throw new CarrelError('invalid_request', `--console is serial or virtio, not ${text}`);
}

/** `invalid_request` says what is wrong, before anything is opened. */
export function readOptions(typed: TypedOptions): LinuxSettings {
  const kernel = kernelOf(typed.kernel);
  return {
    kernel: kernel.kernel,
    initrd: typed.initrd,
    commandLine: typed.commandLine ?? kernel.commandLine,
    loadAddress: whole(typed.loadAddress, '--load-address') ?? kernel.loadAddress,
    starter: typed.starter ?? kernel.starter,
    memory: memoryOf(typed.memory),
    vcpus: vcpusOf(typed.vcpus),
    tap: typed.tap === undefined ? undefined : one('network', 'tap', typed.tap),
    console: consoleOf(typed.console),
    disks: typed.disks.map((disk) => one('block', 'path', disk)),
  };
}
