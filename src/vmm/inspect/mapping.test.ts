import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mappingIn } from './mapping.ts';

const maps = `00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus daemon
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
7f0000200000-7f0000203000 rw-s 00000000 00:0e 12                         anon_inode:kvm-vcpu:0
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`;

test('a mapping is found by any address in it, and by no other', () => {
  const memory = {
    from: 0x7f0000000000n,
    to: 0x7f0000200000n,
    rights: 'rw',
    shared: false,
    path: '',
  };
  assert.deepEqual(mappingIn(maps, 0x7f0000000000n), memory);
  assert.deepEqual(mappingIn(maps, 0x7f00001fffffn), memory);
  assert.deepEqual(mappingIn(maps, 0x7f0000200000n), {
    from: 0x7f0000200000n,
    to: 0x7f0000203000n,
    rights: 'rw',
    shared: true,
    path: 'anon_inode:kvm-vcpu:0',
  });
  assert.equal(mappingIn(maps, 0x452000n), undefined);
  assert.equal(mappingIn(maps, 0x451fffn)?.path, '/usr/bin/dbus daemon');
  assert.equal(mappingIn(maps, 0xffff_ffff_ff60_0000n)?.rights, 'x');
  assert.equal(mappingIn('', 0n), undefined);
});
