import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import {
  type Attribute,
  type Message,
  decodeAttributes,
  decodeMessages,
  encodeAttributes,
  encodeMessage,
  readText,
  readU32,
} from './codec.ts';

/** Without being a view of somebody's buffer. */
function copy({ type, flags, sequence, body }: Message): Message {
  return { type, flags, sequence, body: Uint8Array.from(body) };
}

const type = fc.integer({ min: 1, max: 0x3fff });
const bytes = fc.uint8Array({ maxLength: 200 });

test('attributes survive being encoded and decoded', () => {
  const attribute = fc.record({ type, value: fc.record({ bytes }) });
  fc.assert(
    fc.property(fc.uniqueArray(attribute, { selector: ({ type }) => type }), (attributes) => {
      const encoded = encodeAttributes(attributes);
      assert.equal(encoded.length % 4, 0);
      const decoded = decodeAttributes(encoded);
      assert.equal(decoded.size, attributes.length);
      for (const { type, value } of attributes)
        assert.deepEqual(Uint8Array.from(decoded.get(type) ?? []), value.bytes);
    }),
  );
});

test('numbers, texts and nested attributes are read back as they were', () => {
  const nested: Attribute[] = [
    { type: 1, value: { text: 'bridge' } },
    { type: 2, value: { u32: 0xfffffffe } },
    { type: 3, value: { u8: 255 } },
    { type: 4, value: { u16: 0x1234 } },
  ];
  const inner = decodeAttributes(
    decodeAttributes(encodeAttributes([{ type: 18, value: { nested } }])).get(18) ?? new Uint8Array(),
  );
  assert.equal(readText(inner.get(1)), 'bridge');
  assert.equal(readU32(inner.get(2)), 0xfffffffe);
  assert.deepEqual([...(inner.get(3) ?? [])], [255]);
  assert.deepEqual([...(inner.get(4) ?? [])], [0x34, 0x12]);
  assert.equal(readU32(inner.get(3)), undefined);
  assert.throws(() => encodeAttributes([{ type: 1, value: { text: 'a\0b' } }]), /NUL/);
});

test('messages of one datagram are told apart', () => {
  const message = fc.record(
    {
      type: fc.integer({ min: 0, max: 0xffff }),
      flags: fc.integer({ min: 0, max: 0xffff }),
      sequence: fc.integer({ min: 0, max: 0xffffffff }),
      body: bytes,
    },
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(fc.array(message, { maxLength: 5 }), (messages) => {
      assert.deepEqual(decodeMessages(Buffer.concat(messages.map(encodeMessage))).map(copy), messages);
    }),
  );
});

test('malformed bytes never loop and never read beyond their end', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (noise) => {
      for (const payload of decodeAttributes(noise).values()) assert.ok(payload.length <= noise.length);
      try {
        decodeMessages(noise);
      } catch (error) {
        assert.match(String(error), /malformed/);
      }
    }),
  );
});
