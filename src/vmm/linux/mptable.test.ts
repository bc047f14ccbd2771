import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { ioApicPins, place } from './layout.ts';
import { mostProcessors, mpTable } from './mptable.ts';

const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => total + byte, 0) & 0xff;
const lengths: Readonly<Record<number, number>> = { 0: 20, 1: 8, 2: 8, 3: 8, 4: 8 };

/** The entries of a table as a kernel walks them (arch/x86/kernel/mpparse.c). */
function entriesOf(bytes: Uint8Array): Uint8Array[] {
  const view = new DataView(bytes.buffer);
  const found: Uint8Array[] = [];
  let at = 16 + 44;
  for (let left = view.getUint16(16 + 34, true); left > 0; left -= 1) {
    const length = lengths[bytes[at] ?? 255];
    assert.ok(length !== undefined, `entry of type ${bytes[at]}`);
    found.push(bytes.subarray(at, at + length));
    at += length;
  }
  assert.equal(at, bytes.length);
  return found;
}

test('pointer and table have their marks, lengths and sums, for any number of processors', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: mostProcessors }),
      fc.uniqueArray(fc.integer({ min: 0, max: ioApicPins - 1 })),
      (vcpus, levels) => {
        const bytes = mpTable({ vcpus, levels });
        const view = new DataView(bytes.buffer);
        assert.ok(bytes.length <= 0x1_0000, 'it fits behind 0xF0000');
        assert.equal(Buffer.from(bytes.subarray(0, 4)).toString(), '_MP_');
        assert.equal(sum(bytes.subarray(0, 16)), 0);
        assert.equal(view.getUint32(4, true), place.mpTable + 16);
        assert.equal(Buffer.from(bytes.subarray(16, 20)).toString(), 'PCMP');
        assert.equal(view.getUint16(20, true), bytes.length - 16);
        assert.equal(sum(bytes.subarray(16)), 0);
        assert.equal(view.getUint32(16 + 36, true), 0xfee0_0000);

        const entries = entriesOf(bytes);
        const processors = entries.filter(([type]) => type === 0);
        assert.deepEqual(
          processors.map((entry) => entry[1]),
          Array.from({ length: vcpus }, (_, id) => id),
        );
        assert.deepEqual(
          processors.map((entry) => entry[3]),
          Array.from({ length: vcpus }, (_, id) => (id === 0 ? 3 : 1)),
        );
        const ioApic = entries.find(([type]) => type === 2);
        assert.equal(ioApic?.[1], vcpus, 'an id of its own');
        const interrupts = entries.filter(([type]) => type === 3);
        assert.equal(interrupts.length, ioApicPins);
        for (const [index, entry] of interrupts.entries()) {
          assert.equal(entry[2], levels.includes(index) ? 0x0d : 0);
          assert.deepEqual([...entry.subarray(5)], [index, vcpus, index]);
        }
        assert.equal(entries.filter(([type]) => type === 4).length, 2);
      },
    ),
  );
});

test('more processors than there are APIC ids are refused', () => {
  for (const vcpus of [0, 255, 1.5, -1, Number.NaN])
    assert.throws(() => mpTable({ vcpus, levels: [] }), /1 to 254/);
});
