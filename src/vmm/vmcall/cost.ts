/**
 * What an exit costs on this host: one that KVM serves itself, in the kernel, and one to its monitor. Measured, with
 * loops of one instruction. A vmcall is of the first kind; where the host's KVM does not serve it, cpuid stands for it,
 * which every KVM intercepts and serves in the kernel (SDM volume 3C, 26.1.2).
 */
import { threadCpuMs } from '#host/thread-clock.ts';
import { exitReasons } from '#kvm/abi/exits.ts';
import { Kick } from '#kvm/kick.ts';
import { runVcpu } from '#kvm/runloop.ts';
import { flatImage } from '../image/image.ts';
import { createMachine } from '../machine.ts';
import type { VmcallFate } from './probe.ts';

export interface ExitCosts {
  /** An exit that KVM serves in the kernel, in microseconds. */
  readonly kernelUs: number;
  /** The instruction that was measured for it. */
  readonly kernelBy: 'vmcall' | 'cpuid';
  /** An exit to the monitor: `out`. */
  readonly monitorUs: number;
}

/** Exits of one measurement: a few milliseconds. */
const times = 500;
/** The quickest counts: everything that disturbs only makes it longer. */
const rounds = 5;

const le32 = (value: number): number[] => [...new Uint8Array(Uint32Array.of(value).buffer)];

const instructions = {
  nothing: [],
  cpuid: [0x0f, 0xa2],
  vmcall: [0x0f, 0x01, 0xc1],
  out: [0xe6, 0xe9],
} as const;

/** mov $times, %r8d; 1: mov $0x7fff, %eax; (the instruction); dec %r8d; jnz 1b; hlt */
function loop(bytes: readonly number[]): Uint8Array {
  const head = [0xb8, ...le32(0x7fff), ...bytes, 0x41, 0xff, 0xc8];
  return Uint8Array.of(0x41, 0xb8, ...le32(times), ...head, 0x75, 0xfe - head.length, 0xf4);
}

/** CPU time from the first instruction to hlt, in milliseconds. On this thread: it is over soon. */
function runLoop(instruction: keyof typeof instructions): number {
  using machine = createMachine({ mode: 'long', image: flatImage(loop(instructions[instruction])) });
  const { vcpu } = machine.vcpuAt(0);
  const began = threadCpuMs();
  runVcpu(vcpu, new Kick(), ({ exitReason }) => exitReason === exitReasons.IO.number);
  return threadCpuMs() - began;
}

/** Microseconds of one instruction, the loop around it not counted. */
export function measureExits(fate: VmcallFate): ExitCosts {
  const kernelBy = fate === 'answered' ? 'vmcall' : 'cpuid';
  const best = { nothing: Infinity, kernel: Infinity, out: Infinity };
  for (let round = 0; round < rounds; round += 1) {
    best.nothing = Math.min(best.nothing, runLoop('nothing'));
    best.kernel = Math.min(best.kernel, runLoop(kernelBy));
    best.out = Math.min(best.out, runLoop('out'));
  }
  const one = (ms: number): number => Math.max(0, ((ms - best.nothing) * 1000) / times);
  return { kernelUs: one(best.kernel), kernelBy, monitorUs: one(best.out) };
}
