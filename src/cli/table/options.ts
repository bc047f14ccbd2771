/** Arguments and options that several commands have. */

export const machine = { name: 'machine', doc: 'name or id' } as const;

export const noWait = { flags: '--no-wait', doc: 'return at once; the job goes on' } as const;

export const sshKey = {
  flags: '--ssh-key <file>',
  doc: 'a public key that opens root’s account',
  many: true,
  complete: 'file',
} as const;

/** How to look at a console, whichever command opens it. */
export const consoleOptions = [
  { flags: '--escape <key>', doc: 'the key that leaves: ^], ^A, ... or none (^])' },
  { flags: '--read-only', doc: 'look, type nothing' },
  { flags: '--from <byte>', doc: 'start at this offset' },
  { flags: '--transcript', doc: 'print what is kept of it, of a stopped machine too' },
] as const;

/** Modes of the processor that a guest of the hypervisor can be made for. */
export const guestModes = ['real', 'protected', 'paged', 'long'] as const;
