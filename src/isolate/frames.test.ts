import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { createFrameDecoder, encodeFrame, encodeInput, frameHeaderBytes } from './frames.ts';

const frame = fc.record({
  kind: fc.constantFrom('J', '1', '2', '3', 'F'),
  payload: fc.uint8Array({ maxLength: 300 }),
});

test('frames come out as they went in, however the stream is cut', () => {
  fc.assert(
    fc.property(
      fc.array(frame),
      fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
      (frames, cuts) => {
        const stream = Buffer.concat(frames.map(({ kind, payload }) => encodeFrame(kind, payload)));
        const decode = createFrameDecoder();
        const got: { kind: string; payload: Uint8Array }[] = [];
        for (let at = 0, i = 0; at < stream.length; i += 1) {
          const size = cuts[i % cuts.length] ?? 1;
          for (const { kind, payload } of decode(stream.subarray(at, at + size)))
            got.push({ kind, payload: new Uint8Array(payload) });
          at += size;
        }
        assert.deepEqual(
          got,
          frames.map(({ kind, payload }) => ({ kind, payload })),
        );
      },
    ),
  );
});

test('a frame that announces too much is refused before it is gathered', () => {
  const header = Buffer.alloc(frameHeaderBytes);
  header.write('1', 'latin1');
  header.writeUInt32LE(1001, 1);
  assert.throws(
    () => createFrameDecoder({ maxBytes: 1000 })(header),
    (error) => isCarrelError(error, 'helper_failed'),
  );
});

test('random bytes never give more payload than was fed', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 200 })), (chunks) => {
      const decode = createFrameDecoder();
      let got = 0;
      let fed = 0;
      try {
        for (const chunk of chunks) {
          fed += chunk.length;
          for (const { payload } of decode(Buffer.from(chunk))) got += payload.length + frameHeaderBytes;
        }
      } catch (error) {
        assert.ok(isCarrelError(error, 'helper_failed'));
      }
      assert.ok(got <= fed);
    }),
  );
});

test('long input is cut into frames that the server takes', () => {
  const input = Buffer.alloc(300_000, 7);
  const frames = createFrameDecoder()(encodeInput(input, { end: true }));
  assert.deepEqual(
    frames.map(({ kind }) => kind),
    ['i', 'i', 'i', 'e'],
  );
  assert.ok(Buffer.concat(frames.map(({ payload }) => payload)).equals(input));
});
