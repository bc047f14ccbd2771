/** The C side under the address and undefined-behaviour sanitizers: plans good and bad, and a set of runs. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { connect } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { encodeFrame } from './frames.ts';
import { op, type Operation } from './plan.ts';
import { openSandboxes } from './sandbox.ts';
import { makeBed, skip } from './testing.ts';

const native = fileURLToPath(new URL('../native', import.meta.url));
const sanitized = fileURLToPath(new URL('../../build/isolate-asan', import.meta.url));

test('sanitized: plans, runs and endings without a finding', { skip, timeout: 120_000 }, async () => {
  execFileSync('make', ['-s', '-C', native, 'sanitize']);
  await using bed = await makeBed({ binary: sanitized });
  const session = await bed.server.openSession();

  // no sequence of strings is anything but a plan or a refusal; the session goes on
  const words = fc.constantFrom(
    'limit',
    'stdio',
    'wall_ms',
    '1',
    '-1',
    'nonsense',
    'env',
    'A=b',
    'counter',
    '',
    'map',
    'uid',
    'rlimit',
    'collect',
    '99999999999999999999',
  );
  await fc.assert(
    fc.asyncProperty(fc.array(words, { minLength: 1, maxLength: 12 }), async ([name = '', ...args]) => {
      const operation: Operation = [name, ...args];
      await session
        .configure([operation])
        .catch((error: unknown) => assert.ok(isCarrelError(error), String(error)));
    }),
    { numRuns: 100 },
  );
  await session.configure([op.limit('wall_ms', 1)]);
  session.close();

  // a frame that announces too much is answered and the connection ends
  const raw = connect(bed.server.socket);
  const frame = encodeFrame('P', 'x');
  frame.writeUInt32LE(0x7fff_ffff, 1);
  raw.write(frame);
  assert.match(await text(raw), /a frame is too long/);

  await using sandboxes = await openSandboxes({ server: bed.server, instance: bed.instance, slots: 1 });
  const report = await sandboxes.run({
    root: bed.root,
    argv: ['sh', '-c', 'cat > a; echo $(wc -c < a); echo r >&3; kill -TERM $$'],
    stdin: Buffer.alloc(500_000, 'x'),
    result: true,
    work: [{ host: join(bed.root, 'bin/busybox'), guest: 'deep/er/busybox' }],
    inputs: [{ host: '/etc/passwd', guest: '/inputs/p' }],
    collect: [
      { path: 'a', maxBytes: 1_000_000 },
      { path: 'b', maxBytes: 1 },
    ],
  });
  assert.deepEqual(report.end, { kind: 'signaled', signal: 'SIGTERM' });
  assert.equal(report.files[0]?.data?.length, 500_000);
  assert.equal(report.stdout.toString().trim(), '500000');
  const loud = await sandboxes.run({ root: bed.root, argv: ['yes'], limits: { outputBytes: 3_000_000 } });
  assert.equal(loud.stdout.length, 3_000_000);
  const failed = await sandboxes.run({ root: bed.root, argv: ['/nowhere'] });
  assert.deepEqual(failed.end, { kind: 'exited', status: 127 });
  assert.equal(execFileSync(sanitized, ['id', '-u'], { encoding: 'utf8' }), '0\n');
});
