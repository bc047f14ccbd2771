/** How a Linux machine can end. */
import { formatDuration } from '#base/units.ts';
import type { PortEnd } from '../devices/reset.ts';

/** KVM cannot go on, and neither can we. */
export interface Stuck {
  readonly kind: 'stuck';
  readonly vcpu: number;
  /** Name of the exit. */
  readonly exit: string;
  readonly why: string;
  readonly rip: bigint;
  /** Bytes of the instruction, where KVM says. */
  readonly instruction: string | undefined;
}

export type LinuxEnd =
  | PortEnd
  /** An exception that could not be delivered: how Linux resets with reboot=t, and how it dies. */
  | { readonly kind: 'reset'; readonly by: 'triple fault' }
  | Stuck
  | { readonly kind: 'time limit'; readonly ms: number }
  | { readonly kind: 'stopped' };

/** For people, without a full stop. */
export function describeLinuxEnd(end: LinuxEnd): string {
  switch (end.kind) {
    case 'reset':
      return `reset by ${end.by}`;
    case 'exit':
      return `debug exit with status ${end.status}`;
    case 'stuck':
      return `vCPU ${end.vcpu} cannot go on at 0x${end.rip.toString(16)}: ${end.exit}, ${end.why}${end.instruction === undefined ? '' : ` (${end.instruction})`}`;
    case 'time limit':
      return `time limit: ${formatDuration(end.ms)}`;
    case 'stopped':
      return 'stopped from outside';
    default:
      end satisfies never;
      return '';
  }
}
