/** Which modes this host and this many vCPUs allow. */
import { CarrelError } from '#base/errors.ts';
import { probeKvm } from '#kvm/probe.ts';
import type { ModeName } from './mode.ts';
import { modes } from './table.ts';

/** Refuses what could not work, before anything is made. */
export async function requireMode(name: ModeName, vcpus: number): Promise<void> {
  if (vcpus > 1 && name !== 'long')
    throw new CarrelError(
      'invalid_request',
      `several vCPUs need long mode: in ${modes[name].title} they would share one memory`,
      {
        hint: 'each vCPU sees its own 2 MiB through its page tables; 4 MiB pages cannot be put that close, and without paging there is nothing to keep them apart',
      },
    );
  // every KVM runs the other three; only this one asks the host first, for it costs a process
  if (name !== 'paged') return;
  const { kind } = await probeKvm();
  if (kind === 'emulating')
    throw new CarrelError('host_unsupported', 'the KVM of this host cannot run guests with 32-bit paging', {
      hint: 'it emulates the kernel side of guests, and shuts one down at its first instruction behind a 32-bit page directory; hardware KVM runs them. See: carrel vmm probe',
    });
}
