import type { CommandSpec } from '../spec.ts';
import { consoleOptions, machine } from './options.ts';

/** Ports into machines, scripts in them, and the records behind the OS-Cloud routes. */
export const reachCommands: readonly CommandSpec[] = [
  {
    path: 'console',
    doc: 'the machine’s console, here or as a port for telnet; Ctrl-] leaves',
    more: 'With --telnet the port is served by this command, until Ctrl-C, to programs of this host only. Any number of\nclients see the same; who types takes the keyboard over.',
    arguments: [machine],
    options: [
      { flags: '--telnet <address>', doc: 'serve it there, for example 127.0.0.1:10002' },
      ...consoleOptions,
    ],
    remote: true,
    examples: [
      { line: 'carrel console my-vm', doc: 'Ctrl-] leaves, the machine goes on' },
      {
        line: 'carrel console my-vm --telnet 127.0.0.1:10002',
        doc: 'then, elsewhere: telnet localhost 10002',
      },
    ],
    load: async () => (await import('../commands/console.ts')).console,
  },
  {
    path: 'forward add',
    doc: 'forward a port of the cloud’s host to a port of a machine',
    arguments: [machine, { name: 'ports', doc: '[ADDRESS:]PORT:MACHINE-PORT' }],
    remote: true,
    byDefault: true,
    examples: [
      { line: 'carrel forward web 8080:80', doc: 'then: curl http://127.0.0.1:8080' },
      { line: 'carrel forward add web 0.0.0.0:8080:80', doc: 'for everybody (administrators)' },
    ],
    load: async () => (await import('../commands/forward.ts')).forwardAdd,
  },
  {
    path: 'forward ls',
    doc: 'list port forwards',
    arguments: [{ ...machine, optional: true }],
    remote: true,
    examples: [{ line: 'carrel forward ls', doc: 'of all machines that you can see' }],
    load: async () => (await import('../commands/forward.ts')).forwardList,
  },
  {
    path: 'forward rm',
    doc: 'end port forwards and their connections',
    arguments: [machine, { name: 'forwards', doc: 'ports of the host, or ids (f-...)', many: true }],
    remote: true,
    examples: [{ line: 'carrel forward rm web 8080', doc: 'the port is free again' }],
    load: async () => (await import('../commands/forward.ts')).forwardRemove,
  },
  {
    path: 'script run',
    doc: 'run the lines of a file inside a machine, one after the other',
    more: 'Each line is given to a shell of its own. One that fails, or takes too long, stops nothing. Empty lines and\nthose that begin with # are left out. Exit code 1 if a line did not end with status 0.',
    arguments: [machine, { name: 'file', doc: 'here; - for standard input', complete: 'file' }],
    options: [
      { flags: '--limit <time>', doc: 'how long one line may take (60s)' },
      { flags: '--no-wait', doc: 'return at once; it goes on' },
    ],
    remote: true,
    examples: [{ line: 'carrel script run web setup.txt', doc: 'status, output and time of each line' }],
    load: async () => (await import('../commands/script.ts')).scriptRun,
  },
  {
    path: 'script ls',
    doc: 'list the scripts that were run in a machine, the latest first',
    arguments: [machine],
    remote: true,
    examples: [{ line: 'carrel script ls web', doc: 'the starter script is the last one' }],
    load: async () => (await import('../commands/script.ts')).scriptList,
  },
  {
    path: 'script show',
    doc: 'what came of each line',
    arguments: [machine, { name: 'script', doc: 'its id (sc-...); the latest unless given', optional: true }],
    remote: true,
    examples: [{ line: 'carrel script show web', doc: 'of the latest script' }],
    load: async () => (await import('../commands/script.ts')).scriptShow,
  },
  {
    path: 'oscloud tables',
    doc: 'the records behind the OS-Cloud routes, as the lab’s tables vm, disk and network',
    arguments: [{ name: 'table', doc: 'vm, disk or network', optional: true }],
    remote: true,
    examples: [
      { line: 'carrel oscloud tables', doc: 'all three' },
      { line: 'carrel oscloud tables vm', doc: 'select * from vm' },
    ],
    load: async () => (await import('../commands/oscloud.ts')).osCloudTables,
  },
];
