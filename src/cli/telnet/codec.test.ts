import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { createDecoder, encodeOutput } from './codec.ts';

const IAC = 255;
const bytesOf = (...parts: readonly (number | string)[]): Uint8Array =>
  Buffer.concat(
    parts.map((part) => (typeof part === 'number' ? Buffer.of(part) : Buffer.from(part, 'latin1'))),
  );

function decode(...parts: readonly (number | string)[]) {
  const { input, reply, size } = createDecoder()(bytesOf(...parts));
  return { input: Buffer.from(input).toString('latin1'), reply: [...reply], size };
}

test('text passes; Enter is one character however the client sends it', () => {
  assert.equal(decode('ls\r\n').input, 'ls\r');
  assert.equal(decode('ls\r\0x').input, 'ls\rx');
  assert.equal(decode('ls\rx').input, 'ls\rx');
  assert.equal(decode('a\nb').input, 'a\nb');
});

test('commands do not reach the machine; a doubled 255 is one byte', () => {
  assert.equal(decode('a', IAC, 241, 'b').input, 'ab');
  assert.equal(decode('a', IAC, IAC, 'b').input, 'a\u00ffb');
  assert.equal(decode('a', IAC, 244).input, 'a\u0003');
});

test('options that nobody needs are refused, once, and answers to what we offered are not answered', () => {
  assert.deepEqual(decode(IAC, 253, 24).reply, [IAC, 252, 24]); // DO TERMINAL-TYPE -> WONT
  assert.deepEqual(decode(IAC, 251, 34).reply, [IAC, 254, 34]); // WILL LINEMODE -> DONT
  assert.deepEqual(
    decode(IAC, 253, 1, IAC, 253, 3, IAC, 251, 3, IAC, 251, 31, IAC, 252, 9, IAC, 254, 9).reply,
    [],
  );
});

test('the size of the window is understood, also with a column count of 255', () => {
  assert.deepEqual(decode(IAC, 250, 31, 0, 80, 0, 24, IAC, 240).size, { rows: 24, columns: 80 });
  assert.deepEqual(decode(IAC, 250, 31, 0, IAC, IAC, 0, 24, IAC, 240).size, { rows: 24, columns: 255 });
  assert.equal(decode(IAC, 250, 31, 0, 0, 0, 0, IAC, 240).size, undefined);
  assert.equal(decode(IAC, 250, 31, IAC, 240).size, undefined);
});

test('a subnegotiation without an end holds little and gives nothing to the machine', () => {
  assert.equal(decode(IAC, 250, 24, 'x'.repeat(1_000_000)).input, '');
});

test('what a client encodes arrives, however it is cut into pieces', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.array(fc.nat(10)), (bytes, cuts) => {
      const plain = bytes.filter((byte) => byte !== 13); // Enter is looked at above
      const encoded = encodeOutput(plain);
      const decoder = createDecoder();
      const got: number[] = [];
      let at = 0;
      for (const cut of [...cuts, encoded.length]) {
        got.push(...decoder(encoded.subarray(at, at + cut)).input);
        at += cut;
      }
      assert.deepEqual(got, [...plain]);
    }),
  );
});

test('any bytes at all are taken, and the answer is bounded by what came', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 50 }), { maxLength: 20 }), (chunks) => {
      const decoder = createDecoder();
      for (const chunk of chunks) {
        const { input, reply } = decoder(chunk);
        assert.ok(input.length <= chunk.length && reply.length <= 9 * (chunk.length + 1));
      }
    }),
  );
});
