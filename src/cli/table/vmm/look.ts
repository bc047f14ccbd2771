import type { CommandSpec } from '../../spec.ts';
import { breakAt, example, guest, limit, made, once, session, vcpu } from './options.ts';

/** What can be seen of a guest and its machine, and of the host’s KVM. */
export const lookCommands: readonly CommandSpec[] = [
  {
    path: 'vmm map',
    doc: 'draw a machine’s memory: code, tables, stack, kvm_run; with the registers at the start',
    arguments: [{ ...guest, optional: true }],
    options: made,
    examples: [
      example('map', 'long mode before the first instruction'),
      example('map guests/examples/hello.c --vcpus 2', 'two windows, each with its own tables'),
      example('map --mode protected --json', 'without tables, for programs'),
    ],
    load: async () => (await import('../../commands/vmm/map.ts')).vmmMap,
  },
  {
    path: 'vmm walk',
    doc: 'translate an address step by step, as the processor does',
    more: 'With a guest: after it ran, for it may have changed its tables.',
    arguments: [
      { name: 'address', doc: '0x400, or 1024' },
      { ...guest, optional: true },
    ],
    options: [...made, vcpu('whose tables (0)'), limit],
    examples: [
      example('walk 0x400', 'three levels, one page of 2 MiB'),
      example('walk 0x200000', 'where it ends'),
      example('walk 0x400 --vcpus 2 --vcpu 1', 'same address, other memory'),
    ],
    load: async () => (await import('../../commands/vmm/walk.ts')).vmmWalk,
  },
  {
    path: 'vmm debug',
    doc: 'a prompt: step, continue, breakpoints, registers, memory, page walks',
    more: 'Ctrl-C pauses a guest that runs; help lists the commands. Lines may also come from a file or a pipe.',
    arguments: [guest],
    options: session,
    examples: [
      example('debug guests/examples/hello.c', 'then: break main, continue, step 5, regs'),
      example('debug guests/examples/hello.c --vcpus 2', 'vcpu 1 switches to the other one'),
    ],
    load: async () => (await import('../../commands/vmm/debug.ts')).vmmDebug,
  },
  {
    path: 'vmm inspect',
    doc: 'one page about a guest: memory, kvm_run, map, page tables, start, ports and exits, what it wrote',
    more: 'The questions a.1 to a.7 of the assignment, answered by the machine: before its first instruction, and after its run. Without --share the guest runs a second time, one instruction at a time, to find who wrote.',
    arguments: [guest],
    options: [...made, ...once],
    examples: [
      example('inspect guests/examples/hello.c', 'in long mode'),
      example('inspect guests/examples/hello.c --mode protected', 'without page tables'),
      example('inspect guests/examples/hello.c --json', 'for programs'),
    ],
    load: async () => (await import('../../commands/vmm/inspect.ts')).vmmInspect,
  },
  {
    path: 'vmm serve',
    doc: 'a guest under inspection, for a page or a program: snapshot, events, commands over HTTP and WebSocket',
    more: 'On the loopback only, and never without a token. It ends by a command, when nobody was there for a while, or when its time is over; the guest ends with it. docs/hypervisor.md describes the messages.',
    arguments: [guest],
    options: [
      ...session,
      { flags: '--listen <address>', doc: 'where (127.0.0.1:0: any free port)' },
      {
        flags: '--token <token>',
        doc: 'this one instead of a random one, which is printed; everybody on this host sees it in the list of processes: put it into CARREL_VMM_TOKEN instead',
      },
      { flags: '--origin <url>', doc: 'a page that may ask, as http://127.0.0.1:7070', many: true },
      { flags: '--idle <time>', doc: 'end when nobody was there for so long (10m)' },
      { flags: '--lifetime <time>', doc: 'end after this in any case (8h)' },
    ],
    examples: [
      example('serve guests/examples/hello.c', 'prints its address and token'),
      example('serve guests/examples/hello.c --origin http://127.0.0.1:7070', 'for a page there'),
    ],
    load: async () => (await import('../../commands/vmm/serve.ts')).vmmServe,
  },
  {
    path: 'vmm dump',
    doc: 'show a guest’s memory after its run, or before, as hexdump -C does',
    more: 'The address is linear, as the guest sees it, unless --physical is given.',
    arguments: [
      guest,
      { name: 'address', doc: '0x400, 1024, or a symbol' },
      { name: 'length', doc: 'bytes (256)', optional: true },
    ],
    options: [
      ...made,
      vcpu('whose memory (0)'),
      { flags: '--before', doc: 'before the first instruction' },
      { flags: '--physical', doc: 'the address is guest-physical' },
      { flags: '--out <file>', doc: 'the bytes as they are, into a new file', complete: 'file' },
      breakAt('run only as far as this'),
      ...once,
    ],
    examples: [
      example('dump guests/examples/hello.c 0x400 8', 'the 42'),
      example('dump guests/examples/hello.c main 64 --before', 'the code'),
      example('dump guests/examples/hello.c 0x2000 0x3000 --physical', 'the page tables'),
    ],
    load: async () => (await import('../../commands/vmm/dump.ts')).vmmDump,
  },
  {
    path: 'vmm probe',
    doc: 'what this host’s KVM can do, which modes run, and what becomes of a vmcall',
    examples: [example('probe', 'version, modes, capabilities')],
    load: async () => (await import('../../commands/vmm/probe.ts')).vmmProbe,
  },
];
