import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pipe } from '#host/fds.ts';
import { trySyscall } from '#host/syscalls.ts';
import { Board, makeBoardWords } from './board.ts';

const serialPort = 0x3f8;

test('a guest that prints waits for its reader, and leaves off waiting when it is to stop', () => {
  const [read, write] = pipe({ nonBlocking: true });
  using _ends = new DisposableStack();
  _ends.use(read);
  _ends.use(write);
  const page = new Uint8Array(4096);
  while (trySyscall('write', write.fd, page, page.length) > 0);
  const board = new Board({ words: makeBoardWords(), vm: -1, output: write.fd });

  let asked = 0;
  board.write(serialPort, 1, 0x61, () => (asked += 1) > 2);
  assert.equal(asked, 3);

  // a reader has come meanwhile
  board.write(serialPort, 1, 0x62, () => {
    trySyscall('read', read.fd, page, page.length);
    return false;
  });
  let last = 0;
  for (let got = 1; got > 0;) {
    got = trySyscall('read', read.fd, page, page.length);
    if (got > 0) last = page[got - 1] ?? 0;
  }
  assert.equal(last, 0x62);
});
