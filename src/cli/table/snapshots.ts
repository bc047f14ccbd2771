import type { CommandSpec } from '../spec.ts';
import { machine, noWait } from './options.ts';

const name = { name: 'name', doc: 'the snapshot' } as const;

/** What a machine's disk was, copies of it, and the way in when everything else is lost. */
export const snapshotCommands: readonly CommandSpec[] = [
  {
    path: 'machine clone',
    doc: 'make another machine with a copy of the disk, and a name, an address and keys of its own',
    arguments: [machine, { name: 'name', doc: 'of the copy' }],
    options: [
      { flags: '--snapshot <name>', doc: 'copy this snapshot (the disk as it is now)' },
      { flags: '--stopped', doc: 'do not start it' },
      noWait,
    ],
    remote: true,
    examples: [
      { line: 'carrel machine clone web web2', doc: 'also while web runs' },
      { line: 'carrel machine clone web web3 --snapshot clean', doc: 'as it was then' },
    ],
    load: async () => (await import('../commands/snapshots.ts')).machineClone,
  },
  {
    path: 'machine password',
    doc: 'give root a new random password, and print it, once',
    arguments: [machine],
    remote: true,
    examples: [{ line: 'carrel machine password web', doc: 'nobody can look it up afterwards' }],
    load: async () => (await import('../commands/snapshots.ts')).machinePassword,
  },
  {
    path: 'snapshot new',
    doc: 'keep the disk of a machine as it is now',
    more: 'Of a running machine it holds what was written until now; what its programs still have in memory is not in it.',
    arguments: [machine, name],
    options: [noWait],
    remote: true,
    examples: [{ line: 'carrel snapshot new web clean', doc: 'before you try something' }],
    load: async () => (await import('../commands/snapshots.ts')).snapshotNew,
  },
  {
    path: 'snapshot ls',
    doc: 'list the snapshots of a machine',
    arguments: [machine],
    remote: true,
    examples: [{ line: 'carrel snapshot ls web', doc: 'the oldest first' }],
    load: async () => (await import('../commands/snapshots.ts')).snapshotList,
  },
  {
    path: 'snapshot restore',
    doc: 'make the disk what it was; a running machine is powered off before, and started again',
    arguments: [machine, name],
    options: [noWait],
    remote: true,
    examples: [{ line: 'carrel snapshot restore web clean', doc: 'what came after it is gone' }],
    load: async () => (await import('../commands/snapshots.ts')).snapshotRestore,
  },
  {
    path: 'snapshot rm',
    doc: 'forget a snapshot',
    arguments: [machine, name],
    options: [noWait],
    remote: true,
    examples: [{ line: 'carrel snapshot rm web clean', doc: 'the disk itself stays as it is' }],
    load: async () => (await import('../commands/snapshots.ts')).snapshotRemove,
  },
];
