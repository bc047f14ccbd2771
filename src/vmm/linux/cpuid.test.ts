import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { kvmCpuid2, kvmCpuidEntry } from '#kvm/abi/structs.ts';
import { setCpuid } from './cpuid.ts';
import { deviceParameters } from './wiring.ts';

const { fields } = kvmCpuidEntry;
type Register = 'eax' | 'ebx' | 'ecx' | 'edx';

/** A list with these leaves, all bits of all registers set. */
function listOf(leaves: readonly (readonly [leaf: number, index: number])[]): DataView {
  const list = new DataView(new ArrayBuffer(kvmCpuid2.bytes + leaves.length * kvmCpuidEntry.bytes));
  list.setUint32(kvmCpuid2.fields.nent, leaves.length, true);
  for (const [number, [leaf, index]] of leaves.entries()) {
    const at = kvmCpuid2.bytes + number * kvmCpuidEntry.bytes;
    list.setUint32(at + fields.function, leaf, true);
    list.setUint32(at + fields.index, index, true);
    for (const name of ['eax', 'ebx', 'ecx', 'edx'] as const)
      list.setUint32(at + fields[name], 0xffff_ffff, true);
  }
  return list;
}

const get = (list: DataView, number: number, name: Register): number =>
  list.getUint32(kvmCpuid2.bytes + number * kvmCpuidEntry.bytes + fields[name], true);

test('each vCPU has its own number everywhere, and as many neighbours as there are', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 64 }).chain((vcpus) => fc.tuple(fc.constant(vcpus), fc.nat(vcpus - 1))),
      ([vcpus, index]) => {
        const leaves = [
          [1, 0],
          [4, 0],
          [0xb, 0],
          [0xb, 1],
          [0x8000_0008, 0],
          [0x8000_001e, 0],
          [0x4000_0001, 0],
          [7, 0],
        ] as const;
        const list = setCpuid(listOf(leaves), { index, vcpus, deadlineTimer: false, hypercalls: false });
        assert.equal(get(list, 0, 'ebx') >>> 24, index);
        assert.equal((get(list, 0, 'ebx') >>> 16) & 0xff, vcpus);
        assert.equal((get(list, 0, 'edx') >>> 28) & 1, Number(vcpus > 1), 'HTT');
        assert.equal((get(list, 1, 'eax') >>> 26) + 1, vcpus);
        assert.equal(get(list, 2, 'edx'), index);
        assert.deepEqual([get(list, 2, 'eax'), get(list, 2, 'ebx'), get(list, 2, 'ecx')], [0, 1, 0x100]);
        assert.deepEqual([get(list, 3, 'ebx'), get(list, 3, 'ecx')], [vcpus, 0x201]);
        assert.ok(2 ** get(list, 3, 'eax') >= vcpus && 2 ** get(list, 3, 'eax') < 2 * vcpus);
        assert.equal((get(list, 4, 'ecx') & 0xff) + 1, vcpus);
        assert.equal(get(list, 5, 'eax'), index);
        assert.equal(get(list, 6, 'eax') & 0x2884, 0, 'nothing by hypercall');
        for (const name of ['eax', 'ebx', 'ecx', 'edx'] as const)
          assert.equal(get(list, 7, name), 0xffff_ffff, 'what is not ours stays');
      },
    ),
  );
});

test('a kernel is told where its devices are, and of the disk that is its root', () => {
  const disk = { kind: 'block' } as const;
  const card = { kind: 'net' } as const;
  assert.equal(deviceParameters([], { commandLine: 'quiet', hasInitrd: false }), 'quiet');
  assert.equal(
    deviceParameters([disk, card], { commandLine: 'quiet', hasInitrd: false }),
    'quiet virtio_mmio.device=512@0xd0000000:5 virtio_mmio.device=512@0xd0001000:6 root=/dev/vda rw',
  );
  for (const [commandLine, hasInitrd] of [
    ['quiet', true],
    ['root=/dev/vdb', false],
    ['a root=LABEL=x', false],
  ] as const)
    assert.doesNotMatch(deviceParameters([disk], { commandLine, hasInitrd }), /vda/);
  assert.throws(
    () =>
      deviceParameters(
        Array.from({ length: 10 }, () => disk),
        { commandLine: '', hasInitrd: true },
      ),
    /at most 9/,
  );
});
