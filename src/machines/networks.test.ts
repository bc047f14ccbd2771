import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { formatCidr, networkOf, overlaps, parseCidr } from '#fabric/addresses.ts';
import { gatewayOfNumber, numbered } from '#base/numbered.ts';
import { rangeFor, standing } from './networks.ts';

const bridge = (cidr?: string) => ({ cidr, layout: 'bridge' as const });

test('who names no range gets one that touches no other network', () => {
  const range = fc
    .record({
      address: fc.integer({ min: 0x0a000000, max: 0x0affffff }),
      prefix: fc.integer({ min: 21, max: 29 }), // twenty of them cannot take all 256
    })
    .map(({ address, prefix }) => ({ cidr: formatCidr(networkOf(address, prefix)) }));
  fc.assert(
    fc.property(fc.array(range, { maxLength: 20 }), (others) => {
      const { cidr, gateway } = rangeFor(bridge(), others);
      assert.ok(others.every((other) => !overlaps(parseCidr(cidr), parseCidr(other.cidr))));
      assert.equal(gateway, cidr.replace('.0/24', '.1'));
    }),
  );
  const full = Array.from({ length: 256 }, (_, n) => ({ cidr: `10.200.${n}.0/24` }));
  for (const all of [full, [{ cidr: '10.200.0.0/16' }]])
    assert.throws(() => rangeFor(bridge(), all), { code: 'no_capacity' });
});

test('a range is private, has room, and no bits beyond its prefix', () => {
  assert.deepEqual(rangeFor(bridge('172.20.0.0/16'), []), { cidr: '172.20.0.0/16', gateway: '172.20.0.1' });
  for (const wrong of ['8.8.8.0/24', '10.0.0.0/8', '10.0.0.0/30', '10.0.0.1/24', '10.0.0.0', 'x; reboot'])
    assert.throws(() => rangeFor(bridge(wrong), []), { code: 'validation_failed' }, wrong);
  assert.throws(() => rangeFor({ cidr: '10.9.0.0/24', layout: 'routed' }, []), { code: 'validation_failed' });
});

test('a machine of the routed layout has a subnet and a gateway of its own', () => {
  const network = {
    id: 'n-1',
    name: 'numbered',
    bridge: 'b1',
    cidr: numbered.cidr,
    gateway: gatewayOfNumber(numbered.first),
    nat: true,
    dhcp: false,
    isolation: 'owner' as const,
    layout: 'routed' as const,
    created_by: null,
    created_at: new Date(0),
  };
  for (const number of [1, 2, 55])
    assert.deepEqual(standing(network, `192.168.${200 + number}.2`), {
      prefix: 24,
      gateway: `192.168.${200 + number}.1`,
    });
});
