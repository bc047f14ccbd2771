/** The agent program under AddressSanitizer and UBSan, fed with what no host of ours would send. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { sleep } from '#base/deadline.ts';
import { payload } from './payload.ts';
import { connectAgent } from './client.ts';
import { agentSanitized, request, startAgent } from './testing.ts';
import { ask, encodeFrames, nonceBytes, padding } from './wire.ts';

const skip = existsSync(agentSanitized) ? false : 'needs make -C src/native sanitize';

/** Whatever a frame may hold: mostly right, or nothing at all. Nothing that is executed. */
const text = fc.oneof(
  fc.constantFrom('', '/', '/proc/self/status', '/nowhere', 'root', '../x', 'k'),
  fc.string(),
);
const content = fc.oneof(
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  fc
    .tuple(text, fc.nat(), fc.nat())
    .map(([path, a, b]) => payload().text(path.replaceAll('\0', '')).u64(a).u32(b).done()),
  fc.tuple(text, fc.array(text, { maxLength: 4 })).map(([cwd, argv]) => {
    const to = payload()
      .u32(1000)
      .u32(100)
      .u64(1000)
      .u16(0)
      .u16(0)
      .u8(1)
      .text('nobody')
      .text(cwd.replaceAll('\0', ''));
    to.u32(argv.length);
    for (const each of argv) to.text(`/nowhere/${each.replaceAll('\0', '')}`);
    return to.u32(0).done();
  }),
);
// no identify and no write: fuzzed, they would write where they like
const types = Object.values(ask).filter(
  (type) => type !== ask.identify && type !== ask.write && type !== ask.hello,
);
const frames = fc.array(
  fc.oneof(
    fc
      .tuple(fc.constantFrom(...types), fc.integer({ min: 0, max: 6 }), content)
      .map(([type, channel, bytes]) => encodeFrames(type, channel, bytes)),
    fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
    fc
      .tuple(fc.constantFrom(...types), fc.nat(40))
      .map(([type, cut]) => encodeFrames(type, 1, Buffer.alloc(64)).subarray(0, cut)),
  ),
  { maxLength: 30 },
);

test(
  'no bytes from the port bring the agent down, and a hello is answered after any of them',
  { skip },
  async () => {
    await using bed = await startAgent(agentSanitized);
    bed.agent.close();
    const hello = encodeFrames(ask.hello, 0, payload().u32(1).bytes(Buffer.alloc(nonceBytes, 3)).done());
    await fc.assert(
      fc.asyncProperty(frames, async (parts) => {
        const socket = connect(bed.socket);
        socket.on('error', () => undefined);
        socket.resume();
        socket.write(Buffer.concat([hello, ...parts, padding, hello]));
        await sleep(5);
        socket.destroy();
      }),
      { numRuns: 150 },
    );
    const agent = await connectAgent(bed.socket, { limitMs: 10_000 });
    const { end } = await agent.run(request(['true']));
    assert.deepEqual(end, { kind: 'exited', status: 0 });
    agent.close();
  },
);
