/** Whether this host can run guests. What it lacks is never a student's fault: it is thrown, and no grade comes of it. */
import { CarrelError } from '#base/errors.ts';
import type { Fd } from '#host/fds.ts';
import { openKvmDevice } from '#kvm/kvm.ts';
import { probeKvm } from '#kvm/probe.ts';
import type { ModeName } from '#vmm/modes/mode.ts';
import { requireMode } from '#vmm/modes/require.ts';

let runs = false;

/**
 * A KVM that opens and runs nothing would look like a guest that does nothing. What runs once is believed for good; what
 * does not may have had no time on a busy host, and is asked again.
 */
async function requireRunning(): Promise<void> {
  if (runs) return;
  const { kind, said } = await probeKvm();
  if (kind === 'broken')
    throw new CarrelError('host_unsupported', 'the KVM of this host opens, but runs nothing', {
      hint: said === '' ? 'see: carrel doctor' : said,
    });
  runs = true;
}

/** A descriptor of /dev/kvm for one run, on a host that has the mode; else `host_unsupported` with the reason. */
export async function kvmFor(mode: ModeName, vcpus: number): Promise<Fd> {
  const device = openKvmDevice();
  try {
    await requireRunning();
    await requireMode(mode, vcpus);
    return device;
  } catch (error) {
    device.close();
    throw error;
  }
}
