import type { CommandSpec } from '../spec.ts';

const guest = {
  name: 'guest',
  doc: 'C (.c), assembly (.s, .S), an ELF program, or machine code (.bin, .img)',
  complete: 'file',
} as const;
const mode = {
  flags: '-m, --mode <mode>',
  doc: 'real, protected (without paging), paged (32 bits) or long; long unless given',
  choices: ['real', 'protected', 'paged', 'long'],
} as const;
const vcpus = { flags: '--vcpus <n>', doc: 'so many, each with a memory of its own (1)' } as const;
const limit = { flags: '--limit <time>', doc: 'end the guest after this (5s)' } as const;
const share = {
  flags: '--share <dir>',
  doc: 'the guest may open files below this directory',
  complete: 'directory',
} as const;
const disk = {
  flags: '--disk <image>',
  doc: 'a raw image as a virtio disk, for a guest with one vCPU (guests/virtio.h)',
  complete: 'file',
} as const;
const ports = {
  flags: '--ports <map>',
  doc: 'which port means what (carrel)',
  choices: ['carrel', 'academy-dt', 'bergeramit', 'cs695'],
} as const;

/** The hypervisor: no cloud needed. */
export const vmmCommands: readonly CommandSpec[] = [
  {
    path: 'vmm run',
    doc: 'run a guest on /dev/kvm',
    more: 'What the guest prints goes to standard output, how it ended to standard error. Guests in C are compiled with the kit in guests/: its carrel.h has print, exits, open, read, write and close. Exit code 1 if a vCPU neither halted nor met a breakpoint. A breakpoint is found by the processor’s debug registers, or, where this host’s KVM does not have them (vmm probe tells), by single steps, which take thousands of times longer: raise --limit then.',
    arguments: [guest],
    options: [
      mode,
      vcpus,
      share,
      disk,
      limit,
      ports,
      { flags: '--trace', doc: 'every exit, with time, port and data' },
      { flags: '--break <place>', doc: 'stop before the instruction at an address or symbol', many: true },
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
      { line: 'carrel vmm run guests/examples/hello.c', doc: 'fourteen bytes, fourteen exits' },
      { line: 'carrel vmm run guests/examples/hello.c --vcpus 2', doc: 'lines labelled by vCPU' },
      { line: 'carrel vmm run guests/examples/files.c --share /tmp/share', doc: 'with files' },
      { line: 'carrel vmm run guests/examples/virtio-blk.c --disk disk.img', doc: 'with a disk' },
      { line: 'carrel vmm run guests/faults/beyond.c', doc: 'what a fault looks like' },
      { line: 'carrel vmm run guests/examples/vmcall.c --vmcall model', doc: 'ports and vmcall compared' },
      { line: 'carrel vmm run guests/examples/survive.c', doc: 'faults that the guest handles itself' },
      { line: 'carrel vmm run guests/examples/hello.c --break main --registers', doc: 'as far as main' },
      { line: 'carrel vmm run guests/examples/hello.c --watch 0x400', doc: 'who writes the 42?' },
      { line: 'carrel vmm run guests/examples/hello.c --dirty', doc: 'pages written, as a map' },
      { line: 'carrel vmm run guests/examples/hello.c --trace --dump 0x400:4', doc: 'exits one by one' },
    ],
    load: async () => (await import('../commands/vmm/run.ts')).vmmRun,
  },
  {
    path: 'vmm hello',
    doc: 'run the smallest guest in every mode, and check its answer',
    options: [{ ...mode, doc: 'only this one' }],
    examples: [
      { line: 'carrel vmm hello', doc: 'real, protected, 32-bit paging, long' },
      { line: 'carrel vmm hello --mode long --json', doc: 'one of them, for programs' },
    ],
    load: async () => (await import('../commands/vmm/hello.ts')).vmmHello,
  },
  {
    path: 'vmm map',
    doc: 'draw a machine’s memory: code, tables, stack, kvm_run; with the registers at the start',
    arguments: [{ ...guest, optional: true }],
    options: [mode, vcpus],
    examples: [
      { line: 'carrel vmm map', doc: 'long mode before the first instruction' },
      { line: 'carrel vmm map guests/examples/hello.c --vcpus 2', doc: 'two windows, side by side' },
      { line: 'carrel vmm map --mode protected --json', doc: 'without tables, for programs' },
    ],
    load: async () => (await import('../commands/vmm/map.ts')).vmmMap,
  },
  {
    path: 'vmm walk',
    doc: 'translate an address step by step, as the processor does',
    more: 'With a guest: after it ran, for it may have changed its tables.',
    arguments: [
      { name: 'address', doc: '0x400, or 1024' },
      { ...guest, optional: true },
    ],
    options: [mode, { flags: '--vcpu <n>', doc: 'whose tables (0)' }, vcpus, limit],
    examples: [
      { line: 'carrel vmm walk 0x400', doc: 'three levels, one page of 2 MiB' },
      { line: 'carrel vmm walk 0x200000', doc: 'where it ends' },
      { line: 'carrel vmm walk 0x400 --vcpus 2 --vcpu 1', doc: 'same address, other memory' },
    ],
    load: async () => (await import('../commands/vmm/walk.ts')).vmmWalk,
  },
  {
    path: 'vmm step',
    doc: 'run a guest one instruction at a time',
    arguments: [guest],
    options: [
      mode,
      { flags: '--count <n>', doc: 'so many instructions (20, at most 10000)' },
      share,
      limit,
      ports,
    ],
    examples: [
      { line: 'carrel vmm step guests/examples/real.S --mode real', doc: 'three instructions' },
      { line: 'carrel vmm step guests/examples/hello.c --count 40', doc: 'with what each changed' },
    ],
    load: async () => (await import('../commands/vmm/step.ts')).vmmStep,
  },
  {
    path: 'vmm debug',
    doc: 'a prompt: step, continue, breakpoints, registers, memory, page walks',
    more: 'Ctrl-C pauses a guest that runs; help lists the commands. Lines may also come from a file or a pipe.',
    arguments: [guest],
    options: [
      mode,
      vcpus,
      share,
      disk,
      { ...limit, doc: 'pause the guest when it ran so long at a time (60s)' },
      ports,
    ],
    examples: [
      { line: 'carrel vmm debug guests/examples/hello.c', doc: 'then: break main, continue, step 5, regs' },
      { line: 'carrel vmm debug guests/examples/hello.c --vcpus 2', doc: 'vcpu 1 switches to the other one' },
    ],
    load: async () => (await import('../commands/vmm/debug.ts')).vmmDebug,
  },
  {
    path: 'vmm inspect',
    doc: 'one page about a guest: memory, kvm_run, map, page tables, start, ports and exits, what it wrote',
    more: 'The questions a.1 to a.7 of the assignment, answered by the machine: before its first instruction, and after its run. Without --share the guest runs a second time, one instruction at a time, to find who wrote.',
    arguments: [guest],
    options: [mode, vcpus, share, limit, ports],
    examples: [
      { line: 'carrel vmm inspect guests/examples/hello.c', doc: 'in long mode' },
      { line: 'carrel vmm inspect guests/examples/hello.c --mode protected', doc: 'without page tables' },
      { line: 'carrel vmm inspect guests/examples/hello.c --json', doc: 'for programs' },
    ],
    load: async () => (await import('../commands/vmm/inspect.ts')).vmmInspect,
  },
  {
    path: 'vmm serve',
    doc: 'a guest under inspection, for a page or a program: snapshot, events, commands over HTTP and WebSocket',
    more: 'On the loopback only, and never without a token. It ends by a command, when nobody was there for a while, or when its time is over; the guest ends with it. docs/hypervisor.md describes the messages.',
    arguments: [guest],
    options: [
      mode,
      vcpus,
      share,
      disk,
      { flags: '--listen <address>', doc: 'where (127.0.0.1:0: any free port)' },
      {
        flags: '--token <token>',
        doc: 'this one instead of a random one, which is printed (CARREL_VMM_TOKEN)',
      },
      { flags: '--origin <url>', doc: 'a page that may ask, as http://127.0.0.1:7070', many: true },
      { flags: '--idle <time>', doc: 'end when nobody was there for so long (10m)' },
      { flags: '--lifetime <time>', doc: 'end after this in any case (8h)' },
      { ...limit, doc: 'pause the guest when it ran so long at a time (60s)' },
      ports,
    ],
    examples: [
      { line: 'carrel vmm serve guests/examples/hello.c', doc: 'prints its address and token' },
      {
        line: 'carrel vmm serve guests/examples/hello.c --origin http://127.0.0.1:7070',
        doc: 'for a page there',
      },
    ],
    load: async () => (await import('../commands/vmm/serve.ts')).vmmServe,
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
      mode,
      { flags: '--before', doc: 'before the first instruction' },
      { flags: '--physical', doc: 'the address is guest-physical' },
      { flags: '--out <file>', doc: 'the bytes as they are, into a new file', complete: 'file' },
      { flags: '--break <place>', doc: 'run only as far as this', many: true },
      { flags: '--vcpu <n>', doc: 'whose memory (0)' },
      vcpus,
      share,
      limit,
      ports,
    ],
    examples: [
      { line: 'carrel vmm dump guests/examples/hello.c 0x400 8', doc: 'the 42' },
      { line: 'carrel vmm dump guests/examples/hello.c main 64 --before', doc: 'the code' },
      { line: 'carrel vmm dump guests/examples/hello.c 0x2000 0x3000 --physical', doc: 'the page tables' },
    ],
    load: async () => (await import('../commands/vmm/dump.ts')).vmmDump,
  },
  {
    path: 'vmm schedule',
    doc: 'run several machines on one core of the host, and draw who had it when',
    more: 'Each guest is a virtual machine of its own; all share one thread, bound to one processor. io: a machine gives the core away at every I/O exit. timer: a tick takes it away. weights: at each tick the machine goes on that has had the least CPU time for its weight. Shares are measured, as CPU time. The limit is a good end here; exit code 1 if a machine faults.',
    arguments: [
      { name: 'guests', doc: 'two or more (up to 8), each as for vmm run', many: true, complete: 'file' },
    ],
    options: [
      { flags: '--policy <name>', doc: 'io, timer or weights (timer)', choices: ['io', 'timer', 'weights'] },
      { flags: '--weights <list>', doc: 'one for each guest: 70:30' },
      { flags: '--slice <time>', doc: 'time between ticks (10ms, at least 1ms)' },
      { flags: '--limit <time>', doc: 'end all of it after this (1s)' },
      {
        flags: '--counter <place>',
        doc: 'show the 32-bit word at this address (or name) of each guest’s memory: its progress',
      },
      { flags: '--slices <n>', doc: 'list the first slices one by one' },
      mode,
      share,
    ],
    examples: [
      {
        line: 'carrel vmm schedule guests/examples/chat.c guests/examples/chat.c --policy io --slices 12',
        doc: 'word by word',
      },
      {
        line: 'carrel vmm schedule guests/examples/count.c guests/examples/count.c --counter 0x400',
        doc: 'half each',
      },
      {
        line: 'carrel vmm schedule guests/examples/count.c guests/examples/count.c --policy weights --weights 70:30 --counter 0x400',
        doc: '70 to 30',
      },
    ],
    load: async () => (await import('../commands/vmm/schedule.ts')).vmmSchedule,
  },
  {
    path: 'vmm linux',
    doc: 'boot a Linux kernel on /dev/kvm, with our terminal as its serial console',
    more: 'Ctrl-] ends the machine. With commands (--starter, --command) they are typed at the first prompt of the guest’s shell, one after the other, each with its own status and time limit; then the machine ends. The options of the rust-vmm reference VMM are understood as well: --kernel path=S[,cmdline=S][,kernel_load_addr=N][,starter_file=S], --memory size_mib=N, --vcpu num=N, --block path=S, --net tap=S. The guest ends its machine by a reset (reboot -f), or by a byte to port 0xf4. Exit code 1 if a command failed or the machine could not go on. Where KVM emulates, Linux cannot run programs: carrel vmm probe says so.',
    options: [
      { flags: '--kernel <file>', doc: 'a bzImage or an ELF kernel (vmlinux)', complete: 'file' },
      { flags: '--initrd <file>', doc: 'its initramfs', complete: 'file' },
      {
        flags: '--cmdline <text>',
        doc: 'kernel command line (console=ttyS0 i8042.nokbd reboot=t panic=1 pci=off)',
      },
      { flags: '--load-address <address>', doc: 'where a relocatable bzImage goes (0x100000)' },
      { flags: '--mem <size>', doc: 'memory (256M)' },
      { flags: '--memory <size_mib=n>', doc: 'the same, as the reference VMM has it' },
      { flags: '--vcpus <n>', doc: 'processors (1)' },
      { flags: '--vcpu <num=n>', doc: 'the same, as the reference VMM has it' },
      {
        flags: '--disk <file>',
        doc: 'a raw disk: /dev/vda, and the root if there is no initramfs',
        many: true,
        complete: 'file',
      },
      { flags: '--block <path=file>', doc: 'the same, as the reference VMM has it', many: true },
      { flags: '--read-only', doc: 'disks cannot be written to' },
      { flags: '--tap <name>', doc: 'a network card at this TAP device of the host: eth0' },
      { flags: '--net <tap=name>', doc: 'the same, as the reference VMM has it' },
      { flags: '--starter <file>', doc: 'commands for the guest’s shell, a line each', complete: 'file' },
      { flags: '--command <line>', doc: 'one such command', many: true },
      { flags: '--boot-limit <time>', doc: 'for the first prompt (5m)' },
      { flags: '--command-limit <time>', doc: 'for each command (1m)' },
      { flags: '--keep', doc: 'go on after the commands, until the guest ends' },
      { flags: '--limit <time>', doc: 'end the machine after this (none)' },
      { flags: '--escape <key>', doc: 'key that ends the machine (^]), or none' },
    ],
    examples: [
      { line: 'carrel vmm linux --kernel vmlinux --initrd initrd', doc: 'our terminal is its console' },
      {
        line: 'carrel vmm linux --kernel bzImage --initrd initrd --vcpus 2 --mem 512M --command nproc',
        doc: 'runs one command in it',
      },
      {
        line: 'carrel vmm linux --kernel bzImage --disk root.img --tap vmtap0',
        doc: 'from a disk, with a network card',
      },
      {
        line: 'carrel vmm linux --kernel path=bzImage,starter_file=start --memory size_mib=512 --vcpu num=2',
        doc: 'as the reference VMM is called',
      },
    ],
    load: async () => (await import('../commands/vmm/linux.ts')).vmmLinux,
  },
  {
    path: 'vmm probe',
    doc: 'what this host’s KVM can do, which modes run, and what becomes of a vmcall',
    examples: [{ line: 'carrel vmm probe', doc: 'version, modes, capabilities' }],
    load: async () => (await import('../commands/vmm/probe.ts')).vmmProbe,
  },
];
