import type { CommandSpec } from '../spec.ts';
import { noWait } from './options.ts';

/** Virtual machines that booted ahead of time. */
export const templateCommands: readonly CommandSpec[] = [
  {
    path: 'template park',
    doc: 'boot an image once and park it: new virtual machines of it start as copies, at once',
    more: 'Copies need the same memory and cores as the template; their disks may be of any size. Parking it again changes\nhow many copies wait.',
    arguments: [{ name: 'image', doc: 'name' }],
    options: [
      { flags: '--memory <size>', doc: '512M' },
      { flags: '--cpus <n>', doc: 'cores (1)' },
      { flags: '--ready <n>', doc: 'copies that are loaded ahead of time and wait (0)' },
      noWait,
    ],
    remote: true,
    examples: [
      { line: 'carrel template park tiny --memory 256M', doc: 'machines of tiny with 256M start as copies' },
      { line: 'carrel template park tiny --memory 256M --ready 3', doc: 'three are loaded and wait' },
    ],
    load: async () => (await import('../commands/templates.ts')).templatePark,
  },
  {
    path: 'template ls',
    doc: 'list templates',
    remote: true,
    examples: [{ line: 'carrel template ls', doc: 'with state, size and waiting copies' }],
    load: async () => (await import('../commands/templates.ts')).templateList,
  },
  {
    path: 'template rm',
    doc: 'remove a template; machines that were made of it go on',
    arguments: [{ name: 'template', doc: 'id (tp-...), or an image: all of it' }],
    remote: true,
    examples: [{ line: 'carrel template rm tiny', doc: 'machines of tiny boot again' }],
    load: async () => (await import('../commands/templates.ts')).templateRemove,
  },
];
