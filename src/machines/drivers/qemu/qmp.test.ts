import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { z } from 'zod';
import { isCarrelError } from '#base/errors.ts';
import {
  connectQmp,
  createLineDecoder,
  maxLineBytes,
  maxUnaskedBytes,
  nothing,
  parseLine,
  type Qmp,
  withQmp,
} from './qmp.ts';

/** Cuts bytes at the given places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  return at.slice(1).map((end, index) => bytes.subarray(at[index], end));
}

test('lines come out as they went in, however the stream is cut', () => {
  const line = fc.string({ unit: 'binary' }).map((text) => text.replaceAll('\n', ''));
  fc.assert(
    fc.property(fc.array(line), fc.array(fc.nat()), (lines, places) => {
      const decode = createLineDecoder();
      const bytes = Buffer.from(lines.map((each) => `${each}\n`).join(''));
      assert.deepEqual(
        cut(bytes, places).flatMap((piece) => decode(piece).map(String)),
        lines.map((each) => Buffer.from(each).toString()),
      );
    }),
  );
});

test('a line over the limit is refused before it is whole, and also when it comes with its end', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 40 }),
      fc.boolean(),
      fc.array(fc.nat()),
      (length, whole, places) => {
        const decode = createLineDecoder({ maxBytes: 20 });
        const bytes = Buffer.from('x'.repeat(length) + (whole ? '\n' : ''));
        const feed = (): number => cut(bytes, places).flatMap((piece) => decode(piece)).length;
        if (length > 20) assert.throws(feed, (error) => isCarrelError(error, 'helper_failed'));
        else assert.equal(feed(), whole ? 1 : 0);
      },
    ),
  );
});

test('whatever a line holds, it is a message or an error that says what is wrong', () => {
  const value = fc.oneof(
    fc.json(),
    fc.string(),
    fc
      .record({ id: fc.anything(), return: fc.anything(), error: fc.anything() })
      .map((each) => JSON.stringify(each)),
  );
  fc.assert(
    fc.property(value, (text) => {
      try {
        parseLine(Buffer.from(text ?? ''));
      } catch (error) {
        assert.ok(isCarrelError(error, 'helper_failed'));
      }
    }),
  );
});

interface Fake extends AsyncDisposable {
  readonly directory: string;
  readonly qmp: () => Promise<Qmp>;
  /** Of the clients one after the other. */
  readonly sockets: Socket[];
}

/** A monitor whose answers the test writes. */
async function fakeMonitor(answer: (socket: Socket, line: string) => void): Promise<Fake> {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-qmp-'));
  const path = join(directory, 'qmp.sock');
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.write('{"QMP": {"version": {}, "capabilities": ["oob"]}}\r\n');
    const decode = createLineDecoder();
    socket.on('data', (chunk: Buffer) => {
      for (const line of decode(chunk)) answer(socket, line.toString());
    });
  });
  server.listen(path);
  await once(server, 'listening');
  return {
    directory,
    sockets,
    qmp: () => connectQmp(path, { limitMs: 2000 }),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

const asked = z.object({ execute: z.string(), id: z.int() });
const read = (line: string) => asked.parse(JSON.parse(line));

test('answers go to who asked, in whatever order they come, and events beside them', async () => {
  const later: string[] = [];
  await using fake = await fakeMonitor((socket, line) => {
    const { execute, id } = read(line);
    if (execute === 'qmp_capabilities') socket.write(`{"return": {}, "id": ${id}}\n`);
    else later.unshift(`{"return": {"name": "${execute}"}, "id": ${id}}\n`);
    if (later.length === 2) socket.write(`{"event": "STOP", "timestamp": {}}\n${later.join('')}`);
  });
  const qmp = await fake.qmp();
  const reply = z.object({ name: z.string() });
  const answers = await Promise.all([qmp.execute('one', {}, reply), qmp.execute('two', {}, reply)]);
  assert.deepEqual(answers, [{ name: 'one' }, { name: 'two' }]);
  qmp.close();
});

test('a refusal has the words of QEMU, and an answer of another shape is refused', async () => {
  await using fake = await fakeMonitor((socket, line) => {
    const { execute, id } = read(line);
    if (execute === 'bad')
      socket.write(`{"error": {"class": "GenericError", "desc": "no such node"}, "id": ${id}}\n`);
    else socket.write(`{"return": {"x": 1}, "id": ${id}}\n`);
  });
  const qmp = await fake.qmp();
  await assert.rejects(qmp.execute('bad', {}, nothing), /no such node/);
  await assert.rejects(qmp.execute('odd', {}, z.object({ y: z.int() })), (error) =>
    isCarrelError(error, 'helper_failed'),
  );
  qmp.close();
});

test('a monitor that is silent, floods, or talks nonsense is an error in time, and nothing hangs', async () => {
  await using silent = await fakeMonitor((socket, line) => {
    const { execute, id } = read(line);
    if (execute === 'qmp_capabilities') socket.write(`{"return": {}, "id": ${id}}\n`);
  });
  const first = await silent.qmp();
  await assert.rejects(first.execute('query-status', {}, nothing, { limitMs: 50 }), (error) =>
    isCarrelError(error, 'deadline_exceeded'),
  );
  first.close();
  await using nonsense = await fakeMonitor((socket) => void socket.write('{"return": \n'));
  await assert.rejects(nonsense.qmp(), (error) => isCarrelError(error, 'helper_failed'));
  await using flood = await fakeMonitor((socket) => void socket.write(Buffer.alloc(maxLineBytes + 100, 'x')));
  await assert.rejects(flood.qmp(), (error) => isCarrelError(error, 'helper_failed'));
});

test('a monitor that never stops telling news, or answering what nobody asked, is left', async () => {
  for (const line of [
    '{"event": "VSERPORT_CHANGE"}\n',
    '{"return": {}, "id": 999}\n',
    '{"QMP": {"version": 1}}\n',
  ]) {
    const news = line.repeat(Math.ceil((2 * maxUnaskedBytes) / line.length));
    await using fake = await fakeMonitor((socket, text) => {
      const { execute, id } = read(text);
      if (execute === 'query-status') socket.write(news);
      socket.write(`{"return": {}, "id": ${id}}\n`);
    });
    const qmp = await fake.qmp();
    await qmp.execute('query-name', {}, nothing);
    await assert.rejects(qmp.execute('query-status', {}, nothing), /too much/);
    await assert.rejects(qmp.execute('query-name', {}, nothing), /too much/);
  }
});

test('one speaks at a time', async () => {
  await using fake = await fakeMonitor((socket, line) => {
    socket.write(`{"return": {}, "id": ${read(line).id}}\n`);
  });
  let now = 0;
  let most = 0;
  await Promise.all(
    Array.from({ length: 4 }, () =>
      withQmp(fake.directory, async (qmp) => {
        now += 1;
        most = Math.max(most, now);
        await qmp.execute('query-status', {}, nothing);
        now -= 1;
      }),
    ),
  );
  assert.equal(most, 1);
});
