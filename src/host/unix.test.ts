import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { listenUnix } from './unix.ts';

test('a listening socket answers whoever is given its descriptor, and takes the place of an old one', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-unix-'));
  try {
    const path = join(directory, 's');
    listenUnix(path).close();
    const server = createServer((socket) => socket.end('hello'));
    server.listen({ fd: listenUnix(path).release() });
    await once(server, 'listening');
    const client = connect(path);
    const [bytes] = await once(client, 'data');
    assert.equal(String(bytes), 'hello');
    client.destroy();
    server.close();
    assert.throws(
      () => listenUnix(join(directory, 'x'.repeat(120))),
      (error) => isCarrelError(error, 'invalid_request'),
    );
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
