/** Machines of images that are not ours: without the agent, or without a kernel beside the disk. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { consoleEnd } from './console.ts';
import { makeVmBed, skip } from './testing.ts';

const bootMs = 200_000;

/** In the guest: the label of the second disk (ECMA-119, 8.4), its first file, and what becomes of writing to it. */
const readCloudInit = `
import os
disk = open('/dev/vdb', 'rb').read()
print(disk[16 * 2048 + 40:16 * 2048 + 72].decode().strip())
print(disk[21 * 2048:22 * 2048].decode().strip(chr(0)).strip())
try:
  os.write(os.open('/dev/vdb', os.O_WRONLY | os.O_SYNC), bytes(512))
except OSError as error:
  print(os.strerror(error.errno))
`;

test('without an agent a command goes over the serial line, by somebody who logs in', { skip }, async () => {
  await using bed = await makeVmBed((disk) => ({ ...disk, agent: false }));
  const spec = bed.spec();
  await bed.driver.prepare(spec);
  const machine = await bed.driver.start(spec);
  await machine.ready({ limitMs: bootMs });
  const run = (...argv: string[]) => machine.run(runRequest.parse({ argv, cwd: '/' }));
  const reply = await run('sh', '-c', 'id -u; hostname; exit 3');
  assert.deepEqual(
    [Buffer.from(reply.stdout, 'base64').toString().replaceAll('\r', ''), reply.end],
    [`0\n${spec.name}\n`, { kind: 'exited', status: 3 }],
  );
  assert.deepEqual((await run('true')).end, { kind: 'exited', status: 0 });
  const read = await run('python3', '-c', readCloudInit);
  assert.deepEqual(Buffer.from(read.stdout, 'base64').toString().trim().split(/\r?\n/), [
    'cidata',
    JSON.stringify({ 'instance-id': spec.id, 'local-hostname': spec.name }),
    'Operation not permitted',
  ]);
  await assert.rejects(machine.readFile('/etc/hostname', { maxBytes: 100 }), (error) =>
    isCarrelError(error, 'driver_unsupported'),
  );
  await machine.stop({ graceMs: 0 });
  machine.release();
});

test(
  'without a kernel of its own the BIOS boots the disk, and a prompt on the console means ready',
  { skip },
  async () => {
    await using bed = await makeVmBed(({ virtualBytes }) => ({ virtualBytes, boot: null, agent: false }));
    const spec = bed.spec();
    await bed.driver.prepare(spec);
    const machine = await bed.driver.start(spec);
    await machine.ready({ limitMs: bootMs });
    assert.match(consoleEnd(spec.directory, 200), /login: ?$/);
    await machine.stop({ graceMs: 0 });
    assert.deepEqual((await machine.ended).end, { kind: 'exited', status: 0 });
    machine.release();
  },
);
