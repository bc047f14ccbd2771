/** What a machine whose owner is root may answer in the agent's place. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { until, within } from '#base/deadline.ts';
import { type ErrorCode, isCarrelError } from '#base/errors.ts';
import type { Agent } from './agent.ts';
import { connectAgent } from './client.ts';
import { payload } from './payload.ts';
import { request } from './testing.ts';
import {
  ask,
  encodeFrames,
  headBytes,
  inputWindowBytes,
  markBytes,
  maxPayloadBytes,
  nonceBytes,
  tell,
} from './wire.ts';

type Answer = (type: number, channel: number, content: Buffer, socket: Socket) => void;

interface Liar extends AsyncDisposable {
  readonly path: string;
  readonly connections: number;
  connect(): Promise<Agent>;
  /** Nobody listens any more. */
  vanish(): Promise<void>;
}

/** Something that greets properly, and then answers as the test says. */
async function startLiar(answer: Answer, { greets = true }: { greets?: boolean } = {}): Promise<Liar> {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-liar-'));
  const path = join(directory, 'sock');
  const sockets = new Set<Socket>();
  let connections = 0;
  const server = createServer((socket) => {
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => undefined);
    let held = Buffer.alloc(0);
    socket.on('data', (chunk: Buffer) => {
      held = Buffer.concat([held, chunk]);
      while (held.length >= headBytes) {
        const whole = headBytes + held.readUInt32LE(4) + markBytes;
        if (held.length < whole) return;
        const [type, channel] = [held.readUInt16LE(8), held.readUInt32LE(12)];
        const content = held.subarray(headBytes, whole - markBytes);
        held = held.subarray(whole);
        if (type === ask.hello) {
          if (greets) socket.write(welcomeFor(content.subarray(4)));
        } else answer(type, channel, content, socket);
      }
    });
  });
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  const agents: Agent[] = [];
  const vanish = (): Promise<void> =>
    new Promise((resolve) => {
      for (const socket of sockets) socket.destroy();
      server.close(() => resolve());
    });
  return {
    path,
    get connections() {
      return connections;
    },
    async connect() {
      const agent = await connectAgent(path, { limitMs: 5000 });
      agents.push(agent);
      return agent;
    },
    vanish,
    async [Symbol.asyncDispose]() {
      for (const agent of agents) agent.close();
      await vanish();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function welcomeFor(nonce: Buffer): Buffer {
  return encodeFrames(tell.welcome, 0, payload().u32(1).bytes(nonce.subarray(0, nonceBytes)).done());
}

const fails = (work: Promise<unknown>, code: ErrorCode): Promise<void> =>
  assert.rejects(within(10_000, 'an error', work), (error) => isCarrelError(error, code));

/** Writes as long as somebody reads, or so many bytes are out. */
function flood(socket: Socket, frame: Buffer, bytes: number): void {
  let sent = 0;
  const more = (): void => {
    while (!socket.destroyed && sent < bytes) {
      sent += frame.length;
      if (!socket.write(frame)) {
        socket.once('drain', more);
        return;
      }
    }
  };
  more();
}

test('one that never says welcome costs the time that was given, and is not waited for', async () => {
  await using liar = await startLiar(() => undefined, { greets: false });
  await fails(connectAgent(liar.path, { limitMs: 100 }), 'deadline_exceeded');
});

test('where nobody listens the machine is lost at once', async () => {
  await fails(connectAgent('/nowhere/agent.sock', { limitMs: 5000 }), 'machine_lost');
});

test('waiting for an agent can be cancelled', async () => {
  await using liar = await startLiar(() => undefined, { greets: false });
  const cancel = new AbortController();
  const pending = connectAgent(liar.path, { limitMs: 60_000, signal: cancel.signal });
  cancel.abort(new Error('enough'));
  await assert.rejects(pending, /enough/);
});

test('an answer of 1 GiB is refused when it exceeds what was asked for', async () => {
  await using liar = await startLiar((type, channel, _, socket) => {
    const frame = encodeFrames(tell.stdout, channel, Buffer.alloc(maxPayloadBytes));
    if (type === ask.read)
      socket.write(
        encodeFrames(
          tell.file,
          channel,
          payload()
            .u32(0o644)
            .u64(2 ** 30)
            .done(),
        ),
      );
    if (type === ask.run || type === ask.read) flood(socket, frame, 2 ** 30);
  });
  const agent = await liar.connect();
  const before = process.memoryUsage().arrayBuffers;
  await fails(agent.run(request(['true'])), 'machine_lost');
  await fails(agent.readFile('/x', { maxBytes: 1000 }), 'machine_lost');
  assert.ok(process.memoryUsage().arrayBuffers - before < 32 * 2 ** 20);
});

test('output in single bytes costs no more memory than its length', async () => {
  await using liar = await startLiar((type, channel, _, socket) => {
    if (type !== ask.run) return;
    const one = encodeFrames(tell.stdout, channel, Buffer.from('x'));
    socket.write(Buffer.concat(Array.from({ length: 200_000 }, () => one)));
    socket.write(encodeFrames(tell.ended, channel, Buffer.alloc(24)));
  });
  const agent = await liar.connect();
  const { stdout } = await agent.run(request(['true']));
  assert.equal(Buffer.from(stdout, 'base64').length, 200_000);
});

test('answers on channels that nobody opened end the connection, and the next request opens another', async () => {
  let lie = true;
  await using liar = await startLiar((type, channel, _, socket) => {
    if (type === ask.ping) socket.write(encodeFrames(tell.done, lie ? channel + 5 : channel));
  });
  const agent = await liar.connect();
  await fails(agent.ping({ limitMs: 5000 }), 'machine_lost');
  lie = false;
  await agent.ping({ limitMs: 5000 });
  assert.equal(liar.connections, 2);
});

test('what comes for a closed channel is thrown away, but not without end', async () => {
  let lost = false;
  await using liar = await startLiar((type, channel, _, socket) => {
    socket.write(encodeFrames(tell.done, channel));
    if (type === ask.usage) return;
    socket.once('close', () => {
      lost = true;
    });
    flood(socket, encodeFrames(tell.stdout, channel, Buffer.alloc(maxPayloadBytes)), 2 ** 30);
  });
  const agent = await liar.connect();
  await agent.ping({ limitMs: 5000 });
  await until(10_000, 'the flood to be cut off', () => (lost ? true : undefined));
});

test('one that never answers is late, and then gone: its ping is not answered either', async () => {
  await using liar = await startLiar(() => undefined);
  const agent = await liar.connect();
  const pending = fails(agent.usage(), 'machine_lost');
  await fails(agent.ping({ limitMs: 50 }), 'deadline_exceeded');
  await pending;
});

test('nonsense in every frame is an error in words, and never a value', async () => {
  const types = [...Object.values(tell), 0, 99, 65_535];
  for (const type of types) {
    if (type === tell.done) continue;
    for (const length of [0, 3, 24]) {
      await using liar = await startLiar((_, channel, __, socket) => {
        socket.write(encodeFrames(type, channel, Buffer.alloc(length, 255)));
        setTimeout(() => socket.destroy(), 20);
      });
      const agent = await liar.connect();
      const works = [
        agent.ping({ limitMs: 2000 }),
        agent.run(request(['true'])),
        agent.readFile('/x', { maxBytes: 10 }),
        agent.attachKept('x'),
        agent.usage(),
      ];
      for (const { status } of await within(10_000, 'all of them', Promise.allSettled(works)))
        assert.equal(status, 'rejected', `type ${type}, ${length} bytes`);
    }
  }
});

test('one that takes more input than it was given, or none at all, gets no second window', async () => {
  let received = 0;
  await using liar = await startLiar((type, channel, content, socket) => {
    if (type === ask.input) received += content.length;
    if (type === ask.input && received === inputWindowBytes) {
      // nothing is taken; then a lie
      setTimeout(
        () =>
          socket.write(
            encodeFrames(
              tell.taken,
              channel,
              payload()
                .u32(2 ** 31)
                .done(),
            ),
          ),
        50,
      );
    }
  });
  const agent = await liar.connect();
  await fails(
    agent.run(request(['cat'], { stdin: Buffer.alloc(2 ** 20).toString('base64') })),
    'machine_lost',
  );
  assert.equal(received, inputWindowBytes);
});

const record = (channel: number, offset: number, length: number): Buffer =>
  encodeFrames(tell.record, channel, payload().u64(offset).bytes(Buffer.alloc(length)).done());

test('a terminal that is told the same output twice, or nothing for ever, ends', async () => {
  const lies: ((channel: number) => Buffer)[] = [
    (channel) => Buffer.concat([record(channel, 0, 100), record(channel, 50, 100)]),
    (channel) => record(channel, 0, 0),
  ];
  for (const lie of lies) {
    await using liar = await startLiar((type, channel, _, socket) => {
      if (type !== ask.attach) return;
      const attached = payload().u64(10_000_000).u32(1).done();
      socket.write(Buffer.concat([encodeFrames(tell.attached, channel, attached), lie(channel)]));
    });
    const agent = await liar.connect();
    await fails(agent.attachKept('x'), 'machine_lost');
  }
});

/** Bytes in buffers that somebody still holds: what is only waiting to be collected does not count. */
function heldBytes(): number {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  assert.ok(typeof collect === 'function');
  collect();
  return process.memoryUsage().arrayBuffers;
}

test('a terminal that is flooded keeps two MiB', async () => {
  const total = 256 * 2 ** 20;
  await using liar = await startLiar((type, channel, _, socket) => {
    if (type !== ask.attach) return;
    socket.write(encodeFrames(tell.attached, channel, payload().u64(total).u32(1).done()));
    let at = 0;
    const more = (): void => {
      while (!socket.destroyed && at < total) {
        at += 65_000;
        if (!socket.write(record(channel, at - 65_000, 65_000))) {
          socket.once('drain', more);
          return;
        }
      }
    };
    more();
  });
  const agent = await liar.connect();
  const before = heldBytes();
  const terminal = await agent.attachKept('x');
  assert.ok(terminal.read(0).total >= total);
  assert.ok(heldBytes() - before < 64 * 2 ** 20);
  terminal.close();
});

test('the end of the machine is noticed without a question', async () => {
  await using liar = await startLiar(() => undefined);
  const agent = await liar.connect();
  await liar.vanish();
  await within(5000, 'the end', agent.closed);
  await fails(agent.ping({ limitMs: 1000 }), 'machine_lost');
});
