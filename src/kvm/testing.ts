/** For tests of everything above /dev/kvm: whether there is one, and what a process holds of it. */
import { accessSync, constants, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { errnoOf } from '#base/errors.ts';

/** For `test(..., { skip: withoutKvm })`. */
export const withoutKvm: false | string = (() => {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return false;
  } catch (error) {
    return `no usable /dev/kvm here (${errnoOf(error) ?? 'unknown'})`;
  }
})();

function isKvm(fd: string): boolean {
  try {
    return /kvm/.test(readlinkSync(`/proc/self/fd/${fd}`));
  } catch {
    return false; // the descriptor of the listing itself
  }
}

/** What this process holds of KVM, and how many threads it has. */
export function holdings(): { readonly fds: number; readonly mappings: number; readonly threads: number } {
  return {
    fds: readdirSync('/proc/self/fd').filter(isKvm).length,
    mappings: readFileSync('/proc/self/maps', 'utf8').match(/kvm-vcpu/g)?.length ?? 0,
    threads: readdirSync('/proc/self/task').length,
  };
}
