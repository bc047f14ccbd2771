import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  addressOfNumber,
  gatewayOfNumber,
  isMachineNumber,
  numberOfAddress,
  numbered,
  tapOfNumber,
} from './numbered.ts';

test('the numbers are the seed’s: from 1, as long as the subnet is an octet', () => {
  assert.deepEqual([numbered.first, numbered.last], [1, 55]);
  assert.deepEqual(
    [tapOfNumber(41), gatewayOfNumber(41), addressOfNumber(41)],
    ['vmtap141', '192.168.241.1', '192.168.241.2'],
  );
  for (const bad of [0, 56, -1, 1.5, Number.NaN]) assert.equal(isMachineNumber(bad), false);
});

test('an address tells its number, and only one of these subnets does', () => {
  for (let number = numbered.first; number <= numbered.last; number += 1)
    assert.equal(numberOfAddress(addressOfNumber(number)), number);
  for (const other of ['192.168.200.2', '192.168.0.2', '192.169.241.2', '10.168.241.2', '', 'x'])
    assert.equal(numberOfAddress(other), undefined, other);
});
