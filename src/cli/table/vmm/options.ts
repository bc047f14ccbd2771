/** Arguments and options that several commands of the hypervisor have. */
import type { Example } from '../../spec.ts';
import { guestModes } from '../options.ts';

export const guest = {
  name: 'guest',
  doc: 'C (.c), assembly (.s, .S), an ELF program, or machine code (.bin, .img)',
  complete: 'file',
} as const;

export const mode = {
  flags: '-m, --mode <mode>',
  doc: 'real, protected (without paging), paged (32 bits) or long; long unless given',
  choices: guestModes,
} as const;

const vcpus = { flags: '--vcpus <n>', doc: 'so many, each with a memory of its own (1)' } as const;

export const limit = { flags: '--limit <time>', doc: 'end the guest after this (5s)' } as const;

export const share = {
  flags: '--share <dir>',
  doc: 'the guest may open files below this directory',
  complete: 'directory',
} as const;

export const disk = {
  flags: '--disk <image>',
  doc: 'a raw image as a virtio disk, for a guest with one vCPU (guests/virtio.h)',
  complete: 'file',
} as const;

export const ports = {
  flags: '--ports <map>',
  doc: 'which port means what (carrel)',
  choices: ['carrel', 'academy-dt', 'bergeramit', 'cs695'],
} as const;

/** What a machine is made of. */
export const made = [mode, vcpus] as const;

/** What a guest is given that runs once, to its end. */
export const once = [share, limit, ports] as const;

/** A machine that somebody stops and lets go on, and what its guest is given. */
export const session = [
  ...made,
  share,
  disk,
  { ...limit, doc: 'pause the guest when it ran so long at a time (60s)' },
  ports,
] as const;

/** With what it is for: `vcpu('whose memory (0)')`. */
export const vcpu = (doc: string) => ({ flags: '--vcpu <n>', doc }) as const;

export const breakAt = (doc: string) => ({ flags: '--break <place>', doc, many: true }) as const;

/** An example: what stands behind `carrel vmm`. */
export const example = (words: string, doc: string): Example => ({ line: `carrel vmm ${words}`, doc });
