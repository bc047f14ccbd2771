/** Descriptors that go along with a plan. */
import assert from 'node:assert/strict';
import { readSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { pipe } from '#host/fds.ts';
import { op } from './plan.ts';
import { makeBed, skip } from './testing.ts';

const busybox = (...args: string[]) => ['/bin/busybox', ...args].map(op.arg);

test("a plan's standard input and output can be descriptors of ours", { skip }, async () => {
  await using bed = await makeBed();
  const session = await bed.server.openSession();
  const [inputEnd, input] = pipe();
  const [output, outputEnd] = pipe();
  using _output = output;
  const plan = [op.stdio(0, 'fd', '1'), op.stdio(1, 'fd', '0'), op.stdio(2, 'pipe'), ...busybox('cat')];
  const running = session.run(plan, { fds: [outputEnd.fd, inputEnd.fd] });
  writeSync(input.fd, 'through both');
  for (const end of [input, inputEnd, outputEnd]) end.close();
  const { report, stdout } = await running;
  assert.deepEqual([report.exit, stdout.length], [0, 0]);
  const bytes = Buffer.alloc(100);
  assert.equal(bytes.toString('utf8', 0, readSync(output.fd, bytes)), 'through both');
  assert.equal(readSync(output.fd, bytes), 0, 'nobody else has the writing end');
  session.close();
});

test('descriptors that a plan does not use, or that it lacks, leave nothing open', { skip }, async () => {
  await using bed = await makeBed();
  const session = await bed.server.openSession();
  const [reading, writing] = pipe();
  using _reading = reading;
  await session.run(busybox('true'), { fds: [writing.fd, writing.fd] });
  await assert.rejects(
    session.run([op.stdio(1, 'fd', '3'), ...busybox('true')], { fds: [writing.fd] }),
    /stdio/,
  );
  await assert.rejects(
    session.run(busybox('true'), { fds: Array.from({ length: 9 }, () => writing.fd) }),
    (error) => isCarrelError(error, 'validation_failed'),
  );
  writing.close();
  // the next answer means that the plan before is done with
  const listed = await session.run([op.stdio(1, 'pipe'), ...busybox('ls', '-l', '/proc/self/fd')]);
  assert.equal(readSync(reading.fd, Buffer.alloc(1)), 0);
  const open = listed.stdout.toString().match(/ \d+ -> \S+/g);
  // what the plan says nothing of is /dev/null
  assert.deepEqual(
    open?.map((line) => line.trim().replace(/pipe:.*/, 'pipe')),
    ['0 -> /dev/null', '1 -> pipe', '2 -> /dev/null'],
  );
  session.close();
});
