import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SpecialRegisters, zeroRegisters } from '#kvm/registers.ts';
import { long } from '../modes/long.ts';
import type { Mapping, Walk } from '../paging/walk.ts';
import { disassemble } from './disassemble.ts';
import { explain } from './explain.ts';
import type { Scene } from './scene.ts';

const mapped: Mapping = {
  mapped: true,
  physical: 0n,
  pageBytes: 4096,
  writable: true,
  user: true,
  executable: true,
};
const walkTo = (linear: bigint, result: Walk['result'] = mapped): Walk => ({
  linear,
  format: '4-level',
  steps: [],
  result,
});

/** A guest of 16 bytes that stopped at a nop, unless told otherwise: what this host's KVM may never show. */
function scene(changes: Partial<Scene> & { readonly code?: readonly number[] }): Scene {
  const bytes = Uint8Array.from(changes.code ?? [0x90]);
  return {
    exit: 'SHUTDOWN',
    exitDoc: 'a triple fault',
    suberror: 0,
    mmio: undefined,
    entryFailure: 0n,
    mode: long,
    registers: zeroRegisters,
    special: new SpecialRegisters(),
    exception: undefined,
    fetch: walkTo(0n),
    stack: walkTo(0n),
    at: 0n,
    bytes,
    instruction: disassemble(bytes, 64, 0n),
    accesses: [],
    imageEnd: 16,
    damage: undefined,
    ...changes,
  };
}

test('a processor that reset the registers is not taken for a guest that went astray', () => {
  const special = new SpecialRegisters();
  special.setSegment('cs', { ...special.segment('cs'), selector: 0xf000, base: 0xffff_0000n });
  const registers = { ...zeroRegisters, rip: 0xfff0n };
  assert.match(explain(scene({ special, registers })).cause, /has reset its registers since/);
});

test('a refused entry and an unknown exit say what is known', () => {
  const refused = explain(scene({ exit: 'FAIL_ENTRY', entryFailure: 0x80000021n }));
  assert.match(refused.cause, /reason 0x80000021: the guest state is not valid/);
  assert.match(explain(scene({ exit: 'FAIL_ENTRY', entryFailure: 7n })).cause, /\(reason 0x7\)/);
  const delivery = explain(scene({ exit: 'INTERNAL_ERROR', suberror: 3 }));
  assert.match(delivery.cause, /could not be delivered: its table or stack is bad/);
  const notify = explain(scene({ exit: 'NOTIFY', exitDoc: 'no interrupt came through' }));
  assert.deepEqual([notify.exit, notify.cause], ['NOTIFY', 'no interrupt came through']);
});

test('the exception that KVM reports counts more than what the instruction suggests', () => {
  const { exception } = explain(scene({ exception: { vector: 17, errorCode: 0 }, code: [0x0f, 0x0b] }));
  assert.deepEqual(exception, { vector: 17, name: '#AC alignment check' });
});

test('a store to a page that is not writable is named, a read of it is not', () => {
  const readOnly = walkTo(0x3000n, { ...mapped, writable: false });
  const write = explain(scene({ accesses: [{ linear: 0x3000n, isWrite: true, walk: readOnly }] }));
  assert.match(write.cause, /writes to 0x3000: the page is not writable/);
  assert.equal(write.exception?.vector, 14);
  const read = explain(scene({ accesses: [{ linear: 0x3000n, isWrite: false, walk: readOnly }] }));
  assert.match(read.cause, /raised an exception that was not handled/);
});

test('RIP stood on good ground until the page tables were overwritten', () => {
  const fetch = walkTo(0x25n, { mapped: false, why: 'not mapped: PD[0] is not present' });
  assert.match(explain(scene({ fetch })).cause, /A return or jump went astray$/);
  const { cause } = explain(scene({ fetch, damage: { at: 0x4000, was: 0x87n, is: 0n } }));
  assert.match(cause, /no code: not mapped: PD\[0\] is not present\. Its page tables are not those/);
});
