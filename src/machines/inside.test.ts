/** What happens inside machines: programs, files, and limits that hold. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { skip, useBed } from './testing-bed.ts';
import { isCode } from './testing-shell.ts';
import { request } from './testing.ts';

const on = useBed();

test(
  'the limits hold: memory kills the program and not the machine, processes and disk end',
  { skip },
  async () => {
    const id = await on.bed.make(on.anna);
    const hog = await on.sh(id, 'x=a; while :; do x=$x$x; done');
    assert.notDeepEqual(hog.end, { kind: 'exited', status: 0 });
    assert.ok((await on.bed.machines.stats(id)).oomKills > 0);
    const fork = await on.sh(id, 'for i in $(seq 200); do sleep 5 & done; echo never', 3000);
    assert.match(fork.err, /fork|Resource/);
    // what the loop started may still take every place for some seconds
    await until(15_000, 'room to enter', async () => {
      try {
        return await on.sh(id, 'kill -9 -1');
      } catch (error) {
        if (!isCarrelError(error, 'no_capacity')) throw error;
        return undefined;
      }
    });
    await until(5000, 'the many processes to go', async () => {
      const { processes } = await on.bed.machines.stats(id);
      return (processes ?? 0) < 10 ? true : undefined;
    });
    const disk = await on.sh(id, 'dd if=/dev/zero of=/root/big bs=1M count=64; rm /root/big');
    assert.match(disk.err, /No space left/);
    assert.equal((await on.sh(id, 'echo alive')).out, 'alive\n');
    assert.equal((await on.bed.machines.get(id)).state, 'running');
    await on.bed.done(on.bed.machines.remove(on.anna, id));
  },
);

test('a machine gets the share of a processor that it may have', { skip }, async () => {
  const id = await on.bed.make(on.anna, { limits: { ...request().limits, cpus: 0.2 } });
  const { cpuMs } = await on.bed.machines.stats(id);
  const reply = await on.bed.machines.run(
    id,
    runRequest.parse({ argv: ['sh', '-c', 'while :; do :; done'], limitMs: 1500 }),
  );
  assert.deepEqual(reply.end, { kind: 'killed', reason: 'wall' });
  const used = (await on.bed.machines.stats(id)).cpuMs - cpuMs;
  assert.ok(used < 0.5 * reply.wallMs, `${used} ms of ${reply.wallMs} ms`);
  await on.bed.done(on.bed.machines.remove(on.anna, id));
});

test('a run gives status, both streams, and ends at its limits', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  const reply = await on.sh(id, 'echo out; echo err >&2; exit 7');
  assert.deepEqual(reply, { end: { kind: 'exited', status: 7 }, out: 'out\n', err: 'err\n' });
  const stdin = Buffer.from('hello').toString('base64');
  const echoed = await on.bed.machines.run(id, runRequest.parse({ argv: ['cat'], stdin }));
  assert.equal(echoed.stdout, stdin);
  assert.deepEqual((await on.sh(id, 'sleep 100', 200)).end, { kind: 'killed', reason: 'wall' });
  assert.deepEqual((await on.sh(id, 'kill -SEGV $$')).end, { kind: 'signaled', signal: 'SIGSEGV' });
  const flood = await on.bed.machines.run(
    id,
    runRequest.parse({ argv: ['yes'], outputBytes: 1000, limitMs: 5000 }),
  );
  assert.deepEqual(flood.end, { kind: 'killed', reason: 'output' });
  assert.equal(Buffer.from(flood.stdout, 'base64').length, 1000);
  await assert.rejects(
    on.bed.machines.run(id, runRequest.parse({ argv: ['no-such-program'] })),
    isCode('invalid_request'),
  );
  await on.bed.done(on.bed.machines.remove(on.anna, id));
});

test('files go in and out, and no path leads out of the machine', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  await on.bed.machines.writeFile(id, '/root/a.txt', Buffer.from('one'), { mode: 0o640 });
  assert.equal((await on.sh(id, 'stat -c "%u %g %a" /root/a.txt; cat /root/a.txt')).out, '0 0 640\none');
  await on.bed.machines.writeFile(id, '/root/a.txt', Buffer.from('two'));
  assert.equal(Buffer.from((await on.bed.machines.readFile(id, '/root/a.txt')).bytes).toString(), 'two');

  await on.sh(
    id,
    `ln -s /etc/hostname /root/up; ln -s ../../../../../../etc/shadow /root/climb; mkfifo /root/fifo;
     ln -s /proc/1/root/etc/shadow /root/magic; mkdir /root/dir; ln -s /nowhere/x /root/dangling; echo secret > /etc/shadow`,
  );
  assert.equal(Buffer.from((await on.bed.machines.readFile(id, '/root/climb')).bytes).toString(), 'secret\n');
  assert.notEqual(readFileSync('/etc/shadow', 'utf8'), 'secret\n');
  await assert.rejects(on.bed.machines.readFile(id, '/root/fifo'), isCode('invalid_request'));
  await assert.rejects(
    on.bed.machines.writeFile(id, '/root/fifo', Buffer.from('x')),
    isCode('invalid_request'),
  );
  await assert.rejects(on.bed.machines.readFile(id, '/root/magic'), isCode('invalid_request'));
  await assert.rejects(on.bed.machines.readFile(id, '/dev/zero'), isCode('invalid_request'));
  await assert.rejects(
    on.bed.machines.readFile(id, '/proc/kcore'),
    (error) => isCode('forbidden')(error) || isCode('not_found')(error),
  );
  await assert.rejects(on.bed.machines.writeFile(id, '/proc/sys/kernel/hostname', Buffer.from('x')));
  await assert.rejects(on.bed.machines.readFile(id, '/root/dir'), isCode('invalid_request'));
  await assert.rejects(on.bed.machines.readFile(id, '/root/none'), isCode('not_found'));
  await assert.rejects(on.bed.machines.writeFile(id, '/root/none/x', Buffer.from('x')), isCode('not_found'));
  await assert.rejects(
    on.bed.machines.writeFile(id, '/root/dangling', Buffer.from('x')),
    isCode('invalid_request'),
  );
  await assert.rejects(
    on.bed.machines.writeFile(id, '/root/big', Buffer.alloc(48 * 2 ** 20)),
    isCode('disk_full'),
  );
  assert.equal((await on.sh(id, 'ls /root/big')).out, '');
  await on.bed.done(on.bed.machines.stop(on.anna, id, { graceMs: 100 }));
  await assert.rejects(on.bed.machines.readFile(id, '/root/a.txt'), isCode('wrong_state'));
  await on.bed.done(on.bed.machines.remove(on.anna, id));
});

/** One life of a machine, with everything that opens something here. */
async function cycle(): Promise<void> {
  const id = await on.bed.make(on.anna);
  await on.sh(id, 'true');
  await on.bed.machines.readFile(id, '/etc/passwd');
  using console = await on.bed.machines.attach(id);
  await console.write(Buffer.from('echo hello\n'));
  await on.bed.done(on.bed.machines.stop(on.anna, id, { graceMs: 2000 }));
  await on.bed.done(on.bed.machines.start(on.anna, id));
  await on.bed.done(on.bed.machines.remove(on.anna, id));
}

test('life cycles, programs and consoles leave no descriptors open here', { skip }, async () => {
  await cycle();
  const before = readdirSync('/proc/self/fd').length;
  for (let round = 0; round < 5; round += 1) await cycle();
  const left = await until(5000, 'descriptors to be closed', () => {
    const more = readdirSync('/proc/self/fd').length - before;
    return more <= 2 ? more : undefined;
  });
  assert.ok(left <= 2);
});
