/**
 * The process: `node program.ts ORDER`, with /dev/kvm on one descriptor and the report on another. It opens nothing
 * else but the guest and the share, and needs no rights.
 */
import { mkdirSync, readFileSync, writeSync } from 'node:fs';
import { isCarrelError } from '#base/errors.ts';
import { hex } from '#base/units.ts';
import { ownFd } from '#host/fds.ts';
import { type Kvm, kvmFrom } from '#kvm/kvm.ts';
import { describeEnd } from '../end.ts';
import { isElf, readElf } from '../image/elf.ts';
import { flatImage, type GuestImage } from '../image/image.ts';
import { takeFacts } from '../inspect/facts.ts';
import { createMachine, type Machine, type VcpuResult } from '../machine.ts';
import { defaultShareLimits, type ShareLimits } from '../share.ts';
import { descriptors, type RunOrder, runOrder, type RunReport, type VcpuReport, type Word } from './order.ts';

function wordOf(machine: Machine, vcpu: number, { at, bytes }: Word): string | null {
  const base = machine.vcpus[vcpu]?.layout.base ?? 0;
  const piece = machine.memory.slice(BigInt(base + at), bytes);
  return piece ? hex(piece.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n)) : null;
}

function reportOf(machine: Machine, { words }: RunOrder, result: VcpuResult): VcpuReport {
  const { vcpu, output, end, exits, registers, ms } = result;
  return {
    output,
    end: { kind: end.kind, sentence: describeEnd(end) },
    exits: { ...exits, ports: [...exits.ports] },
    registers: Object.fromEntries(Object.entries(registers).map(([name, value]) => [name, hex(value)])),
    words: words.map((word) => wordOf(machine, vcpu, word)),
    ms,
  };
}

function printLine(vcpus: number): (vcpu: number, line: string) => void {
  return (vcpu, line) => {
    const whole = vcpus === 1 || line.endsWith('\n') ? line : `${line}\n`;
    toTerminal(vcpus === 1 ? whole : `[vcpu ${vcpu}] ${whole}`);
  };
}

/** A terminal that passes every byte as it is needs to be told to go back to the left. */
function toTerminal(text: string): void {
  process.stdout.write(text.replaceAll('\n', '\r\n'));
}

function say(what: unknown): void {
  const bytes = Buffer.from(`${JSON.stringify(what)}\n`);
  for (let at = 0; at < bytes.length;) at += writeSync(descriptors.report, bytes, at);
}

/** Each vCPU has an equal part of the room. */
function shareLimitsOf({ room, vcpus }: Pick<RunOrder, 'room' | 'vcpus'>): ShareLimits {
  const { files, creations, writtenBytes } = defaultShareLimits;
  if (!room) return defaultShareLimits;
  return {
    files,
    creations: Math.min(creations, Math.floor(room.files / vcpus)),
    writtenBytes: Math.min(writtenBytes, Math.floor(room.bytes / vcpus)),
  };
}

async function runOnce(
  kvm: Kvm,
  image: GuestImage,
  order: RunOrder,
  signal: AbortSignal,
): Promise<RunReport> {
  const { mode, vcpus, limitMs, outputBytes, ports, share, live, facts } = order;
  using machine = createMachine({ kvm, mode, image, vcpus });
  const before = takeFacts(machine, facts);
  if (live) say({ began: true });
  const results = await machine.run({
    limitMs,
    ports,
    outputLimit: outputBytes,
    signal,
    ...(share !== null && { share, shareLimits: shareLimitsOf(order) }),
    ...(live && { onLine: printLine(vcpus) }),
  });
  const after = takeFacts(machine, facts, results[0]);
  if (live) for (const { vcpu, end } of results) toTerminal(`[vcpu ${vcpu}: ${describeEnd(end)}]\n`);
  return {
    vcpus: results.map((result) => reportOf(machine, order, result)),
    facts: Object.fromEntries([...before, ...after].map(([name, value]) => [name, String(value)])),
  };
}

/** What a guest can be refused for; everything else is a fault of ours. */
const refusals = ['validation_failed', 'too_large'] as const;

async function obey(order: RunOrder, signal: AbortSignal): Promise<RunReport> {
  using kvm = kvmFrom(ownFd(descriptors.kvm));
  if (order.share !== null) mkdirSync(order.share, { recursive: true });
  const bytes = readFileSync(order.guest);
  try {
    const image = isElf(bytes) ? readElf(bytes) : flatImage(bytes);
    let report = await runOnce(kvm, image, order, signal);
    for (let run = 1; run < order.runs && !signal.aborted; run += 1)
      report = await runOnce(kvm, image, order, signal);
    return report;
  } catch (error) {
    if (!refusals.some((code) => isCarrelError(error, code)) || !(error instanceof Error)) throw error;
    return { refused: error.message };
  }
}

const stop = new AbortController();
process.on('SIGTERM', () => stop.abort());
const order = runOrder.parse(JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')));
say(await obey(order, stop.signal));
