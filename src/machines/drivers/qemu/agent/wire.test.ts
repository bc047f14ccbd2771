import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { createTranscript } from './transcript.ts';
import { payload, reading } from './payload.ts';
import {
  createFrameDecoder,
  encodeFrames,
  headBytes,
  markBytes,
  maxPayloadBytes,
  maxRequestBytes,
  nonceBytes,
  tell,
} from './wire.ts';

const nonce = Buffer.alloc(nonceBytes, 7);
const welcome = encodeFrames(tell.welcome, 0, payload().u32(1).bytes(nonce).done());

interface Plain {
  readonly type: number;
  readonly channel: number;
  readonly payload: Buffer;
}

/** Everything that comes out of a stream that arrives in pieces of these sizes. */
function decode(stream: Buffer, cuts: readonly number[]): Plain[] {
  const decoder = createFrameDecoder(nonce);
  const frames: Plain[] = [];
  for (let at = 0, i = 0; at < stream.length; i += 1) {
    const size = cuts[i % cuts.length] ?? 1;
    decoder.push(stream.subarray(at, at + size), ({ type, channel, payload }) =>
      frames.push({ type, channel, payload: Buffer.from(payload) }),
    );
    at += size;
  }
  return frames;
}

const frame = fc.record({
  type: fc.integer({ min: 102, max: 111 }),
  channel: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  payload: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
});
const plain = (frames: readonly Plain[]): unknown[] =>
  frames.map(({ type, channel, payload }) => [type, channel, payload.toString('hex')]);
const cuts = fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1 });

test('frames come out as they went in, however the stream is cut', () => {
  fc.assert(
    fc.property(fc.array(frame), cuts, (frames, sizes) => {
      const parts = frames.map(({ type, channel, payload }) => encodeFrames(type, channel, payload));
      assert.deepEqual(plain(decode(Buffer.concat([welcome, ...parts]), sizes).slice(1)), plain(frames));
    }),
  );
});

test('what an earlier connection left behind is passed over, up to the welcome with our nonce', () => {
  const other = encodeFrames(tell.welcome, 0, payload().u32(1).bytes(Buffer.alloc(nonceBytes, 8)).done());
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), frame, fc.nat(50), cuts, (junk, half, cut, sizes) => {
      const piece = encodeFrames(half.type, half.channel, half.payload);
      const stream = Buffer.concat([
        junk,
        other,
        piece.subarray(0, Math.max(0, piece.length - 1 - cut)),
        welcome,
      ]);
      const frames = decode(stream, sizes);
      assert.equal(frames.length, 1);
      assert.equal(frames[0]?.type, tell.welcome);
    }),
  );
});

test('after the welcome, what is no frame ends the connection', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: headBytes, maxLength: 200 }), (junk) => {
      assert.throws(
        () => decode(Buffer.concat([welcome, junk]), [64]),
        (error) => isCarrelError(error, 'machine_lost'),
      );
    }),
  );
});

test('a frame that announces too much is refused before it is gathered', () => {
  const announced = Buffer.from(encodeFrames(tell.stdout, 1, Buffer.alloc(1)));
  announced.writeUInt32LE(2 ** 30, 4);
  assert.throws(
    () => decode(Buffer.concat([welcome, announced.subarray(0, headBytes)]), [1000]),
    (error) => isCarrelError(error, 'machine_lost'),
  );
});

test('a stream that never says welcome is given up', () => {
  const decoder = createFrameDecoder(nonce);
  const chunk = Buffer.alloc(64 << 10, 0xe1);
  assert.throws(
    () => {
      for (let i = 0; i < 100; i += 1) decoder.push(chunk, () => assert.fail('no frame is in it'));
    },
    (error) => isCarrelError(error, 'machine_lost'),
  );
});

test('long requests are cut, too long ones refused', () => {
  const whole = headBytes + markBytes;
  const bytes = encodeFrames(3, 1, Buffer.alloc(maxPayloadBytes + 1));
  assert.equal(bytes.length, maxPayloadBytes + 1 + 2 * whole);
  assert.equal(bytes.readUInt16LE(10), 1, 'more follows');
  assert.equal(bytes.readUInt16LE(whole + maxPayloadBytes + 10), 0, 'the last one');
  assert.throws(
    () => encodeFrames(3, 1, Buffer.alloc(maxRequestBytes + 1)),
    (error) => isCarrelError(error, 'too_large'),
  );
});

test('an answer that is cut short is a broken one, and a NUL in a text a mistake of the caller', () => {
  assert.throws(
    () => reading(Buffer.alloc(3)).u32(),
    (error) => isCarrelError(error, 'machine_lost'),
  );
  assert.throws(
    () => reading(Buffer.alloc(8, 255)).u64(),
    (error) => isCarrelError(error, 'machine_lost'),
  );
  assert.throws(
    () => payload().text('a\0b'),
    (error) => isCarrelError(error, 'invalid_request'),
  );
});

test('a transcript gives what a plain array would, where that is still kept', () => {
  const [headBytes, ringBytes] = [20, 16];
  const step = fc.record({
    gap: fc.oneof(fc.constant(0), fc.nat(30)),
    length: fc.integer({ min: 0, max: 40 }),
  });
  fc.assert(
    fc.property(fc.array(step), fc.nat(200), fc.integer({ min: 1, max: 50 }), (steps, from, most) => {
      const store = createTranscript({ headBytes, ringBytes });
      const known = new Map<number, number>();
      let at = 0;
      for (const { gap, length } of steps) {
        if (length === 0) continue;
        const start = at + gap;
        const bytes = Uint8Array.from({ length }, (_, i) => (start + i) % 251);
        store.add(start, bytes);
        bytes.forEach((byte, i) => known.set(start + i, byte));
        at = start + length;
      }
      const part = store.read(from, most);
      assert.equal(part.total, at);
      assert.ok(part.bytes.length <= most);
      part.bytes.forEach((byte, i) => assert.equal(byte, known.get(part.from + i)));
      // nothing that must be there is left out: the beginning and the end, each as far as the first gap
      const whole = (start: number, end: number): boolean =>
        Array.from({ length: Math.max(0, end - start) }, (_, i) => known.has(start + i)).every(Boolean);
      const inHead = from < headBytes && whole(0, from + 1);
      const inRing = from >= at - ringBytes && whole(from, at);
      if (from < at && (inHead || inRing)) assert.ok(part.from === from && part.bytes.length > 0);
      assert.ok(part.from >= Math.min(from, at));
    }),
    { numRuns: 500 },
  );
});
