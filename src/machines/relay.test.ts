import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { openListener } from '#fabric/listeners.ts';
import { openRelay, type Relay, type RelayLimits } from './relay.ts';

interface Stage extends AsyncDisposable {
  readonly relay: Relay;
  readonly failures: string[];
  /** A client's connection through the relay. */
  dial(): Socket;
}

async function stage(
  serve: (socket: Socket) => void,
  { limits = {}, target }: { limits?: Partial<RelayLimits>; target?: () => Promise<never> } = {},
): Promise<Stage> {
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined);
    serve(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = portOf(server);
  const { socket, port: front } = openListener({ host: '127.0.0.1', port: 0 });
  const failures: string[] = [];
  const relay = await openRelay({
    socket,
    target: target ?? (async () => ({ host: '127.0.0.1', port })),
    limits,
    failed: (reason) => void failures.push(reason),
  });
  return {
    relay,
    failures,
    dial: () => {
      const client = connect({ host: '127.0.0.1', port: front, allowHalfOpen: true });
      client.on('error', () => undefined);
      return client;
    },
    async [Symbol.asyncDispose]() {
      await relay.close();
      server.close();
    },
  };
}

function portOf(server: Server): AddressInfo {
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  return address;
}

const closed = async (socket: Socket): Promise<void> => {
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve));
};

test('a server that answers after the end of the question is heard to its end', async () => {
  await using it = await stage((socket) => {
    void buffer(socket).then((all) => socket.end(`${all.length} bytes`));
  });
  const client = it.dial();
  client.end(Buffer.alloc(300_000, 'x'));
  assert.equal((await buffer(client)).toString(), '300000 bytes');
  await closed(client);
});

test('a reader who does not read stops the sender, and gets every byte when he does', async () => {
  const total = 64 * 2 ** 20;
  let sent = 0;
  await using it = await stage((socket) => {
    const piece = Buffer.alloc(2 ** 16, 'y');
    const more = (): void => {
      while (sent < total) {
        sent += piece.length;
        if (!socket.write(piece)) return;
      }
      socket.end();
    };
    socket.on('drain', more);
    more();
  });
  const client = it.dial();
  client.pause();
  let before = -1;
  await until(
    10_000,
    'the sender to stand still',
    () => {
      const still = sent > 0 && sent === before;
      before = sent;
      return still || undefined;
    },
    { everyMs: 200 },
  );
  assert.ok(sent < total, `${sent} bytes were taken though nobody reads`);
  let got = 0;
  for await (const chunk of client) got += Buffer.isBuffer(chunk) ? chunk.length : 0;
  assert.equal(got, total);
});

test('a machine that cannot be reached looks like a port that refuses, and the reason is told', async () => {
  await using it = await stage(() => assert.fail('nobody should come here'), {
    target: async () => {
      throw new Error('it is stopped');
    },
  });
  const client = it.dial();
  await closed(client);
  assert.deepEqual(it.failures, ['it is stopped']);
  await until(2000, 'the connection to be forgotten', () => it.relay.connections === 0 || undefined);
});

test('a machine that does not answer in time is given up', async () => {
  await using it = await stage(() => undefined, {
    limits: { connectMs: 100 },
    target: () => new Promise(() => undefined),
  });
  await closed(it.dial());
  assert.match(it.failures.join(), /did not answer within 100 ms/);
});

test('connections beyond the limit are ended, and one that ends makes room', async () => {
  await using it = await stage((socket) => void socket.pipe(socket), { limits: { connections: 2 } });
  const first = it.dial();
  const second = it.dial();
  for (const client of [first, second]) {
    client.write('a');
    assert.equal(String((await once(client, 'data'))[0]), 'a');
  }
  await closed(it.dial());
  assert.match(it.failures.join(), /more than 2 connections/);
  first.destroy();
  await until(2000, 'room', () => it.relay.connections < 2 || undefined);
  const third = it.dial();
  third.write('b');
  assert.equal(String((await once(third, 'data'))[0]), 'b');
});

test('closing ends what is open, and nothing listens any more', async () => {
  const it = await stage((socket) => void socket.pipe(socket));
  const client = it.dial();
  client.write('a');
  await once(client, 'data');
  client.on('end', () => client.end());
  await it[Symbol.asyncDispose]();
  await closed(client);
  const late = it.dial();
  await closed(late);
  assert.equal(late.bytesRead, 0);
});
