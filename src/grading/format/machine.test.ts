/** The machine of a lab, and what can be observed of which kind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { complaint, parse } from './testing.ts';

const lab = (machine: string, checks: readonly string[], more = ''): string => `title: A lab
name: a-lab
image: tiny
run: machine
${machine === '' ? '' : `machine: ${machine}\n`}points: 10
submit: { files: [{ pattern: '*.sh' }] }
${more}checks:
${checks.map((what, index) => `  - { id: c${index}, title: T, ${what} }\n`).join('')}`;

const listen = 'observe: { listen: { port: 80 } }';
const file = 'observe: { file: { path: /etc/motd, contains: x } }';
const console_ = 'observe: { console: { contains: x } }';
const ping = 'observe: { ping: {} }';

test('a lab’s machine is a container unless it says otherwise, of the size of other machines', () => {
  assert.deepEqual(parse(lab('', [listen])).machine, { driver: 'container', limits: {}, ready: 0 });
  assert.deepEqual(parse(lab('{ driver: qemu }', [listen])).machine, {
    driver: 'qemu',
    limits: {},
    ready: 1,
  });
  assert.deepEqual(
    parse(lab('{ driver: qemu, cpus: 2, memory: 256M, disk: 4G, ready: 3 }', [listen])).machine,
    {
      driver: 'qemu',
      limits: { cpus: 2, memoryBytes: 256 * 2 ** 20, diskBytes: 4 * 2 ** 30 },
      ready: 3,
    },
  );
});

test('what a machine cannot be is refused with its field and line', () => {
  const of = (machine: string): string => complaint(lab(machine, [listen]));
  assert.match(of('{ driver: vmware }'), /lab\.yaml:5: machine\.driver/);
  assert.match(of('{ driver: qemu, memory: 32M }'), /machine\.memory is too small: .* needs 64M/);
  assert.match(of('{ driver: qemu, memory: 64G }'), /machine\.memory is more than 16 GiB/);
  assert.match(of('{ driver: qemu, disk: 1G }'), /machine\.disk is too small/);
  assert.match(of('{ driver: qemu, cpus: 17 }'), /machine\.cpus/);
  assert.match(of('{ driver: qemu, ready: 9 }'), /machine\.ready/);
  assert.match(of('{ ready: 1 }'), /machine\.ready is for virtual machines/);
  assert.match(of('{ driver: qemu, bios: old }'), /machine\.bios is no field/);
  const sandbox = lab('{ driver: qemu }', ['run: { argv: [echo], expect: { status: 0 } }']);
  assert.match(
    complaint(sandbox.replace('run: machine', 'run: sandbox')),
    /machine describes a machine, but run says sandbox/,
  );
});

test('what only the kernel in a virtual machine knows is no observation of it', () => {
  for (const what of [
    'process: { own: [pid] }',
    'process: { hostname: x }',
    'interface: { name: eth0 }',
    'mounts: { path: /mnt }',
  ]) {
    assert.match(
      complaint(lab('{ driver: qemu }', [`observe: { ${what} }`])),
      /lab\.yaml:9: checks\[0\]\.observe\.\w+ is known to the kernel in the virtual machine only/,
    );
    assert.equal(complaint(lab('', [`observe: { ${what} }`])), 'no complaint');
  }
  for (const what of [
    'run: { argv: [id], expect: { status: 0 } }',
    'call: { language: python, file: a.py, function: f, returns: 1 }',
  ])
    assert.match(complaint(lab('{ driver: qemu }', [what])), /its root could have forged/);
  assert.match(
    complaint(lab('{ driver: qemu }', [listen], 'build: { argv: [make], keep: [a] }\n')),
    /build needs a sandbox/,
  );
  for (const what of [listen, ping, console_, file])
    assert.equal(complaint(lab('{ driver: qemu }', [what])), 'no complaint');
});

test('a ping goes to the machine itself, or to what a container has made', () => {
  const to = 'observe: { ping: { address: 10.0.0.1 } }';
  assert.equal(complaint(lab('', [to])), 'no complaint');
  assert.match(complaint(lab('', [ping])), /observe\.ping needs an address/);
  assert.match(complaint(lab('{ driver: qemu }', [to])), /leave address and from out/);
});

test('files of a virtual machine are read when it is off: so they come last, and a console is its own', () => {
  assert.match(
    complaint(lab('{ driver: qemu }', [file, listen])),
    /checks\[1\] looks at the machine while it runs, but check c0 has it switched off/,
  );
  assert.equal(complaint(lab('{ driver: qemu }', [listen, file, file])), 'no complaint');
  assert.equal(complaint(lab('', [file, listen])), 'no complaint');
  assert.match(complaint(lab('', [console_])), /a container has no serial line/);
});

test('only what boots can be restarted', () => {
  const start = 'start: [{ restart: 1m }]\n';
  assert.equal(complaint(lab('{ driver: qemu }', [listen], start)), 'no complaint');
  assert.match(complaint(lab('', [listen], start)), /start\[0\]\.restart is for virtual machines/);
});

test('a lab of guests gives its students a machine for them, and is graded in sandboxes', () => {
  const guests = lab('{ driver: micro, disk: 16M }', ['guest: { file: hello.c, expect: { end: halted } }']);
  const sandbox = guests.replace('run: machine', 'run: sandbox');
  assert.deepEqual(parse(sandbox).machine, {
    driver: 'micro',
    limits: { diskBytes: 16 * 2 ** 20 },
    ready: 0,
  });
  assert.match(complaint(guests), /machine\.driver is for guests, .* say run: sandbox/);
  assert.match(
    complaint(sandbox.replace('disk: 16M', 'ready: 1')),
    /machine\.ready is for virtual machines: a guest starts at once/,
  );
});
