/** A kernel as its file says it: what goes where, and what it asks of whoever loads it. */
import { CarrelError } from '#base/errors.ts';
import type { Stretch } from './ram.ts';

export interface KernelPart {
  /** Guest-physical. */
  readonly at: number;
  readonly bytes: Uint8Array;
}

export interface LinuxKernel {
  readonly kind: 'bzImage' | 'vmlinux';
  /** As it calls itself, if it does: `6.1.0-18-cloud-amd64 (debian-kernel@...) ...`. */
  readonly version: string | undefined;
  readonly parts: readonly KernelPart[];
  /** Guest-physical address of the 64-bit entry point. */
  readonly entry: number;
  /** What it uses before it looks at the memory map: nothing else may lie there. */
  readonly needs: readonly Stretch[];
  /** The setup header, which goes to 0x1f1 in boot_params. Made up for kernels without one. */
  readonly header: Uint8Array;
  /** The highest address that a byte of the initramfs may have. */
  readonly initrdMax: number;
  /** Characters of a command line that it reads, without the NUL. */
  readonly commandLineMax: number;
}

/** Larger ones are no kernels: Debian's has 40 MiB unpacked. */
export const mostKernelBytes = 512 * 2 ** 20;

export const notAKernel = (why: string, hint?: string): CarrelError =>
  new CarrelError('validation_failed', `the kernel ${why}`, hint === undefined ? {} : { hint });
