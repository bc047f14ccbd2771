import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exitsOf, vcpuStats } from './observe.ts';

test('exits are those of all processors, and null where nobody counts', () => {
  // as QEMU 7.2 answers with -accel kvm -smp 2, and with -accel tcg
  const kvm = [
    {
      provider: 'kvm',
      stats: [{ name: 'exits', value: 41 }],
      'qom-path': '/machine/unattached/device[2]',
    },
    {
      provider: 'kvm',
      stats: [
        { name: 'halt_poll_success_hist', value: [1, 2] },
        { name: 'exits', value: 1 },
      ],
      'qom-path': '/machine/unattached/device[0]',
    },
  ];
  assert.equal(exitsOf(vcpuStats.parse(kvm)), 42);
  assert.equal(exitsOf(vcpuStats.parse([])), null);
  assert.equal(
    vcpuStats.safeParse([{ provider: 'kvm', stats: [{ name: 'exits', value: 'many' }] }]).success,
    false,
  );
});
