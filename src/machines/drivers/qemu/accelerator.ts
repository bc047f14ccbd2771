/** How QEMU is to run a guest on this host, found out once: by the processor, or by translating its instructions. */
import { statSync } from 'node:fs';
import { measureTscKhz } from '#host/tsc.ts';
import { type KvmKind, probeKvm } from '#kvm/probe.ts';
import type { Accelerator } from './spec.ts';

export interface Acceleration {
  readonly accelerator: Accelerator;
  /** The group that may open /dev/kvm. */
  readonly groups: readonly number[];
  /** What an emulated processor's time-stamp counter counts, in kHz: it is the host's. null: the guest is told by KVM. */
  readonly tscKhz: number | null;
  /** Why it is not faster; null when it is as fast as it gets. */
  readonly note: string | null;
}

const notes: Readonly<Record<Exclude<KvmKind, 'real'>, string>> = {
  absent: 'this host has no /dev/kvm, so the machine is emulated, some ten times slower',
  forbidden: 'this process may not open /dev/kvm, so the machine is emulated, some ten times slower',
  broken: 'KVM runs nothing on this host, so the machine is emulated, some ten times slower',
  emulating:
    'KVM on this host is itself emulated and runs no operating system, so the machine is emulated, some ten times slower',
};

/** S_IRWXG with reading and writing, stat(2). */
const groupAccess = 0o060;

/** Gives a function that probes at its first call. */
export function createAcceleration(probe: typeof probeKvm = probeKvm): () => Promise<Acceleration> {
  let known: Promise<Acceleration> | undefined;
  return () => (known ??= find(probe));
}

async function find(probe: typeof probeKvm): Promise<Acceleration> {
  const { kind } = await probe();
  if (kind !== 'real')
    return { accelerator: 'tcg', groups: [], tscKhz: await measureTscKhz(), note: notes[kind] };
  const { mode, gid } = statSync('/dev/kvm');
  // everybody, or its group: QEMU is neither its owner nor root
  const others = mode & 0o006;
  if (others === 0o006) return { accelerator: 'kvm', groups: [], tscKhz: null, note: null };
  if ((mode & groupAccess) === groupAccess)
    return { accelerator: 'kvm', groups: [gid], tscKhz: null, note: null };
  return {
    accelerator: 'tcg',
    groups: [],
    tscKhz: await measureTscKhz(),
    note: '/dev/kvm is for its owner alone, so the machine is emulated; let its group kvm read and write it',
  };
}
