/** The protocol of consoles and programs over real WebSockets; behind it a terminal in memory. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { WebSocket } from 'ws';
import { within } from '#base/deadline.ts';
import type { ProgramEnd } from '#contract/schemas/machines.ts';
import { decodeMessage, encodeMessage, streamStatus, type StreamStatus } from '#contract/stream.ts';
import type { Terminal } from '#machines/driver.ts';
import { openStreams, type Streams } from '#machines/stream.ts';
import type { TestCluster } from '#store/testing.ts';
import { attachSocket } from './streams.ts';
import { startTestCluster, startTestServer, type Person, type TestServer } from './testing.ts';

/** A terminal that echoes, keeps its last `kept` bytes, and can be ended. */
function createTerminal(kept = 2 ** 20) {
  let all = Buffer.alloc(0);
  const watchers = new Set<() => void>();
  let end: ProgramEnd | undefined;
  const sizes: { rows: number; columns: number }[] = [];
  const changed = (): void => {
    for (const watcher of watchers) watcher();
  };
  const terminal: Terminal = {
    read(from, maxBytes = 2 ** 20) {
      const start = Math.max(from, all.length - kept);
      return { total: all.length, from: start, bytes: all.subarray(start, start + maxBytes) };
    },
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
    async write(bytes) {
      print(bytes);
    },
    async resize(size) {
      sizes.push(size);
    },
    get end() {
      return end;
    },
    close: () => undefined,
  };
  const print = (bytes: Uint8Array | string): void => {
    all = Buffer.concat([all, Buffer.from(bytes)]);
    changed();
  };
  return {
    terminal,
    sizes,
    print,
    exit(status: number): void {
      end = { kind: 'exited', status };
      changed();
    },
  };
}

let cluster: TestCluster;
let server: TestServer;
let ada: Person;
let current: ReturnType<typeof createTerminal>;
let streams: Streams;
let key = 0;

before(async () => {
  cluster = await startTestCluster();
  server = await startTestServer(cluster, {
    handlers: () => ({
      async attachConsole({ query }, { signal }) {
        const { from } = query;
        const stream = await streams.attach(`console ${key}`, async () => current.terminal, { from, signal });
        return (socket) => attachSocket(socket, stream);
      },
    }),
  });
  ada = await server.person('ada', { admin: true });
  await server.store.db
    .insertInto('machines')
    .values({ id: 'm-000000000000', name: 'web', owner_id: ada.id, driver: 'container' })
    .execute();
});
beforeEach(() => {
  current = createTerminal();
  streams = openStreams();
  key += 1;
});
after(async () => {
  await server.close();
  await cluster.close();
});

interface Reader {
  readonly socket: WebSocket;
  readonly output: () => string;
  readonly statuses: StreamStatus[];
  readonly closed: Promise<{ code: number; reason: string }>;
  /** Resolves once the condition holds; looked at after each message. */
  until(what: string, condition: () => boolean): Promise<void>;
}

async function attach(query = ''): Promise<Reader> {
  const socket = new WebSocket(`ws://127.0.0.1:${server.port}/v1/machines/web/console${query}`, 'carrel.v1', {
    headers: { authorization: `Bearer ${ada.secret}` },
  });
  let output = '';
  const statuses: StreamStatus[] = [];
  const waiting = new Set<() => void>();
  socket.on('message', (data: Buffer) => {
    const { channel, bytes } = decodeMessage(data);
    if (channel === 'output') output += Buffer.from(bytes).toString();
    if (channel === 'status') statuses.push(streamStatus.parse(JSON.parse(Buffer.from(bytes).toString())));
    for (const look of waiting) look();
  });
  const closed = new Promise<{ code: number; reason: string }>((resolve) =>
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() })),
  );
  const reader: Reader = {
    socket,
    output: () => output,
    statuses,
    closed,
    async until(what, condition) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const look = (): void => {
        if (condition()) resolve();
      };
      waiting.add(look);
      look();
      await within(5000, what, promise).finally(() => waiting.delete(look));
    },
  };
  await reader.until('the first status', () => statuses.length > 0);
  return reader;
}

test('a reader is told where he begins, sees what comes, and how it ended', async () => {
  current.print('before ');
  const reader = await attach('?from=0');
  assert.deepEqual(reader.statuses, [{ from: 0, writer: true }]);
  current.print('and after');
  await reader.until('output', () => reader.output() === 'before and after');
  current.exit(3);
  assert.deepEqual(await reader.closed, { code: 1000, reason: 'ended' });
  assert.deepEqual(reader.statuses.at(-1), { end: { kind: 'exited', status: 3 } });
});

test('who comes back with an offset misses no byte and sees none twice', async () => {
  const first = await attach('?from=0');
  current.print('0123456789');
  await first.until('ten bytes', () => first.output().length === 10);
  first.socket.close();
  await first.closed;
  current.print('abcdef');
  const second = await attach('?from=10');
  assert.equal(second.statuses[0]?.from, 10);
  await second.until('the rest', () => second.output() === 'abcdef');
  second.socket.close();
});

test('the first writes; another may take over, and both are told', async () => {
  const [first, second] = [await attach(), await attach()];
  assert.equal(second.statuses[0]?.writer, false);
  second.socket.send(encodeMessage('input', 'ignored'));
  await second.until('the refusal', () => second.statuses.length === 2);
  assert.equal(second.statuses[1]?.writer, false);
  second.socket.send(encodeMessage('write', JSON.stringify({ take: true })));
  await first.until('the news', () => first.statuses.at(-1)?.writer === false);
  await second.until('the right', () => second.statuses.at(-1)?.writer === true);
  second.socket.send(encodeMessage('input', 'typed'));
  await first.until('the echo', () => first.output() === 'typed');
  second.socket.send(encodeMessage('resize', JSON.stringify({ rows: 50, columns: 132 })));
  second.socket.send(encodeMessage('input', '!'));
  await first.until('the echo', () => first.output() === 'typed!');
  assert.deepEqual(current.sizes, [{ rows: 50, columns: 132 }]);
  first.socket.close();
  second.socket.close();
});

test('what is not the protocol ends the connection with a reason', async () => {
  for (const message of [
    Uint8Array.of(),
    Uint8Array.of(9, 1, 2),
    encodeMessage('output', 'forged'),
    encodeMessage('resize', '{"rows":-1,"columns":80}'),
    encodeMessage('resize', 'not json'),
    encodeMessage('write', '{"take":false}'),
  ]) {
    const reader = await attach();
    reader.socket.send(message);
    assert.equal((await reader.closed).code, 1008);
  }
  const text = await attach();
  text.socket.send('text');
  assert.equal((await text.closed).code, 1008);
  const large = await attach();
  large.socket.send(new Uint8Array(2 ** 18));
  assert.equal((await large.closed).code, 1009);
});

test('a reader who is too far behind is told where to go on', async () => {
  current = createTerminal(1000);
  const reader = await attach('?from=0');
  reader.socket.pause();
  // More than the sockets' own buffers hold, so that the server has to wait for the reader.
  for (let index = 0; index < 400; index += 1) {
    current.print(Buffer.alloc(60_000, 97));
    await new Promise((resolve) => setImmediate(resolve));
  }
  reader.socket.resume();
  const { code, reason } = await reader.closed;
  assert.equal(code, 1013);
  assert.match(reason, /no longer kept|too slow/);
});
