import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as fc from 'fast-check';
import { CarrelError } from '#base/errors.ts';
import {
  type ControlRequest,
  type DoormanStatus,
  doormanStatus,
  requestListener,
  serveControl,
} from './control.ts';
import { openListener } from './listeners.ts';

const directory = mkdtempSync(join(tmpdir(), 'control-'));
const path = join(directory, 'doorman.sock');
const status: DoormanStatus = {
  pid: 1,
  daemonPid: null,
  daemonRestarts: 0,
  listeners: [{ name: 'http', host: '::1', port: 80 }],
  netns: 'net:[1]',
  uplink: { up: false, reason: 'x'.repeat(3000) },
};
const asked: ControlRequest[] = [];
let server: { close(): Promise<void> };

before(async () => {
  server = await serveControl({
    path,
    handle(request) {
      asked.push(request);
      if (request.ask === 'status') return { answer: { status } };
      if (request.ask === 'shutdown') throw new Error('not today');
      if (request.host !== '127.0.0.1') throw new CarrelError('forbidden', 'not there', { hint: 'try here' });
      const { socket, host, port } = openListener(request);
      return { answer: { listening: { host, port } }, fd: socket };
    },
  });
});
after(async () => {
  await server.close();
  rmSync(directory, { recursive: true });
});

/** Sends bytes and gives what comes back until the end. */
async function say(bytes: string | Uint8Array): Promise<string> {
  return await new Promise((resolve) => {
    const socket = connect(path);
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.on('error', () => undefined).on('close', () => resolve(text));
    socket.write(bytes);
  });
}

test('only its owner may connect', () => {
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test('questions and answers arrive whole, errors with code and hint', async () => {
  assert.deepEqual(await doormanStatus(path), status);
  const { socket, port } = await requestListener(path, { host: '127.0.0.1', port: 0 });
  assert.ok(port > 0);
  socket.close();
  await assert.rejects(requestListener(path, { host: '::1', port: 0 }), {
    code: 'forbidden',
    hint: 'try here',
  });
  await assert.rejects(requestListener(path, { host: '127.0.0.1', port: 70_000 }), {
    code: 'invalid_request',
  });
  await assert.rejects(doormanStatus(join(directory, 'nobody.sock')), { code: 'unavailable' });
  await assert.rejects(doormanStatus(join(directory, 'x'.repeat(120))), { code: 'validation_failed' });
});

test('what is no question changes nothing and is told so', async () => {
  const before = asked.length;
  for (const bad of [
    '\n',
    '{}\n',
    'null\n',
    '{"ask":"status","x":1}\n',
    '{"ask":"listen","host":"::1"}\n',
    '{"ask":"shutdown"}\n',
  ])
    assert.match(await say(bad), /"code":"invalid_request"/, bad);
  assert.equal(await say('x'.repeat(10_000)), '');
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 100 }), async (noise) => {
      assert.match(await say(Buffer.concat([noise, Buffer.from('\n')])), /"error"/);
    }),
    { numRuns: 30 },
  );
  assert.equal(asked.length, before);
  assert.match(await say('{"ask":"shutdown","fabric":false}\n'), /"code":"internal","message":"not today"/);
  assert.deepEqual(await doormanStatus(path), status);
});
