import assert from 'node:assert/strict';
import { fstatSync, readFileSync, readSync, readdirSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { type Fd, ownFd, pipe, receiveFds, sendFds, socketPair } from './fds.ts';

function openFds(): string[] {
  return readdirSync('/proc/self/fd');
}

test('a descriptor is closed at the end of its block, once', () => {
  const before = openFds().length;
  {
    const [read, write] = pipe();
    using _read = read;
    using _write = write;
    writeSync(write.fd, 'x');
    const bytes = Buffer.alloc(4);
    assert.equal(readSync(read.fd, bytes), 1);
    read.close();
    read.close();
  }
  assert.equal(openFds().length, before);
});

test('a released descriptor is not closed, and a closed one not released', () => {
  const [read, write] = pipe();
  const fd = read.release();
  read.close();
  assert.ok(fstatSync(fd).isFIFO());
  ownFd(fd).close();
  write.close();
  assert.throws(() => write.release(), /closed already/);
});

test('bytes and descriptors arrive together, and mean the same files', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 5000 }),
      fc.integer({ min: 0, max: 16 }),
      (data, count) => {
        const [left, right] = socketPair();
        using _left = left;
        using _right = right;
        const sent = Array.from({ length: count }, () => pipe());
        assert.equal(
          sendFds(
            left.fd,
            data,
            sent.map(([read]) => read.fd),
          ),
          data.length,
        );
        const received = receiveFds(right.fd);
        assert.deepEqual(Uint8Array.from(received?.data ?? []), data);
        assert.equal(received?.fds.length, count);
        for (const [index, [read, write]] of sent.entries()) {
          using copy: Fd | undefined = received?.fds[index];
          assert.ok(copy);
          assert.equal(fstatSync(copy.fd).ino, fstatSync(read.fd).ino);
          assert.match(readFileSync(`/proc/self/fdinfo/${copy.fd}`, 'utf8'), /flags:\s+0?2000000/); // close-on-exec
          read.close();
          write.close();
        }
      },
    ),
    { numRuns: 30 },
  );
});

test('more descriptors than wanted are refused and closed', () => {
  const [left, right] = socketPair();
  const before = openFds().length;
  sendFds(left.fd, Buffer.from('x'), [0, 1, 2]);
  assert.throws(() => receiveFds(right.fd, { maxFds: 2 }), /more than 2/);
  assert.equal(openFds().length, before);
  left.close();
  right.close();
});

test('nothing there is undefined, the end of the stream is empty, and a full socket takes nothing', () => {
  const [left, right] = socketPair({ type: 'seqpacket' });
  assert.equal(receiveFds(right.fd), undefined);
  const block = Buffer.alloc(16384);
  let sent = 0;
  while (sendFds(left.fd, block) !== undefined) sent += 1;
  assert.ok(sent > 0);
  for (let index = 0; index < sent; index += 1) assert.equal(receiveFds(right.fd)?.data.length, block.length);
  left.close();
  assert.equal(receiveFds(right.fd)?.data.length, 0);
  right.close();
});
