/** Every command there is, in the order of the help. */
import type { CommandSpec, GroupSpec } from '../spec.ts';
import { cloudCommands } from './cloud.ts';
import { courseCommands } from './courses.ts';
import { labCommands } from './labs.ts';
import { machineCommands } from './machines.ts';
import { networkCommands } from './networks.ts';
import { reachCommands } from './reach.ts';
import { snapshotCommands } from './snapshots.ts';
import { systemCommands } from './system.ts';
import { templateCommands } from './templates.ts';
import { linuxCommands } from './vmm/linux.ts';
import { lookCommands } from './vmm/look.ts';
import { runCommands } from './vmm/run.ts';

export const groups: readonly GroupSpec[] = [
  { name: 'user', doc: 'accounts' },
  { name: 'token', doc: 'tokens: what programs and people sign in with' },
  { name: 'course', doc: 'courses' },
  { name: 'member', doc: 'who is in a course' },
  { name: 'lab', doc: 'labs: prove, import, release' },
  { name: 'submission', doc: 'what was handed in' },
  { name: 'grade', doc: 'marks with their reasons' },
  { name: 'regrade', doc: 'grade again, see the difference, undo' },
  { name: 'machine', alias: 'm', doc: 'machines with root' },
  { name: 'snapshot', doc: 'what the disk of a machine was' },
  { name: 'forward', doc: 'ports of the host that lead into machines' },
  { name: 'script', doc: 'lines run inside machines, with what came of each' },
  { name: 'oscloud', doc: 'the records behind the OS-Cloud routes' },
  { name: 'image', doc: 'what machines and sandboxes start from' },
  { name: 'template', doc: 'virtual machines booted ahead of time, to be copied' },
  { name: 'network', doc: 'networks' },
  { name: 'job', doc: 'what is being done, and what was' },
  { name: 'vmm', doc: 'the hypervisor: guests on /dev/kvm' },
];

export const commands: readonly CommandSpec[] = [
  ...cloudCommands,
  ...courseCommands,
  ...labCommands,
  ...machineCommands,
  ...snapshotCommands,
  ...networkCommands,
  ...reachCommands,
  ...templateCommands,
  ...systemCommands,
  ...runCommands,
  ...lookCommands,
  ...linuxCommands,
];
