import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { parseInterfaces, parseLocalAddresses } from './fib.ts';
import { checksum, encodeEcho, isEchoReply } from './icmp.ts';
import { parseMounts } from './mounts.ts';

const trie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.11.12.0
        /24 link UNICAST
     |-- 10.11.12.13
        /32 host LOCAL
     |-- 10.11.12.255
        /32 link BROADCAST
Local:
     |-- 127.0.0.1
        /32 host LOCAL
`;

test('the addresses of a namespace are those the kernel calls local', () => {
  assert.deepEqual([...parseLocalAddresses(trie)], ['10.11.12.13', '127.0.0.1']);
});

test('interfaces are named before the last colon of their name', () => {
  const text = 'Inter-| Receive\n face |bytes\n    lo: 1 2 3\nv-a.b@c:  5 6\n  eth0:1: 7\n';
  assert.deepEqual(parseInterfaces(text), ['lo', 'v-a.b@c', 'eth0:1']);
});

test('mount points may hold blanks, backslashes and a lone dash', () => {
  const text =
    '36 35 98:0 / /a\\040b\\134c rw,noatime shared:1 - ext4 /dev/x rw,errors=continue\n37 35 0:1 / /d\\040-\\040e ro - tmpfs none rw,size=1k\nbroken line\n';
  assert.deepEqual(parseMounts(text), [
    { path: '/a b\\c', type: 'ext4', options: ['rw', 'noatime', 'rw', 'errors=continue'] },
    { path: '/d - e', type: 'tmpfs', options: ['ro', 'rw', 'size=1k'] },
  ]);
});

test('foreign text never makes the parsers throw', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      parseMounts(text);
      parseInterfaces(text);
      parseLocalAddresses(text);
    }),
  );
});

const header = (from: string): Buffer => {
  const bytes = Buffer.alloc(20);
  bytes[0] = 0x45;
  bytes[9] = 1;
  bytes.set(from.split('.').map(Number), 12);
  return bytes;
};

test('only the answer of the right host to our own packet counts', () => {
  const payload = Buffer.from('0123456789abcdef');
  const request = encodeEcho(7, 1, payload);
  assert.equal(checksum(request), 0);
  const reply = Buffer.from(request);
  reply[0] = 0;
  const from = (address: string, message: Buffer): boolean =>
    isEchoReply(Buffer.concat([header(address), message]), '10.0.0.2', 7, payload);
  assert.ok(from('10.0.0.2', reply));
  assert.ok(!from('10.0.0.3', reply));
  assert.ok(!from('10.0.0.2', request));
  assert.ok(!from('10.0.0.2', encodeEcho(8, 1, payload).fill(0, 0, 1)));
  assert.ok(!from('10.0.0.2', Buffer.from(reply).fill(1, 8, 9)));
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 80 }),
      (bytes) => !isEchoReply(Buffer.from(bytes), '10.0.0.2', 7, payload),
    ),
  );
});
