import type { CommandSpec } from '../spec.ts';

const network = { name: 'network', doc: 'name or id' } as const;

/** Networks that machines are put into. */
export const networkCommands: readonly CommandSpec[] = [
  {
    path: 'network new',
    doc: 'make a network (administrators)',
    arguments: [{ name: 'name', doc: 'a-z, 0-9 and dashes' }],
    options: [
      { flags: '--range <cidr>', doc: 'private, /16 to /29 (one that is free, 10.200.N.0/24)' },
      { flags: '--no-nat', doc: 'its machines do not reach the outside' },
      { flags: '--no-dhcp', doc: 'no DHCP, no names' },
      { flags: '--open', doc: 'machines of different owners hear each other' },
      {
        flags: '--layout <layout>',
        doc: 'one bridge, or a subnet for each machine (bridge)',
        choices: ['bridge', 'routed'],
      },
    ],
    remote: true,
    examples: [
      { line: 'carrel network new lab', doc: 'a range of its own, names, and a way out' },
      { line: 'carrel network new shut --range 10.9.0.0/24 --no-nat', doc: 'nothing leaves it' },
      { line: 'carrel network new numbered --layout routed', doc: 'machine x is 192.168.{200+x}.2' },
    ],
    load: async () => (await import('../commands/networks.ts')).networkNew,
  },
  {
    path: 'network ls',
    doc: 'list networks',
    remote: true,
    examples: [{ line: 'carrel network ls', doc: 'ranges and gateways' }],
    load: async () => (await import('../commands/networks.ts')).networkList,
  },
  {
    path: 'network show',
    doc: 'one network',
    arguments: [network],
    remote: true,
    examples: [{ line: 'carrel network show default', doc: 'who reaches whom' }],
    load: async () => (await import('../commands/networks.ts')).networkShow,
  },
  {
    path: 'network rm',
    doc: 'remove a network that has no machines (administrators)',
    arguments: [network],
    remote: true,
    examples: [{ line: 'carrel network rm lab', doc: 'remove it' }],
    load: async () => (await import('../commands/networks.ts')).networkRemove,
  },
];
