/** `carrel vmm linux`. */
import { readFile } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';
import { probeKvm } from '#kvm/probe.ts';
import { type CommandResult, commandsOf, describeCommandEnd, runCommands } from '#vmm/linux/commands.ts';
import { emulationLimit } from '#vmm/linux/emulated.ts';
import { describeLinuxEnd, type LinuxEnd } from '#vmm/linux/end.ts';
import { createLinuxMachine, type LinuxMachine } from '#vmm/linux/machine.ts';
import { type LinuxSettings, readOptions } from '#vmm/linux/options.ts';
import { readKernel } from '#vmm/linux/read-kernel.ts';
import { plain } from '#vmm/inspect/plain.ts';
import { Transcript } from '#vmm/linux/transcript.ts';
import type { Arguments } from '../../arguments.ts';
import { exitCodes } from '../../exit-codes.ts';
import type { Action } from '../../spec.ts';
import { type EscapeKey, parseEscape, splitAtEscape } from '../../terminal.ts';
import type { Output } from '../../ui/output.ts';
import { openDevices } from './linux-devices.ts';

const usualEscape = '^]';
const bootMs = 300_000;
const commandMs = 60_000;

function settingsOf(args: Arguments): LinuxSettings {
  return readOptions({
    kernel: args.option('kernel'),
    initrd: args.option('initrd'),
    commandLine: args.option('cmdline'),
    loadAddress: args.option('loadAddress'),
    starter: args.option('starter'),
    memory: args.option('memory') ?? args.option('mem'),
    vcpus: args.option('vcpu') ?? args.option('vcpus'),
    tap: args.option('net') ?? args.option('tap'),
    console: args.option('console'),
    disks: [...args.many('block'), ...args.many('disk')],
  });
}

/** Commands for the guest's shell: those of the starter file, then those of --command. */
async function commandsFor({ starter }: LinuxSettings, args: Arguments): Promise<readonly string[]> {
  const file = starter === undefined ? [] : commandsOf(await readFile(starter, 'utf8'));
  return [...file, ...args.many('command')];
}

/** Says what to expect where KVM emulates. */
async function isEmulated(out: Output): Promise<boolean> {
  const { kind } = await probeKvm();
  if (kind !== 'emulating') return false;
  out.note(`This host's KVM emulates. ${emulationLimit}.`);
  return true;
}

/** Our keys go to the guest, until the escape key; on a terminal one by one. */
function typeFrom(
  stdin: NodeJS.ReadStream,
  machine: LinuxMachine,
  leave: () => void,
  escape?: EscapeKey,
): Disposable {
  const raw = stdin.isTTY;
  const onData = (chunk: Buffer): void => {
    const { before, left } = raw && escape ? splitAtEscape(chunk, escape) : { before: chunk, left: false };
    if (before.length > 0) machine.type(before);
    if (left) leave();
  };
  if (raw) stdin.setRawMode(true);
  stdin.on('data', onData);
  return {
    [Symbol.dispose]() {
      if (raw) stdin.setRawMode(false);
      stdin.off('data', onData);
      stdin.pause();
    },
  };
}

interface Ran {
  readonly end: LinuxEnd;
  readonly commands: readonly CommandResult[];
  readonly vcpus: readonly unknown[];
  readonly ms: number;
  readonly output: string;
}

/** Runs the machine, with our terminal at its console, or with commands. */
async function runMachine(
  machine: LinuxMachine,
  args: Arguments,
  { commands, json, out }: { commands: readonly string[]; json: boolean; out: Output },
): Promise<Ran> {
  const abort = new AbortController();
  const leave = (): void => abort.abort();
  const transcript = new Transcript((bytes) => machine.type(bytes));
  machine.output.on('data', (chunk: Buffer) => {
    transcript.add(chunk);
    if (!json && !process.stdout.write(chunk)) {
      machine.output.pause();
      process.stdout.once('drain', () => machine.output.resume());
    }
  });
  const drained = new Promise<void>((resolve) => void machine.output.once('close', resolve));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, leave);
  const escape = parseEscape(args.option('escape') ?? usualEscape);
  using _ = json || commands.length > 0 ? undefined : typeFrom(process.stdin, machine, leave, escape);
  const ended = new AbortController();
  const running = machine.run({
    limitMs: args.duration('limit'),
    signal: abort.signal,
    onRemark: ({ text }) => out.note(text),
  });
  void running.catch(() => undefined).finally(() => ended.abort());
  try {
    const results = await runCommands(transcript, commands, {
      bootMs: args.duration('bootLimit') ?? bootMs,
      limitMs: args.duration('commandLimit') ?? commandMs,
      signal: ended.signal,
      onResult: ({ command, end, ms }) =>
        out.note(`[${command}] ${describeCommandEnd(end)}, ${Math.round(ms)} ms`),
    });
    if (commands.length > 0 && !args.flag('keep')) leave();
    const { end, vcpus, ms } = await running;
    await drained;
    return { end, vcpus, ms, commands: results, output: transcript.bytes.toString('latin1') };
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.removeListener(signal, leave);
  }
}

/** A guest that ended its machine meant to; one that we stopped after its commands did as it was told. */
function statusOf({ end, commands }: Ran): number | undefined {
  if (commands.some((command) => command.end.kind !== 'exited' || command.end.status !== 0))
    return exitCodes.failed;
  if (end.kind === 'exit') return end.status === 0 ? undefined : exitCodes.failed;
  if (end.kind === 'reset' || (end.kind === 'stopped' && commands.length > 0)) return undefined;
  return end.kind === 'stopped' ? exitCodes.interrupted : exitCodes.failed;
}

export const vmmLinux: Action = async ({ args, out }) => {
  const settings = settingsOf(args);
  const commands = await commandsFor(settings, args);
  const kernel = readKernel(await readFile(settings.kernel), settings.loadAddress);
  const initrd = settings.initrd === undefined ? undefined : await readFile(settings.initrd);
  if (settings.initrd !== undefined && initrd?.length === 0)
    throw new CarrelError('invalid_request', `the initramfs ${settings.initrd} is empty`);
  const emulated = await isEmulated(out);
  using opened = new DisposableStack();
  const devices = await openDevices(settings, {
    readOnly: args.flag('readOnly'),
    opened,
    note: (text) => out.note(text),
  });
  using machine = createLinuxMachine({
    devices,
    kernel,
    initrd,
    commandLine: settings.commandLine,
    console: settings.console,
    emulated,
    vcpus: settings.vcpus,
    memory: settings.memory,
  });
  const ran = await runMachine(machine, args, { commands, json: out.json, out });
  out.note(`Guest shutdown: ${describeLinuxEnd(ran.end)}. Bye!`);
  out.result(
    plain({
      kernel: { kind: kernel.kind, version: kernel.version },
      commandLine: machine.commandLine,
      ...ran,
    }),
    () => '',
  );
  return statusOf(ran);
};
