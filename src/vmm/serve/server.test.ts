import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { connect as connectTcp } from 'node:net';
import { suite, test } from 'node:test';
import { WebSocket } from 'ws';
import { z } from 'zod';
import { until, within } from '#base/deadline.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import type { GuestImage } from '../image/image.ts';
import { code } from '../testing.ts';
import { message, type Command, type Message, tokenProtocol, vmmProtocol } from './messages.ts';
import { serveSession, type Served, type ServeOptions } from './server.ts';

const token = 'a-token-for-tests-only';
/** mov $'a', %al; out %al, $0xe9; inc %al; out %al, $0xe9; hlt */
const ab = code(0xb0, 0x61, 0xe6, 0xe9, 0xfe, 0xc0, 0xe6, 0xe9, 0xf4);
const spin = code(0xeb, 0xfe);
/** 1: out %al, $0xe9; jmp 1b, with a newline in AL: lines without end. */
const flood = code(0xb0, 0x0a, 0xe6, 0xe9, 0xeb, 0xfc);

async function serve(
  image: GuestImage,
  options: Partial<ServeOptions> = {},
): Promise<Served & AsyncDisposable> {
  const served = await serveSession(
    { mode: 'long', image },
    { host: '127.0.0.1', port: 0, token, idleMs: 60_000, lifetimeMs: 60_000, limitMs: 30_000, ...options },
  );
  return {
    ...served,
    async [Symbol.asyncDispose]() {
      served.stop();
      await served.ended.catch(() => undefined);
    },
  };
}

const bearer = { authorization: `Bearer ${token}` };

/** A client as a page would have it; every message is checked against the schema. */
class Client implements Disposable {
  readonly socket: WebSocket;
  readonly messages: Message[] = [];
  #id = 0;

  constructor(
    { port }: Served,
    { after = 0, headers = bearer }: { after?: number; headers?: Record<string, string> } = {},
  ) {
    this.socket = new WebSocket(`ws://127.0.0.1:${port}/stream?after=${after}`, [vmmProtocol], { headers });
    this.socket.on('message', (data: Buffer) =>
      this.messages.push(message.parse(JSON.parse(data.toString('utf8')))),
    );
  }

  async see<T>(what: string, found: (message: Message) => T | undefined): Promise<T> {
    return await until(120_000, what, () => {
      for (const each of this.messages) {
        const seen = found(each);
        if (seen !== undefined) return seen;
      }
      return undefined;
    });
  }

  async ask(command: Command | Record<string, unknown>): Promise<unknown> {
    this.#id += 1;
    const id = this.#id;
    this.socket.send(JSON.stringify({ id, command }));
    return await this.see(`an answer to ${JSON.stringify(command)}`, (each) => {
      if (!('id' in each) || each.id !== id) return undefined;
      return 'problem' in each ? each.problem : { result: each.result };
    });
  }

  get events(): Extract<Message, { seq: number }>[] {
    return this.messages.filter((each) => 'seq' in each);
  }

  [Symbol.dispose](): void {
    this.socket.terminate();
  }
}

async function connect(...args: ConstructorParameters<typeof Client>): Promise<Client> {
  const client = new Client(...args);
  await client.see('the greeting', (each) => ('hello' in each ? each : undefined));
  return client;
}

const url = ({ port }: Served, path: string): string => `http://127.0.0.1:${port}${path}`;

suite('a session over HTTP and WebSocket', { skip: withoutKvm }, () => {
  test('a page sees the machine, sends commands, and hears each event once, in order', async () => {
    await using served = await serve(ab);
    using client = await connect(served);
    const first = await client.ask({ do: 'snapshot' });
    assert.partialDeepStrictEqual(first, {
      result: {
        mode: { name: 'long', bits: 64 },
        memory: { bytes: 0x20_0000 },
        vcpus: [{ state: 'paused', registers: { rip: '0x0', cr3: '0x2000' }, exits: { total: 0 } }],
      },
    });
    await client.ask({ do: 'step', count: 1 });
    await client.see('the step', (each) =>
      'event' in each && each.event.kind === 'stopped' ? each : undefined,
    );
    assert.partialDeepStrictEqual(await client.ask({ do: 'break', place: '0x6' }), {
      result: { number: 1, label: '0x6' },
    });
    await client.ask({ do: 'continue' });
    const hit = await client.see('the breakpoint', (each) =>
      'event' in each && each.event.kind === 'stopped' && each.event.end.kind === 'breakpoint'
        ? each.event
        : undefined,
    );
    assert.deepEqual([hit.registers['rip'], hit.isOver], ['0x6', false]);
    assert.deepEqual(await client.ask({ do: 'read', place: '0', bytes: 2 }), {
      result: { address: '0x0', bytes: 'b061' },
    });
    await client.ask({ do: 'set', register: 'rax', value: '0x7a' });
    await client.ask({ do: 'continue' });
    await client.see('the end', (each) =>
      'event' in each && each.event.kind === 'stopped' && each.event.isOver ? each : undefined,
    );
    const kinds = client.events.map(({ event }) => event.kind);
    assert.deepEqual(
      client.events.map(({ seq }) => seq),
      kinds.map((_, index) => index + 1),
    );
    const text = client.events.map(({ event }) => (event.kind === 'output' ? event.text : '')).join('');
    assert.equal(text, 'az');
    const values = client.events.flatMap(({ event }) =>
      event.kind === 'exits' ? event.exits.map(({ value }) => value) : [],
    );
    assert.deepEqual(values, [0x61, 0x7a, undefined]);
    await client.ask({ do: 'reset' });
    assert.partialDeepStrictEqual(await client.ask({ do: 'snapshot' }), {
      result: { vcpus: [{ state: 'paused', registers: { rip: '0x0' } }], breakpoints: [{ number: 1 }] },
    });
  });

  test('who comes back with the last number gets what it missed, and nothing twice', async () => {
    await using served = await serve(ab);
    let seen = 0;
    {
      using client = await connect(served);
      await client.ask({ do: 'step', count: 2 });
      await client.see('the step', (each) =>
        'event' in each && each.event.kind === 'stopped' ? each : undefined,
      );
      seen = client.events.at(-1)?.seq ?? 0;
    }
    const missed = await fetch(url(served, '/command'), {
      method: 'POST',
      headers: bearer,
      body: JSON.stringify({ do: 'continue' }),
    });
    assert.equal(missed.status, 200);
    using again = await connect(served, { after: seen });
    await again.see('the end', (each) =>
      'event' in each && each.event.kind === 'stopped' ? each : undefined,
    );
    assert.equal(again.events[0]?.seq, seen + 1);
    const page: unknown = await (
      await fetch(url(served, `/events?after=${seen}`), { headers: bearer })
    ).json();
    assert.partialDeepStrictEqual(page, { lost: 0, events: [{ seq: seen + 1 }] });
  });

  test('a guest that runs is paused by a second reader, and looking into it meanwhile is refused', async () => {
    await using served = await serve(spin);
    using one = await connect(served);
    using two = await connect(served);
    await one.ask({ do: 'continue' });
    assert.partialDeepStrictEqual(await two.ask({ do: 'read', place: '0', bytes: 1 }), {
      code: 'wrong_state',
    });
    assert.partialDeepStrictEqual(await two.ask({ do: 'step' }), { code: 'wrong_state' });
    assert.partialDeepStrictEqual(await two.ask({ do: 'snapshot' }), {
      result: { vcpus: [{ state: 'running' }] },
    });
    await two.ask({ do: 'pause' });
    const stopped = await one.see('the pause', (each) =>
      'event' in each && each.event.kind === 'stopped' ? each.event : undefined,
    );
    assert.equal(stopped.sentence, 'stopped from outside');
  });

  test('nobody gets in without the token, nor a page that was not named; a browser may bring it as a protocol', async () => {
    const origin = 'http://127.0.0.1:7070';
    await using served = await serve(ab, { origins: [origin] });
    const status = async (headers: Record<string, string>, path = '/snapshot'): Promise<number> =>
      (await fetch(url(served, path), { headers })).status;
    assert.equal(await status({}), 401);
    assert.equal(await status({ authorization: 'Bearer wrong' }), 401);
    assert.equal(await status({}, `/snapshot?token=${token}`), 401);
    assert.equal(await status({ ...bearer, origin: 'http://evil.example' }), 403);
    assert.equal(await status({ ...bearer, origin }), 200);
    assert.equal(await status(bearer, '/nowhere'), 404);
    const preflight = await fetch(url(served, '/snapshot'), { method: 'OPTIONS', headers: { origin } });
    assert.deepEqual([preflight.status, preflight.headers.get('access-control-allow-origin')], [204, origin]);
    const foreign = await fetch(url(served, '/snapshot'), {
      method: 'OPTIONS',
      headers: { origin: 'http://evil.example' },
    });
    assert.deepEqual([foreign.status, foreign.headers.get('access-control-allow-origin')], [403, null]);

    const upgraded = async (
      protocols: string[],
      headers: Record<string, string>,
    ): Promise<number | string> => {
      const socket = new WebSocket(`ws://127.0.0.1:${served.port}/stream`, protocols, { headers });
      const answer = await new Promise<number | string>((resolve) => {
        socket.once('open', () => resolve(socket.protocol));
        socket.once('unexpected-response', (_, { statusCode = 0 }) => resolve(statusCode));
        socket.once('error', () => undefined);
      });
      socket.terminate();
      return answer;
    };
    assert.equal(await upgraded([vmmProtocol], {}), 401);
    assert.equal(await upgraded([vmmProtocol], { ...bearer, origin: 'http://evil.example' }), 403);
    assert.equal(await upgraded([vmmProtocol, `${tokenProtocol}${token}`], { origin }), vmmProtocol);
    assert.equal(await upgraded([vmmProtocol, `${tokenProtocol}wrong`], { origin }), 401);
  });

  test('a name that leads here is no way in: a page of that name would send no Origin', async () => {
    await using served = await serve(ab, { origins: ['https://teach.example'] });
    const status = async (host: string): Promise<number | undefined> => {
      const asked = request(url(served, '/snapshot'), { headers: { ...bearer, host } }).end();
      const [response]: IncomingMessage[] = await once(asked, 'response');
      response?.resume();
      return response?.statusCode;
    };
    for (const host of [`127.0.0.1:${served.port}`, 'localhost:7', '[::1]:7', 'teach.example'])
      assert.equal(await status(host), 200, host);
    for (const host of [`evil.example:${served.port}`, '127.0.0.1.evil.example', 'teach.example.evil'])
      assert.equal(await status(host), 403, host);
  });

  test('who is refused and stays connected does not keep it from ending', async () => {
    const served = await serve(ab);
    const socket = connectTcp({ port: served.port, host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => undefined);
    socket.write(
      'GET /stream HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n',
    );
    const [answer]: Buffer[] = await once(socket, 'data');
    assert.match(String(answer), /^HTTP\/1\.1 401 /);
    served.stop();
    assert.equal(await within(120_000, 'the end', served.ended), 'stopped');
    socket.destroy();
  });

  test('what is no command is refused and changes nothing', async () => {
    await using served = await serve(ab);
    using client = await connect(served);
    const wrong: readonly Record<string, unknown>[] = [
      { do: 'fly' },
      { do: 'step', count: 1e9 },
      { do: 'step', vcpu: 7 },
      { do: 'read', place: '0', bytes: 1e9 },
      { do: 'read', place: '0x1fffff', bytes: 2 },
      { do: 'write', place: '0', bytes: 'xyz' },
      { do: 'set', register: 'cr3', value: '0x0' },
      { do: 'break', place: 'nowhere' },
      { do: 'unbreak', number: 9 },
      { do: 'snapshot', more: 1 },
    ];
    for (const command of wrong)
      for (const answer of [await post(served, command), await client.ask(command)]) {
        const { code: said } = z.looseObject({ code: z.string() }).parse(answer);
        assert.match(said, /^(?:invalid_request|not_found)$/, JSON.stringify(command));
      }
    const noJson = await fetch(url(served, '/command'), { method: 'POST', headers: bearer, body: '{' });
    assert.equal(noJson.status, 400);
    const large = await fetch(url(served, '/command'), {
      method: 'POST',
      headers: bearer,
      body: 'x'.repeat(300_000),
    });
    assert.equal(large.status, 413);
    assert.equal((await fetch(url(served, '/events?after=x'), { headers: bearer })).status, 400);
    client.socket.send('no json');
    await client.see('a refusal', (each) => ('problem' in each && each.id === null ? each : undefined));
    assert.deepEqual(client.events, []);
  });

  test('a reader that does not read holds up nobody and costs a bounded amount; it is told what it lost', async () => {
    await using served = await serve(flood, { outputLimit: 30_000, trace: false });
    using slow = await connect(served);
    using quick = await connect(served);
    slow.socket.pause();
    await quick.ask({ do: 'continue' });
    const end = await quick.see('the end', (each) =>
      'event' in each && each.event.kind === 'stopped' ? each : undefined,
    );
    slow.socket.resume();
    const last = await slow.see('the end, late', (each) =>
      'event' in each && each.seq === end.seq ? each : undefined,
    );
    assert.equal(last.event.kind, 'stopped');
    const told = slow.messages.reduce((sum, each) => sum + ('lost' in each ? each.lost : 0), 0);
    assert.equal(slow.events.length + told, end.seq);
  });

  test('it ends when asked, when nobody is there, and when its time is over; nothing is left', async () => {
    const before = holdings();
    const asked = await serve(spin);
    {
      using client = await connect(asked);
      await client.ask({ do: 'continue' });
      const closed = once(client.socket, 'close');
      await client.ask({ do: 'end' });
      const [codeOfClose] = await within(120_000, 'the socket to close', closed);
      assert.equal(codeOfClose, 1001);
    }
    assert.equal(await asked.ended, 'asked');
    await assert.rejects(fetch(url(asked, '/snapshot'), { headers: bearer }));

    const idle = await serve(spin, { idleMs: 200 });
    assert.equal(await within(120_000, 'the idle end', idle.ended), 'idle');
    const over = await serve(spin, { lifetimeMs: 200 });
    using client = await connect(over);
    assert.equal(await within(120_000, 'the end of its time', over.ended), 'time is over');
    assert.notEqual(client.socket.readyState, WebSocket.OPEN);
    const { fds, mappings } = holdings();
    assert.deepEqual([fds, mappings], [before.fds, before.mappings]);
  });

  test('a port in use is an error, and no machine is left', async () => {
    await using served = await serve(ab);
    const before = holdings();
    await assert.rejects(serve(ab, { port: served.port }), { code: 'unavailable' });
    assert.equal(holdings().fds, before.fds);
  });
});

async function post(served: Served, command: unknown): Promise<unknown> {
  const response = await fetch(url(served, '/command'), {
    method: 'POST',
    headers: bearer,
    body: JSON.stringify(command),
  });
  return await response.json();
}
