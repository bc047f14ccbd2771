/** The loop at the heart of every VMM: run, see why the guest stopped, serve it, run again. */
import type { Kick } from './kick.ts';
import type { RunPage } from './runpage.ts';
import type { Vcpu } from './vcpu.ts';

/**
 * Runs a vCPU on this thread until `serve` says that it is over (false: 'served') or somebody kicks ('kicked').
 * `serve` is called for each exit, with kvm_run as KVM left it.
 */
export function runVcpu(vcpu: Vcpu, kick: Kick, serve: (page: RunPage) => boolean): 'served' | 'kicked' {
  const { page } = vcpu;
  kick.enter();
  try {
    while (!kick.wanted) {
      const how = vcpu.run();
      // first the flag, then the wish: kick.ts says why
      if (how === 'interrupted') page.immediateExit = false;
      else if (how === 'exit' && !serve(page)) return 'served';
    }
    return 'kicked';
  } finally {
    kick.leave();
  }
}
