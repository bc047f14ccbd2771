import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import { test } from 'node:test';
import { WebSocketServer, type WebSocket } from 'ws';
import { decodeMessage, encodeMessage } from '#contract/stream.ts';
import { openStream } from './stream.ts';
import { parseEscape, splitAtEscape } from './terminal.ts';

interface Peer extends AsyncDisposable {
  readonly url: URL;
}

/** A server that gives each connection, with the offset it asked for, to `serve`. */
async function listen(serve: (socket: WebSocket, from: number, connection: number) => void): Promise<Peer> {
  const http: Server = createServer((_, response) => {
    response.writeHead(404, { 'content-type': 'application/problem+json' });
    response.end();
  });
  const sockets = new WebSocketServer({ noServer: true });
  let connections = 0;
  http.on('upgrade', (request, socket, head) => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    if (url.pathname === '/gone') {
      const body = JSON.stringify({
        type: 'about:blank',
        title: 'Not Found',
        status: 404,
        code: 'not_found',
        detail: 'there is no machine web',
        requestId: 'r',
      });
      socket.end(
        `HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
      );
      return;
    }
    sockets.handleUpgrade(request, socket, head, (webSocket) => {
      connections += 1;
      serve(webSocket, Number(url.searchParams.get('from') ?? 0), connections);
    });
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  const address = http.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  return {
    url: new URL(`http://127.0.0.1:${port}/`),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets.clients) socket.terminate();
      sockets.close();
      http.closeAllConnections();
      http.close();
      await once(http, 'close');
    },
  };
}

test('a connection lost again and again loses no byte of output and repeats none', async () => {
  const whole = Buffer.from(Array.from({ length: 10_000 }, (_, index) => index % 251));
  await using server = await listen((socket, from, connection) => {
    socket.send(encodeMessage('status', JSON.stringify({ from })));
    const upTo = Math.min(whole.length, from + 1 + connection * 700);
    for (let at = from; at < upTo; at += 100)
      socket.send(encodeMessage('output', whole.subarray(at, Math.min(at + 100, upTo))));
    if (upTo < whole.length) setTimeout(() => socket.terminate(), 5);
    else
      socket.send(encodeMessage('status', JSON.stringify({ end: { kind: 'exited', status: 7 } })), () =>
        socket.close(1000),
      );
  });
  const got: Uint8Array[] = [];
  let lost = 0;
  const stream = openStream({
    url: server.url,
    from: 0,
    output: (bytes) => void got.push(bytes),
    state: (state) => (lost += state === 'lost' ? 1 : 0),
  });
  assert.deepEqual(await stream.ended, { kind: 'exited', status: 7 });
  assert.ok(lost > 2, `lost ${lost} times`);
  assert.deepEqual(Buffer.concat(got), whole);
});

test('what is typed and the size of the terminal arrive, also before the connection is open', async () => {
  const heard: string[] = [];
  await using server = await listen((socket) => {
    socket.on('message', (data: Buffer) => {
      const { channel, bytes } = decodeMessage(data);
      heard.push(`${channel} ${Buffer.from(bytes).toString()}`);
      if (heard.length === 2)
        socket.send(encodeMessage('status', JSON.stringify({ end: { kind: 'exited', status: 0 } })), () =>
          socket.close(1000),
        );
    });
  });
  const stream = openStream({ url: server.url, output: () => undefined });
  stream.resize(40, 120);
  stream.input(Buffer.from('ls\r'));
  await stream.ended;
  assert.deepEqual(heard, ['resize {"rows":40,"columns":120}', 'input ls\r']);
});

test('a refusal is the server’s own sentence, and is not tried again', async () => {
  await using server = await listen(() => assert.fail('no connection is expected'));
  const stream = openStream({ url: new URL('/gone', server.url), output: () => undefined });
  await assert.rejects(stream.ended, /there is no machine web/);
});

test('leaving ends the stream and not the program', async () => {
  await using server = await listen((socket) => socket.send(encodeMessage('output', 'hello')));
  const seen = Promise.withResolvers<void>();
  const stream = openStream({ url: server.url, output: () => seen.resolve() });
  await seen.promise;
  stream.leave();
  assert.equal(await stream.ended, undefined);
});

test('Ctrl-] is ours, what was typed before it is the program’s', () => {
  const { before, left } = splitAtEscape(Uint8Array.of(108, 115, 0x1d, 120));
  assert.equal(left, true);
  assert.deepEqual([...before], [108, 115]);
  assert.equal(splitAtEscape(Uint8Array.of(108)).left, false);
});

test('another key may leave, and then Ctrl-] is the program’s', () => {
  for (const text of ['^A', '^a', 'ctrl-a', 'Ctrl-A'])
    assert.deepEqual(parseEscape(text), { byte: 1, name: 'Ctrl-A' });
  assert.deepEqual(parseEscape('^]'), { byte: 0x1d, name: 'Ctrl-]' });
  assert.equal(parseEscape('none'), undefined);
  const key = parseEscape('^A');
  assert.ok(key);
  assert.deepEqual(splitAtEscape(Uint8Array.of(0x1d, 1), key), { before: Uint8Array.of(0x1d), left: true });
  for (const wrong of ['', 'x', '^', '^1', '^AB', 'A'])
    assert.throws(() => parseEscape(wrong), { code: 'invalid_request' }, wrong);
});
