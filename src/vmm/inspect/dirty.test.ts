import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { withoutKvm } from '#kvm/testing.ts';
import { flatImage } from '../image/image.ts';
import { createMachine } from '../machine.ts';

/** movb $1, 0x5000; movb $0, 0x7000; hlt: a change, and a write that changes nothing. */
const image = flatImage(
  Uint8Array.of(0xc6, 0x04, 0x25, 0, 0x50, 0, 0, 1, 0xc6, 0x04, 0x25, 0, 0x70, 0, 0, 0, 0xf4),
);

suite('pages that were written', { skip: withoutKvm }, () => {
  test('the dirty log has what the guest wrote, changed or not, in the window of each vCPU', async () => {
    using machine = createMachine({ mode: 'long', image, vcpus: 2, watchDirty: 'dirty log' });
    assert.ok(machine.dirty);
    assert.deepEqual(machine.dirty.look().all, []);
    await machine.run();
    const { all, fresh, method, changed } = machine.dirty.look();
    assert.equal(method, 'dirty log');
    assert.deepEqual(fresh, all);
    // besides, the processor may mark the tables it walked, and hardware KVM logs the code that is read
    const own = all.filter((page) => (page & 0x1f_ffff) >= 0x5000);
    assert.deepEqual(own, [0x5000, 0x7000, 0x20_5000, 0x20_7000]);
    const changedOwn = changed.filter((page) => own.includes(page));
    assert.deepEqual(changedOwn, [0x5000, 0x20_5000]);
    const later = machine.dirty.look();
    assert.deepEqual([later.fresh, later.all], [[], all]);
  });

  test('a comparison has what changed, whoever wrote it', async () => {
    using machine = createMachine({ mode: 'protected', image, watchDirty: 'comparison with a copy' });
    assert.ok(machine.dirty);
    await machine.run();
    machine.memory.bytes[0x9000] = 1;
    assert.deepEqual(machine.dirty.look().fresh, [0x5000, 0x9000]);
    assert.deepEqual(machine.dirty.look(), {
      method: 'comparison with a copy',
      fresh: [],
      all: [0x5000, 0x9000],
      changed: [0x5000, 0x9000],
    });
  });

  test('a machine that was not asked does not watch', () => {
    using machine = createMachine({ mode: 'long', image });
    assert.equal(machine.dirty, undefined);
  });
});
