/** The other end of a vCPU's thread in a Linux machine: starts it, stops it, and gets its report. */
import { longestTimerMs } from '#base/deadline.ts';
import { Kick } from '#kvm/kick.ts';
import type { Vcpu } from '#kvm/vcpu.ts';
import { supervise } from '../supervise.ts';
import { startThread } from '../threads.ts';
import type { LinuxEnd } from './end.ts';
import type { LinuxVcpuOrder, LinuxVcpuReport } from './vcpu-run.ts';
import type { FromLinuxVcpu } from './vcpu-thread.ts';

export interface VcpuThreadOptions {
  readonly vcpu: Vcpu;
  readonly order: Omit<LinuxVcpuOrder, 'vcpu' | 'kick'>;
  readonly limitMs: number | undefined;
  /** Stops it. */
  readonly signal: AbortSignal;
}

export interface LinuxVcpuResult extends LinuxVcpuReport {
  /** Why it was stopped, if it was. */
  readonly why: LinuxEnd;
}

/** Runs a vCPU until it ends, or until it is stopped. */
export async function runVcpuThread({
  vcpu,
  order,
  limitMs = longestTimerMs,
  signal,
}: VcpuThreadOptions): Promise<LinuxVcpuResult> {
  const kick = new Kick();
  const thread = startThread('linux/vcpu-thread.ts');
  try {
    const { report, why } = await supervise<FromLinuxVcpu, LinuxVcpuReport>(thread, {
      begin: () =>
        thread.postMessage({ ...order, vcpu: vcpu.handle, kick: kick.buffer } satisfies LinuxVcpuOrder),
      kick: () => kick.stop(vcpu.page),
      limitMs,
      signal,
      hear: (message) => message,
    });
    return { ...report, why: why.kind === 'time limit' ? why : { kind: 'stopped' } };
  } finally {
    void thread.terminate();
  }
}
