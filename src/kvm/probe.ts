/** KVM: absent, not for us, real, or emulating. Told apart by running a few instructions (probe-child.ts). */
import { access, constants } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { attempt } from '#host/probe/attempt.ts';
import type { Finding, Probe } from '#host/probe/finding.ts';

const child = fileURLToPath(new URL('probe-child.ts', import.meta.url));

const report = z.strictObject({
  version: z.int(),
  real: z.boolean(),
  paged: z.boolean(),
  exits: z.array(z.int()),
  systemCalls: z.boolean(),
});
export type KvmReport = z.infer<typeof report>;

export type KvmKind = 'absent' | 'forbidden' | 'broken' | 'emulating' | 'real';

/** What a report means. */
export function kindOf({ real, paged }: Pick<KvmReport, 'real' | 'paged'>): KvmKind {
  if (!real) return 'broken';
  return paged ? 'real' : 'emulating';
}

const words: Readonly<Record<KvmKind, Pick<Finding, 'state' | 'found' | 'consequence' | 'remedy'>>> = {
  absent: {
    state: 'degraded',
    found: 'no /dev/kvm',
    consequence:
      'virtual machines run by emulation, some ten times slower; containers and grading do not need it',
    remedy: 'switch virtualization on in the firmware, or nested virtualization in the host above',
  },
  forbidden: {
    state: 'degraded',
    found: '/dev/kvm may not be opened',
    consequence: 'virtual machines run by emulation for this user',
    remedy: 'as root: usermod --append --groups kvm USER, then sign in again',
  },
  broken: {
    state: 'degraded',
    found: 'opens, but runs nothing',
    consequence: 'virtual machines run by emulation',
    remedy: 'see dmesg for what KVM says',
  },
  emulating: {
    state: 'degraded',
    found: 'runs, but emulates: no 32-bit paging',
    consequence:
      'labs on the hypervisor work with their own small guests; unmodified operating systems need QEMU’s emulation',
    remedy: 'none on this host; one with VT-x or AMD-V, or nested virtualization, runs them at full speed',
  },
  real: { state: 'ok', found: 'runs on hardware', consequence: 'virtual machines at full speed' },
};

/** Looks, and tries. Never throws; leaves nothing. */
export async function probeKvm(): Promise<{
  kind: KvmKind;
  said: string;
  /** A program at user privilege reaches its kernel by `syscall`: needed by every operating system. */
  systemCalls: boolean;
}> {
  const there = await access('/dev/kvm', constants.F_OK).then(
    () => true,
    () => false,
  );
  if (!there) return { kind: 'absent', said: '', systemCalls: false };
  const usable = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (!usable) return { kind: 'forbidden', said: '', systemCalls: false };
  const { ok, said, stdout } = await attempt([
    process.execPath,
    '--disable-warning=ExperimentalWarning',
    child,
  ]);
  if (!ok) return { kind: 'broken', said, systemCalls: false };
  const found = report.parse(JSON.parse(stdout));
  return { kind: kindOf(found), said: '', systemCalls: found.systemCalls };
}

export const kvm: Probe = {
  topic: 'virtual machines',
  async run() {
    const { kind, said } = await probeKvm();
    const finding = words[kind];
    return [
      { id: 'kvm', title: 'KVM', ...finding, ...(said !== '' && { found: `${finding.found} (${said})` }) },
    ];
  },
};
