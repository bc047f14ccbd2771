import type { CommandSpec } from '../../spec.ts';
import { breakAt, disk, example, guest, limit, made, mode, once, ports, share } from './options.ts';

/** Guests that run. */
export const runCommands: readonly CommandSpec[] = [
  {
    path: 'vmm run',
    doc: 'run a guest on /dev/kvm',
    more: 'What the guest prints goes to standard output, how it ended to standard error. Guests in C are compiled with the kit in guests/: its carrel.h has print, exits, open, read, write and close. Exit code 1 if a vCPU neither halted nor met a breakpoint. A breakpoint is found by the processor’s debug registers, or, where this host’s KVM does not have them (vmm probe tells), by single steps, which take thousands of times longer: raise --limit then.',
    arguments: [guest],
    options: [
      ...made,
      share,
      disk,
      limit,
      ports,
      { flags: '--trace', doc: 'every exit, with time, port and data' },
      breakAt('stop before the instruction at an address or symbol'),
      {
        flags: '--watch <place>',
        doc: 'stop after a write there: 0x400, 0x400:8 bytes, a variable',
        many: true,
      },
      { flags: '--watch-access <place>', doc: 'the same after a write or a read', many: true },
      { flags: '--dirty', doc: 'which pages were written' },
      {
        flags: '--vmcall <who>',
        doc: 'who answers vmcall: the host’s KVM, or a model of it, simulated (host)',
        choices: ['host', 'model'],
      },
      { flags: '--registers', doc: 'all registers at the end' },
      { flags: '--dump <address:bytes>', doc: 'guest-physical memory after the run', many: true },
    ],
    examples: [
      example('run guests/examples/hello.c', 'fourteen bytes, fourteen exits'),
      example('run guests/examples/hello.c --vcpus 2', 'lines labelled by vCPU'),
      example('run guests/examples/files.c --share /tmp/share', 'with files'),
      example('run guests/examples/virtio-blk.c --disk disk.img', 'with a disk'),
      example('run guests/faults/beyond.c', 'what a fault looks like'),
      example('run guests/examples/vmcall.c --vmcall model', 'ports and vmcall compared'),
      example('run guests/examples/survive.c', 'faults that the guest handles itself'),
      example('run guests/examples/hello.c --break main --registers', 'as far as main'),
      example('run guests/examples/hello.c --watch 0x400', 'who writes the 42?'),
      example('run guests/examples/hello.c --dirty', 'pages written, as a map'),
      example('run guests/examples/hello.c --trace --dump 0x400:4', 'exits one by one'),
    ],
    load: async () => (await import('../../commands/vmm/run.ts')).vmmRun,
  },
  {
    path: 'vmm hello',
    doc: 'run the smallest guest in every mode, and check its answer',
    options: [{ ...mode, doc: 'only this one' }],
    examples: [
      example('hello', 'real, protected, 32-bit paging, long'),
      example('hello --mode long --json', 'one of them, for programs'),
    ],
    load: async () => (await import('../../commands/vmm/hello.ts')).vmmHello,
  },
  {
    path: 'vmm step',
    doc: 'run a guest one instruction at a time',
    arguments: [guest],
    options: [mode, { flags: '--count <n>', doc: 'so many instructions (20, at most 10000)' }, ...once],
    examples: [
      example('step guests/examples/real.S --mode real', 'three instructions'),
      example('step guests/examples/hello.c --count 40', 'with what each changed'),
    ],
    load: async () => (await import('../../commands/vmm/step.ts')).vmmStep,
  },
  {
    path: 'vmm schedule',
    doc: 'run several machines on one core of the host, and draw who had it when',
    more: 'Each guest is a virtual machine of its own; all share one thread, bound to one processor. io: a machine gives the core away at every I/O exit. timer: a tick takes it away. weights: at each tick the machine goes on that has had the least CPU time for its weight. Shares are measured, as CPU time. The limit is a good end here; exit code 1 if a machine faults.',
    arguments: [{ name: 'guests', doc: 'up to 8, each as for vmm run', many: true, complete: 'file' }],
    options: [
      { flags: '--policy <name>', doc: 'io, timer or weights (timer)', choices: ['io', 'timer', 'weights'] },
      { flags: '--weights <list>', doc: 'one for each guest: 70:30' },
      { flags: '--slice <time>', doc: 'time between ticks (10ms, at least 1ms)' },
      { ...limit, doc: 'end all of it after this (1s)' },
      {
        flags: '--counter <place>',
        doc: 'show the 32-bit word at this address (or name) of each guest’s memory: its progress',
      },
      { flags: '--slices <n>', doc: 'list the first slices one by one' },
      mode,
      share,
    ],
    examples: [
      example(
        'schedule guests/examples/chat.c guests/examples/chat.c --policy io --slices 12',
        'word by word',
      ),
      example('schedule guests/examples/count.c guests/examples/count.c --counter 0x400', 'half each'),
      example(
        'schedule guests/examples/count.c guests/examples/count.c --policy weights --weights 70:30 --counter 0x400',
        '70 to 30',
      ),
    ],
    load: async () => (await import('../../commands/vmm/schedule.ts')).vmmSchedule,
  },
];
