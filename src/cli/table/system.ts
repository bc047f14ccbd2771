import { imageFormats } from '#contract/image-formats.ts';
import type { CommandSpec } from '../spec.ts';
import { guestModes } from './options.ts';

const image = { name: 'image', doc: 'name or id' } as const;
const job = { name: 'job', doc: 'its id (j-...)' } as const;

/** Images, jobs, events, and the local tools. */
export const systemCommands: readonly CommandSpec[] = [
  {
    path: 'image build',
    doc: 'build images from their recipes',
    arguments: [{ name: 'recipes', doc: 'busybox, debian-12, ...', many: true }],
    options: [{ flags: '--no-wait', doc: 'return at once' }],
    remote: true,
    examples: [
      { line: 'carrel image build busybox debian-12', doc: 'built once, then shared by all machines' },
    ],
    load: async () => (await import('../commands/images.ts')).imageBuild,
  },
  {
    path: 'image ls',
    doc: 'list images',
    remote: true,
    examples: [{ line: 'carrel image ls', doc: 'with size and state' }],
    load: async () => (await import('../commands/images.ts')).imageList,
  },
  {
    path: 'image show',
    doc: 'one image',
    arguments: [image],
    remote: true,
    examples: [{ line: 'carrel image show debian-12', doc: 'hash, size, files' }],
    load: async () => (await import('../commands/images.ts')).imageShow,
  },
  {
    path: 'image import',
    doc: 'import a root file system from an archive, a disk, or a guest of the hypervisor',
    more: 'A disk is received whole and written anew: one that lies on another file, is encrypted, or claims to hold more\nthan it may is refused. It boots by its own boot loader, is told who it is through cloud-init,\nand is used through its serial console and SSH. A guest in C or assembly is compiled here, with the kit in\nguests/; machines of the kind micro run it.',
    arguments: [
      { name: 'name', doc: 'what it is called here' },
      {
        name: 'file',
        doc: 'archive, disk or guest (.c, .s, .S, .elf): a file, an http(s) address, or - for standard input',
        complete: 'file',
      },
    ],
    options: [
      {
        flags: '--format <format>',
        doc: 'stated, never guessed (by the ending)',
        choices: imageFormats,
      },
      {
        flags: '--mode <mode>',
        doc: 'of a guest: real, protected, paged or long (long)',
        choices: guestModes,
      },
      { flags: '--sha256 <hex>', doc: 'what the file must be; verified before anything reads it' },
    ],
    remote: true,
    examples: [
      { line: 'carrel image import alpine rootfs.tar.gz', doc: 'the format is in the name' },
      { line: 'carrel image import lab-disk disk.img --format qcow2', doc: 'here it is not' },
      {
        line: 'carrel image import hello guests/examples/hello.c',
        doc: 'for: carrel machine new --driver micro',
      },
    ],
    load: async () => (await import('../commands/images.ts')).imageImport,
  },
  {
    path: 'image export',
    doc: 'write an image to a file: an archive, or a disk that stands alone',
    arguments: [
      image,
      {
        name: 'file',
        doc: 'where to; - for standard output; NAME.FORMAT unless given',
        optional: true,
        complete: 'file',
      },
    ],
    options: [
      {
        flags: '--format <format>',
        doc: 'tar, qcow2 for a disk, guest-long for a guest, unless given',
        choices: imageFormats,
      },
    ],
    remote: true,
    examples: [
      {
        line: 'carrel image export tiny',
        doc: 'tiny.qcow2; boot it: qemu-system-x86_64 -m 512 -hda tiny.qcow2 -nographic',
      },
      { line: 'carrel image export busybox - --format tar.gz', doc: 'to standard output' },
    ],
    load: async () => (await import('../commands/images.ts')).imageExport,
  },
  {
    path: 'image rm',
    doc: 'remove an image that no machine uses',
    arguments: [image],
    remote: true,
    examples: [{ line: 'carrel image rm alpine', doc: 'remove it' }],
    load: async () => (await import('../commands/images.ts')).imageRemove,
  },
  {
    path: 'job ls',
    doc: 'list jobs, newest first',
    options: [
      {
        flags: '--state <state>',
        doc: 'only these',
        choices: ['queued', 'running', 'done', 'failed', 'cancelled'],
      },
      { flags: '--kind <kind>', doc: 'of this kind' },
      { flags: '--parent <job>', doc: 'its children' },
      { flags: '--limit <n>', doc: 'at most so many (50)' },
    ],
    remote: true,
    examples: [{ line: 'carrel job ls --state failed', doc: 'what went wrong' }],
    load: async () => (await import('../commands/jobs.ts')).jobList,
  },
  {
    path: 'job show',
    doc: 'one job',
    arguments: [job],
    remote: true,
    examples: [{ line: 'carrel job show j-0123456789ab', doc: 'steps, progress, error' }],
    load: async () => (await import('../commands/jobs.ts')).jobShow,
  },
  {
    path: 'job wait',
    doc: 'wait until jobs have ended; exit code 1 if one failed',
    arguments: [{ ...job, name: 'jobs', many: true }],
    remote: true,
    examples: [{ line: 'carrel job wait j-0123456789ab', doc: 'with progress' }],
    load: async () => (await import('../commands/jobs.ts')).jobWait,
  },
  {
    path: 'job cancel',
    doc: 'ask a job to end',
    arguments: [job],
    remote: true,
    examples: [{ line: 'carrel job cancel j-0123456789ab', doc: 'it ends at its next step' }],
    load: async () => (await import('../commands/jobs.ts')).jobCancel,
  },
  {
    path: 'job log',
    doc: 'what a job said',
    arguments: [job],
    remote: true,
    examples: [{ line: 'carrel job log j-0123456789ab', doc: 'with times' }],
    load: async () => (await import('../commands/jobs.ts')).jobLog,
  },
  {
    path: 'events',
    doc: 'what happens, as it happens',
    options: [
      { flags: '--after <seq>', doc: 'from this sequence number on' },
      { flags: '--kind <kind>', doc: 'of this kind' },
      { flags: '--no-follow', doc: 'what is there, then end' },
    ],
    remote: true,
    examples: [
      { line: 'carrel events', doc: 'until Ctrl-C' },
      { line: 'carrel events --after 0 --no-follow --json', doc: 'all that are kept' },
    ],
    load: async () => (await import('../commands/events.ts')).events,
  },
  {
    path: 'isolate',
    doc: 'run a program alone: own processes, host name, network, root file system',
    more: 'Needs no cloud. Ends with the program’s exit status.',
    arguments: [{ name: 'program', doc: 'program and its arguments', many: true }],
    passThrough: true,
    examples: [
      { line: 'carrel isolate ps aux', doc: 'sees itself only' },
      { line: 'carrel isolate hostname', doc: 'isolated' },
    ],
    load: async () => (await import('../commands/isolate.ts')).isolate,
  },
  {
    path: 'completion',
    doc: 'print a completion script for your shell',
    arguments: [{ name: 'shell', doc: 'bash, zsh or fish' }],
    examples: [
      { line: 'carrel completion bash > /etc/bash_completion.d/carrel', doc: 'for everybody' },
      { line: 'carrel completion zsh > ~/.zfunc/_carrel', doc: 'zsh' },
      { line: 'carrel completion fish > ~/.config/fish/completions/carrel.fish', doc: 'fish' },
    ],
    load: async () => (await import('../commands/completion.ts')).completion,
  },
];
