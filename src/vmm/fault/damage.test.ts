import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GuestMemory } from '#kvm/memory.ts';
import { SpecialRegisters } from '#kvm/registers.ts';
import { defaultTables, windowBytes } from '../layout.ts';
import type { ModeName } from '../modes/mode.ts';
import { modes } from '../modes/table.ts';
import { damagedTables } from './damage.ts';

const start = (name: ModeName, base = 0) => {
  const mode = modes[name];
  const memory = GuestMemory.allocate(base + windowBytes);
  const layout = { memory, base, tables: defaultTables };
  const special = new SpecialRegisters();
  mode.setUp(special, layout);
  return { memory, damage: (cr3 = special.get('cr3')) => damagedTables(mode, layout, cr3) };
};

test('an entry that was there and is another one is damage; what the processor sets in it is none', () => {
  const { memory, damage } = start('long', windowBytes);
  const at = windowBytes + 0x4000;
  assert.equal(damage(), undefined);
  memory.view.setBigUint64(at, memory.view.getBigUint64(at, true) | 0x60n, true);
  assert.equal(damage(), undefined);
  memory.view.setBigUint64(at, 0n, true);
  assert.deepEqual(damage(), { at, was: BigInt(windowBytes) | 0x87n, is: 0n });
  assert.equal(damage(0x5000n), undefined, 'it has tables of its own');
});

for (const name of ['long', 'paged'] as const)
  test(`an entry that a guest adds beside the first is no damage (${name})`, () => {
    const { memory, damage } = start(name);
    const bytes = name === 'paged' ? 4 : 8;
    memory.view.setUint32(defaultTables + bytes, 0x40_0087, true);
    assert.equal(damage(), undefined);
    memory.view.setUint32(defaultTables, 0, true);
    assert.equal(damage()?.at, defaultTables);
  });

test('a mode without tables has none to damage', () => {
  const { memory, damage } = start('protected');
  memory.bytes.fill(0xff);
  assert.equal(damage(), undefined);
});
