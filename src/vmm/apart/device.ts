/** Whether this host can run a guest: asked before anything is made, and by everybody who runs one apart. */
import { CarrelError } from '#base/errors.ts';
import type { Fd } from '#host/fds.ts';
import { openKvmDevice } from '#kvm/kvm.ts';
import { probeKvm } from '#kvm/probe.ts';
import type { ModeName } from '../modes/mode.ts';
import { requireMode } from '../modes/require.ts';

type Probed = Awaited<ReturnType<typeof probeKvm>>;

let good: Probed | undefined;

/** What KVM is here. Tried out once in a process, but for what does not work: that may pass. */
export async function kvmHere(): Promise<Probed> {
  if (good) return good;
  const probed = await probeKvm();
  if (probed.kind === 'real' || probed.kind === 'emulating') good = probed;
  return probed;
}

/** A descriptor of /dev/kvm for one run, on a host that has the mode; else `host_unsupported` with the reason. */
export async function kvmFor(mode: ModeName, vcpus: number): Promise<Fd> {
  const device = openKvmDevice();
  try {
    // a KVM that opens and runs nothing would look like a guest that does nothing
    const { kind, said } = await kvmHere();
    if (kind === 'broken')
      throw new CarrelError('host_unsupported', 'the KVM of this host opens, but runs nothing', {
        hint: said === '' ? 'see: carrel doctor' : said,
      });
    await requireMode(mode, vcpus);
    return device;
  } catch (error) {
    device.close();
    throw error;
  }
}
