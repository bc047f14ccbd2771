import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import {
  broadcastOf,
  contains,
  formatAddress,
  formatCidr,
  formatMac,
  gatewayOf,
  lowestFree,
  macOf,
  networkOf,
  overlaps,
  parseAddress,
  parseCidr,
  parseMac,
} from './addresses.ts';

const address = fc.integer({ min: 0, max: 0xffffffff });
const cidr = fc.record({ address, prefix: fc.integer({ min: 0, max: 30 }) });

test('an address survives being written and read', () => {
  fc.assert(fc.property(address, (value) => parseAddress(formatAddress(value)) === value));
  assert.equal(parseAddress('192.168.0.0'), 3232235520);
});

test('a network survives being written and read, and holds exactly its own addresses', () => {
  fc.assert(
    fc.property(cidr, address, ({ address: inside, prefix }, other) => {
      const network = networkOf(inside, prefix);
      assert.deepEqual(parseCidr(formatCidr(network)), network);
      assert.ok(contains(network, inside));
      assert.equal(contains(network, other), networkOf(other, prefix).base === network.base);
      assert.ok(contains(network, broadcastOf(network)));
      assert.ok(!contains(network, broadcastOf(network) + 1));
    }),
  );
});

test('what is no address or no network is refused, not repaired', () => {
  for (const bad of [
    '',
    '1.2.3',
    '1.2.3.4.5',
    '256.0.0.1',
    '01.2.3.4',
    '1.2.3.4 ',
    '-1.2.3.4',
    '1.2.3.4\n',
    '0x1.2.3.4',
  ])
    assert.throws(() => parseAddress(bad), /Invalid IPv4 address/, bad);
  for (const bad of [
    '192.168.0.1/16',
    '10.0.0.0',
    '10.0.0.0/33',
    '10.0.0.0/-1',
    '10.0.0.0/8/8',
    '10.0.0.0/ 8',
  ])
    assert.throws(() => parseCidr(bad), /Invalid network/, bad);
});

test('two networks overlap exactly when they share an address', () => {
  fc.assert(
    fc.property(cidr, cidr, (a, b) => {
      const [first, second] = [networkOf(a.address, a.prefix), networkOf(b.address, b.prefix)];
      const apart = broadcastOf(first) < second.base || broadcastOf(second) < first.base;
      assert.equal(overlaps(first, second), !apart);
    }),
  );
});

test('the lowest free address is free, lowest, and never the gateway or the ends of the network', () => {
  const network = parseCidr('192.168.0.0/24');
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: network.base, max: network.base + 255 })), (taken) => {
      const free = lowestFree(network, taken);
      const candidates = Array.from({ length: 253 }, (_, index) => network.base + 2 + index);
      assert.equal(
        free,
        candidates.find((candidate) => !taken.includes(candidate)),
      );
    }),
  );
  assert.equal(formatAddress(lowestFree(network, []) ?? 0), '192.168.0.2');
  assert.equal(lowestFree(parseCidr('10.0.0.0/30'), [parseAddress('10.0.0.2')]), undefined);
  assert.throws(() => gatewayOf(parseCidr('10.0.0.0/31')), /no room/);
});

test('a hardware address comes from the address, is local and unicast, and survives being read', () => {
  fc.assert(
    fc.property(address, (value) => {
      const bytes = parseMac(macOf(value));
      assert.equal((bytes[0] ?? 0) & 3, 2);
      assert.equal(formatMac(bytes), macOf(value));
    }),
  );
  assert.equal(macOf(parseAddress('192.168.0.2')), '02:ca:c0:a8:00:02');
  assert.throws(() => parseMac('02:ca:c0:a8:00'), /hardware address/);
});
