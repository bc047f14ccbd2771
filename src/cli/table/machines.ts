import type { CommandSpec } from '../spec.ts';
import { consoleOptions } from './reach.ts';

const machine = { name: 'machine', doc: 'name or id' } as const;
const noWait = { flags: '--no-wait', doc: 'return at once; the job goes on' } as const;
const grace = {
  flags: '--grace <time>',
  doc: 'how long an orderly stop may take (5s; 0 pulls the plug)',
} as const;

const verb = (name: string, doc: string, example: string, { graceful = false } = {}): CommandSpec => ({
  path: `machine ${name}`,
  doc,
  arguments: [{ ...machine, name: 'machines', many: true }],
  options: graceful ? [grace, noWait] : [noWait],
  remote: true,
  examples: [{ line: `carrel machine ${name} web`, doc: example }],
  load: async () => (await import('../commands/machine-verbs.ts')).machineVerb(name),
});

export const machineCommands: readonly CommandSpec[] = [
  {
    path: 'machine new',
    doc: 'make a machine',
    arguments: [{ name: 'name', doc: 'a-z, 0-9 and dashes' }],
    options: [
      { flags: '-i, --image <name>', doc: 'what it starts from (debian-12)' },
      {
        flags: '--driver <kind>',
        doc: 'a container, a virtual machine with a kernel of its own, or a guest of our hypervisor (container)',
        choices: ['container', 'qemu', 'micro'],
      },
      { flags: '--course <course>', doc: 'its staff can see and use it' },
      { flags: '--cpus <n>', doc: 'cores (1)' },
      { flags: '--memory <size>', doc: '512M' },
      { flags: '--processes <n>', doc: '512' },
      { flags: '--disk <size>', doc: 'what may be written (2G)' },
      { flags: '--network <name>', doc: 'where it is put (default)' },
      { flags: '--number <n>', doc: 'its subnet, in a network with the routed layout (the lowest free one)' },
      { flags: '--rate <size>', doc: 'what it may send and receive in a second, each (as much as there is)' },
      {
        flags: '--ssh-key <file>',
        doc: 'a public key that opens root’s account',
        many: true,
        complete: 'file',
      },
      { flags: '--idle-freeze <time>', doc: 'freeze it when idle for so long; it wakes when wanted' },
      { flags: '--label <key=value>', doc: 'for finding it again', many: true },
      { flags: '--ttl <time>', doc: 'delete it after this time' },
      { flags: '--stopped', doc: 'do not start it' },
      {
        flags: '--starter <file>',
        doc: 'lines to run in it when it is ready for the first time',
        complete: 'file',
      },
      noWait,
    ],
    remote: true,
    examples: [
      { line: 'carrel machine new web', doc: 'Debian with root, ready when the command returns' },
      { line: 'carrel m new tiny --image busybox --memory 64M --ttl 2h', doc: 'small, for two hours' },
      {
        line: 'carrel m new vm --driver qemu --image tiny --disk 2G --ssh-key ~/.ssh/id_ed25519.pub',
        doc: 'a virtual machine, open to your key',
      },
    ],
    load: async () => (await import('../commands/machines.ts')).machineNew,
  },
  {
    path: 'machine ls',
    doc: 'list machines with their state',
    options: [
      { flags: '--state <state>', doc: 'only these', choices: ['stopped', 'running', 'paused', 'failed'] },
      { flags: '--owner <name>', doc: 'of this account' },
      { flags: '--course <course>', doc: 'of this course' },
      { flags: '--label <key=value>', doc: 'with this label' },
    ],
    remote: true,
    examples: [
      { line: 'carrel machine ls', doc: 'yours, and those of courses you staff' },
      { line: 'carrel m ls --state running', doc: 'running ones' },
    ],
    load: async () => (await import('../commands/machines.ts')).machineList,
  },
  {
    path: 'machine show',
    doc: 'one machine',
    arguments: [machine],
    remote: true,
    examples: [{ line: 'carrel machine show web', doc: 'state, address, limits' }],
    load: async () => (await import('../commands/machines.ts')).machineShow,
  },
  verb('start', 'start machines', 'start it'),
  verb('stop', 'stop machines: in order, then the power goes off', 'stop it', { graceful: true }),
  verb('restart', 'stop and start machines', 'stop and start', { graceful: true }),
  verb('pause', 'freeze all processes of machines', 'freeze it'),
  verb('resume', 'let paused machines go on', 'let it go on'),
  verb('rm', 'delete machines and their disks', 'delete it'),
  {
    path: 'machine run',
    doc: 'run a program and wait for its end; its exit status is ours',
    arguments: [machine, { name: 'program', doc: 'program and its arguments', many: true }],
    options: [
      { flags: '--limit <time>', doc: 'how long it may run (60s)' },
      { flags: '--cwd <dir>', doc: 'where (/root)' },
      { flags: '--user <name>', doc: 'as whom (root)' },
      { flags: '-e, --env <key=value>', doc: 'environment', many: true },
      { flags: '--stdin', doc: 'pass our standard input on' },
    ],
    remote: true,
    passThrough: true,
    examples: [
      { line: 'carrel machine run web uname -a', doc: 'output and exit status are the program’s' },
      { line: 'carrel machine run --stdin web sh < script.sh', doc: 'a script' },
    ],
    load: async () => (await import('../commands/machine-run.ts')).machineRun,
  },
  {
    path: 'machine exec',
    doc: 'run a program on a terminal; it outlives a lost connection',
    more: 'Press Ctrl-] to leave; the program goes on, and --attach ID comes back to it without losing a byte.',
    arguments: [
      machine,
      { name: 'program', doc: 'program and its arguments (/bin/sh)', optional: true, many: true },
    ],
    options: [
      { flags: '-t, --tty', doc: 'with a terminal (it has one anyway if ours is one)' },
      { flags: '-d, --detach', doc: 'print its id and return' },
      { flags: '--attach <exec>', doc: 'come back to one (x-...)' },
      { flags: '--cwd <dir>', doc: 'where (/root)' },
      { flags: '--user <name>', doc: 'as whom (root)' },
      { flags: '-e, --env <key=value>', doc: 'environment', many: true },
    ],
    remote: true,
    passThrough: true,
    examples: [
      { line: 'carrel machine exec web', doc: 'a shell' },
      { line: 'carrel machine exec -t web top', doc: 'a full-screen program' },
      { line: 'carrel machine exec -d web make -j4', doc: 'goes on without you' },
    ],
    load: async () => (await import('../commands/machine-exec.ts')).machineExec,
  },
  {
    path: 'machine console',
    doc: 'the machine’s console, with what it said before; Ctrl-] leaves',
    arguments: [machine],
    options: consoleOptions,
    remote: true,
    examples: [
      { line: 'carrel machine console web', doc: 'Ctrl-] leaves, the machine goes on' },
      { line: 'carrel machine console web --transcript', doc: 'why did it not start?' },
    ],
    load: async () => (await import('../commands/machine-exec.ts')).machineConsole,
  },
  {
    path: 'machine put',
    doc: 'copy a file into a machine',
    arguments: [
      machine,
      { name: 'file', doc: 'here; - for standard input', complete: 'file' },
      { name: 'path', doc: 'there' },
    ],
    options: [{ flags: '--mode <octal>', doc: '0644' }],
    remote: true,
    examples: [{ line: 'carrel machine put web index.html /srv/index.html', doc: 'copy in' }],
    load: async () => (await import('../commands/machine-files.ts')).machinePut,
  },
  {
    path: 'machine get',
    doc: 'copy a file out of a machine',
    arguments: [
      machine,
      { name: 'path', doc: 'there' },
      { name: 'file', doc: 'here (its name); - for standard output', optional: true, complete: 'file' },
    ],
    remote: true,
    examples: [{ line: 'carrel machine get web /var/log/boot.log -', doc: 'print it' }],
    load: async () => (await import('../commands/machine-files.ts')).machineGet,
  },
  {
    path: 'machine stats',
    doc: 'what machines use',
    arguments: [{ ...machine, name: 'machines', optional: true, many: true }],
    remote: true,
    examples: [{ line: 'carrel machine stats', doc: 'all running ones' }],
    load: async () => (await import('../commands/machines.ts')).machineStats,
  },
  {
    path: 'machine inspect',
    doc: 'how the last run of a hypervisor’s guest went',
    more: 'Of machines of the kind micro: how each vCPU ended, its exits by reason and port, its registers, and what the machine was.',
    arguments: [machine],
    remote: true,
    examples: [{ line: 'carrel machine inspect hello', doc: 'after it has halted, or was stopped' }],
    load: async () => (await import('../commands/machine-inspect.ts')).machineInspect,
  },
];
