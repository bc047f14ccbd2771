/** QEMU on this host. */
import { existsSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';

/** In Debian's qemu-system-x86 and its derivatives. */
export const qemuProgram = '/usr/bin/qemu-system-x86_64';

/** `host_unsupported` where QEMU is not installed. */
export function requireQemu(program = qemuProgram): void {
  if (existsSync(program)) return;
  throw new CarrelError('host_unsupported', 'QEMU is not installed on this host', {
    hint: 'install the package qemu-system-x86; see: carrel doctor',
  });
}
