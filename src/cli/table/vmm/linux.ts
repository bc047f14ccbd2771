import type { CommandSpec } from '../../spec.ts';
import { example } from './options.ts';

/** A whole system in a machine of our own. */
export const linuxCommands: readonly CommandSpec[] = [
  {
    path: 'vmm linux',
    doc: 'boot a Linux kernel on /dev/kvm, with our terminal as its console',
    more: 'Ctrl-] ends the machine. With commands (--starter, --command) they are typed at the first prompt of the guest’s shell, one after the other, each with its own status and time limit; then the machine ends. The options of the rust-vmm reference VMM are understood as well: --kernel path=S[,cmdline=S][,kernel_load_addr=N][,starter_file=S], --memory size_mib=N, --vcpu num=N, --block path=S, --net tap=S. The guest ends its machine by a reset (reboot -f), or by a byte to port 0xf4. Exit code 1 if a command failed or the machine could not go on. Where KVM emulates, Linux cannot run programs: carrel vmm probe says so.',
    options: [
      { flags: '--kernel <file>', doc: 'a bzImage or an ELF kernel (vmlinux)', complete: 'file' },
      { flags: '--initrd <file>', doc: 'its initramfs', complete: 'file' },
      {
        flags: '--cmdline <text>',
        doc: 'kernel command line (console=ttyS0 i8042.nokbd reboot=t panic=1 pci=off; with --console virtio, console=hvc0)',
      },
      {
        flags: '--console <kind>',
        doc: 'where the guest finds our terminal (serial): serial is ttyS0, virtio is hvc0',
        choices: ['serial', 'virtio'],
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
      { flags: '--tap <name>', doc: 'a network card at this TAP device, which is there already: eth0' },
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
      example('linux --kernel vmlinux --initrd initrd', 'our terminal is its console'),
      example(
        'linux --kernel bzImage --initrd initrd --vcpus 2 --mem 512M --command nproc',
        'runs one command in it',
      ),
      example('linux --kernel bzImage --initrd initrd --console virtio', 'our terminal is hvc0'),
      example('linux --kernel bzImage --disk root.img --tap vmtap0', 'from a disk, with a network card'),
      example(
        'linux --kernel path=bzImage,starter_file=start --memory size_mib=512 --vcpu num=2',
        'as the reference VMM is called',
      ),
    ],
    load: async () => (await import('../../commands/vmm/linux.ts')).vmmLinux,
  },
];
