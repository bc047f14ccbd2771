import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { mountAt, mountsOf, parseMountinfo } from './mounts.ts';

const sample = `24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw,discard
25 24 0:5 / /proc rw,nosuid - proc proc rw
36 35 0:31 /a\\040b /mnt/with\\040blank\\134 rw - overlay over\\011lay rw,lowerdir=/l,upperdir=/u
40 24 0:40 / /sys/fs/cgroup/cpu,cpuacct rw master:7 propagate_from:2 - cgroup cgroup rw,cpu,cpuacct
broken line
41 24 0:40 / /proc rw - proc again rw
`;

test('mountinfo is read with its optional fields and its escapes', () => {
  const mounts = parseMountinfo(sample);
  assert.equal(mounts.length, 5);
  assert.deepEqual(mounts[2], {
    id: 36,
    parent: 35,
    device: '0:31',
    root: '/a b',
    path: '/mnt/with blank\\',
    options: ['rw'],
    type: 'overlay',
    source: 'over\tlay',
    superOptions: ['rw', 'lowerdir=/l', 'upperdir=/u'],
  });
  assert.deepEqual(mounts[3]?.superOptions, ['rw', 'cpu', 'cpuacct']);
});

test('the mount of a path is the last of the longest', () => {
  const mounts = parseMountinfo(sample);
  assert.equal(mountAt('/proc/1', mounts)?.source, 'again');
  assert.equal(mountAt('/process', mounts)?.path, '/');
  assert.equal(mountAt('/', mounts)?.type, 'ext4');
});

/** As the kernel does: seq_path with " \t\n\\". */
function escape(text: string): string {
  return text.replaceAll(/[ \t\n\\]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`);
}

test('any path survives the kernel’s escaping', () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1 }), (path) => {
      const [mount] = parseMountinfo(`1 0 0:1 / ${escape(`/${path}`)} rw - tmpfs none rw\n`);
      assert.equal(mount?.path, `/${path}`);
    }),
  );
});

test('noise is no mount, and our own are', () => {
  fc.assert(fc.property(fc.string(), (text) => parseMountinfo(text).length === 0));
  assert.ok(mountsOf().some(({ path, type }) => path === '/proc' && type === 'proc'));
});
