import type { CommandSpec } from '../spec.ts';

const data = {
  flags: '--data <dir>',
  doc: 'where everything is kept (CARREL_DATA; /var/lib/carrel)',
  complete: 'directory',
} as const;

/** The cloud of this host, signing in, accounts and tokens. */
export const cloudCommands: readonly CommandSpec[] = [
  {
    path: 'up',
    doc: 'start the cloud of this host',
    more: 'It runs until Ctrl-C; with --detach it goes on by itself until `carrel down`. Machines that are running\nwhen it ends with Ctrl-C go on, and the next `carrel up` takes them over again.',
    options: [
      {
        flags: '--demo',
        doc: 'make a demo course, hand in to two labs as six students, and show the marks',
      },
      data,
      { flags: '--listen <address>', doc: 'where to serve (127.0.0.1:7070)' },
      { flags: '--detach', doc: 'leave it running and return once it is ready' },
      { flags: '--no-uplink', doc: 'machines get no way out of this host' },
      { flags: '--oscloud <address>', doc: 'serve the OS-Cloud routes too, for example at 127.0.0.1:5000' },
      { flags: '--oscloud-open', doc: 'they ask for no token; on the loopback only' },
    ],
    examples: [
      { line: 'carrel up --demo', doc: 'see it work' },
      { line: 'carrel up --detach', doc: 'an empty cloud, in the background' },
      {
        line: 'carrel up --listen 0.0.0.0:7070 --data /srv/carrel',
        doc: 'for a class, with its data elsewhere',
      },
      {
        line: 'carrel up --oscloud 127.0.0.1:5000 --oscloud-open',
        doc: 'the OS-Cloud lab: curl localhost:5000/vm_list',
      },
    ],
    load: async () => (await import('../commands/up.ts')).up,
  },
  {
    path: 'down',
    doc: 'stop the cloud of this host, its machines included',
    options: [
      data,
      { flags: '--grace <time>', doc: 'how long machines may take to stop in order (5s; 0 pulls the plug)' },
    ],
    examples: [
      { line: 'carrel down', doc: 'stop everything; nothing is left running' },
      { line: 'carrel down --grace 0', doc: 'at once' },
    ],
    load: async () => (await import('../commands/down.ts')).down,
  },
  {
    path: 'status',
    doc: 'what is running, what it uses, and where',
    options: [data],
    examples: [
      { line: 'carrel status', doc: 'address, processes, memory, machines, jobs' },
      { line: 'carrel status --json', doc: 'the same for a program' },
    ],
    load: async () => (await import('../commands/status.ts')).status,
  },
  {
    path: 'doctor',
    doc: 'what this host offers, and what follows from it',
    more: 'Every finding is ok, degraded (works, with a loss that is named) or missing. It tries things out in child\nprocesses and takes everything away again. Exit code 0 if nothing that Carrel needs is missing, else 1.',
    options: [
      { flags: '--fix', doc: 'install what is missing (as root)' },
      { flags: '--all', doc: 'the consequence of each finding, also where all is well' },
      data,
    ],
    examples: [
      { line: 'carrel doctor', doc: 'look' },
      { line: 'carrel doctor --fix', doc: 'install the missing packages, then look again' },
      { line: 'carrel doctor --json', doc: 'findings for a program' },
    ],
    load: async () => (await import('../commands/doctor.ts')).doctor,
  },
  {
    path: 'test',
    doc: 'run the tests; the last line counts them',
    arguments: [
      { name: 'paths', doc: 'only test files whose path contains one of these', optional: true, many: true },
    ],
    options: [
      { flags: '--only-unit', doc: 'leave out the end-to-end tests' },
      { flags: '--jobs <n>', doc: 'test files at a time (2)' },
    ],
    examples: [
      { line: 'carrel test', doc: 'all of them' },
      { line: 'carrel test src/store --only-unit', doc: 'those of one floor' },
    ],
    load: async () => (await import('../commands/test.ts')).test,
  },
  {
    path: 'worker',
    doc: 'run one more worker for the jobs of this host’s cloud',
    options: [data],
    examples: [{ line: 'carrel worker', doc: 'until Ctrl-C' }],
    load: async () => (await import('../commands/worker.ts')).worker,
  },
  {
    path: 'login',
    doc: 'save an address and a token for the commands that follow',
    arguments: [{ name: 'url', doc: 'address of the cloud' }],
    options: [{ flags: '--token <token>', doc: 'your token; read from standard input unless given' }],
    examples: [
      { line: 'carrel login http://127.0.0.1:7070', doc: 'asks for the token' },
      { line: 'carrel login cloud.example.org:7070 --token s3cret', doc: 'in a script' },
    ],
    load: async () => (await import('../commands/login.ts')).login,
  },
  {
    path: 'logout',
    doc: 'forget the saved address and token',
    examples: [{ line: 'carrel logout', doc: 'the token itself stays valid: carrel token revoke' }],
    load: async () => (await import('../commands/login.ts')).logout,
  },
  {
    path: 'whoami',
    doc: 'which account, in which cloud',
    remote: true,
    examples: [{ line: 'carrel whoami', doc: 'name and address' }],
    load: async () => (await import('../commands/login.ts')).whoami,
  },
  {
    path: 'user add',
    doc: 'make accounts',
    arguments: [{ name: 'names', doc: 'a-z, 0-9 and dashes', many: true }],
    options: [
      { flags: '--admin', doc: 'may administer the cloud' },
      { flags: '--token', doc: 'make a token for each and print it, once' },
    ],
    remote: true,
    examples: [
      { line: 'carrel user add ada --token', doc: 'an account and its token' },
      { line: 'carrel user add root2 --admin', doc: 'a second administrator' },
    ],
    load: async () => (await import('../commands/users.ts')).userAdd,
  },
  {
    path: 'user ls',
    doc: 'list accounts',
    remote: true,
    examples: [{ line: 'carrel user ls', doc: 'all of them' }],
    load: async () => (await import('../commands/users.ts')).userList,
  },
  {
    path: 'user disable',
    doc: 'close an account: its tokens end, its work stays',
    arguments: [{ name: 'user', doc: 'name or id' }],
    remote: true,
    examples: [{ line: 'carrel user disable ada', doc: 'close it' }],
    load: async () => (await import('../commands/users.ts')).userDisable,
  },
  {
    path: 'token new',
    doc: 'make a token and print it, once',
    options: [
      { flags: '--user <name>', doc: 'for this account (administrators)' },
      { flags: '--label <text>', doc: 'what it is for' },
      { flags: '--days <n>', doc: 'how long it is valid (180; 0 for ever)' },
    ],
    remote: true,
    examples: [
      { line: 'carrel token new --label laptop', doc: 'for yourself' },
      { line: 'carrel token new --user ada --days 120', doc: 'for a student, one term' },
    ],
    load: async () => (await import('../commands/users.ts')).tokenNew,
  },
  {
    path: 'token ls',
    doc: 'list your tokens',
    remote: true,
    examples: [{ line: 'carrel token ls', doc: 'when made, until when, last used' }],
    load: async () => (await import('../commands/users.ts')).tokenList,
  },
  {
    path: 'token revoke',
    doc: 'end a token',
    arguments: [{ name: 'token', doc: 'its id (t-...)' }],
    remote: true,
    examples: [{ line: 'carrel token revoke t-0123456789ab', doc: 'it stops working at once' }],
    load: async () => (await import('../commands/users.ts')).tokenRevoke,
  },
];
