import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { addressOfNumber, gatewayOfNumber, numbered } from '#base/numbered.ts';
import { contains, formatAddress, overlaps, parseAddress } from './addresses.ts';
import { type NetworkPlan, checkBeside, defaultPlan, parsePlan, placeOf } from './networks.ts';

function plan(more: Partial<NetworkPlan>): NetworkPlan {
  return { ...defaultPlan, name: 'lab', bridge: 'br1', cidr: '10.20.0.0/24', gateway: '10.20.0.1', ...more };
}

const seed = plan({ name: 'seed', cidr: numbered.cidr, layout: 'routed' });

test('a plan that cannot be is refused with the reason', () => {
  assert.equal(parsePlan(plan({})).range.prefix, 24);
  assert.equal(parsePlan(seed).range.prefix, 18);
  const bad: readonly (readonly [Partial<NetworkPlan>, RegExp])[] = [
    [{ name: '' }, /name of a network/],
    [{ name: 'a b' }, /name of a network/],
    [{ name: 'x; flush ruleset' }, /name of a network/],
    [{ name: 'A' }, /name of a network/],
    [{ name: 'x'.repeat(41) }, /name of a network/],
    [{ bridge: 'v-1' }, /name of a bridge/],
    [{ bridge: 't-1' }, /name of a bridge/],
    [{ bridge: 'uplink0' }, /name of a bridge/],
    [{ bridge: 'lo' }, /name of a bridge/],
    [{ bridge: 'x"' }, /name of a bridge/],
    [{ bridge: 'x'.repeat(16) }, /name of a bridge/],
    [{ cidr: '10.20.0.1/24' }, /Invalid network/],
    [{ cidr: '10.20.0.0/31' }, /no room/],
    [{ gateway: '10.21.0.1' }, /cannot be the gateway/],
    [{ gateway: '10.20.0.0' }, /cannot be the gateway/],
    [{ gateway: '10.20.0.255' }, /cannot be the gateway/],
    [{ layout: 'routed', cidr: '10.20.0.0/25' }, /for each machine/],
    [{ layout: 'routed', dhcp: true }, /no DHCP/],
  ];
  for (const [more, reason] of bad) assert.throws(() => parsePlan(plan(more)), reason, JSON.stringify(more));
});

test('networks are apart; a routed one may lie inside a bridge’s, away from its gateway', () => {
  const main = parsePlan(defaultPlan);
  checkBeside(parsePlan(plan({})), [main]);
  checkBeside(parsePlan(seed), [main]);
  checkBeside(main, [parsePlan(seed)]);
  checkBeside(main, [main]);
  assert.throws(() => checkBeside(parsePlan(plan({ bridge: 'br0' })), [main]), /network default's/);
  const inside = { cidr: '192.168.7.0/24', gateway: '192.168.7.1' };
  assert.throws(() => checkBeside(parsePlan(plan(inside)), [main]), /overlaps network default/);
  const over = parsePlan({ ...seed, cidr: '192.168.0.0/18' });
  assert.throws(() => checkBeside(over, [main]), /overlaps/);
  assert.throws(() => checkBeside(parsePlan({ ...seed, cidr: '192.0.0.0/8' }), [main]), /overlaps/);
  assert.throws(() => checkBeside(parsePlan({ ...seed, name: 'more' }), [parsePlan(seed)]), /overlaps/);
});

test('whatever networks are let beside each other, an address has one place', () => {
  const cidr = fc
    .tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 16, max: 24 }))
    .map(([third, prefix]) => {
      const size = 2 ** (32 - prefix);
      const base = Math.floor(parseAddress(`10.0.${third}.0`) / size) * size;
      return { text: `${formatAddress(base)}/${prefix}`, gateway: formatAddress(base + 1) };
    });
  const network = fc
    .tuple(cidr, fc.constantFrom('bridge', 'routed'))
    .map(([{ text, gateway }, layout]) => ({ cidr: text, gateway, layout }) as const);
  fc.assert(
    fc.property(fc.array(network, { minLength: 2, maxLength: 6 }), (wanted) => {
      const made: ReturnType<typeof parsePlan>[] = [];
      for (const [index, one] of wanted.entries()) {
        const next = parsePlan(plan({ ...one, name: `n${index}`, bridge: `br${index}` }));
        try {
          checkBeside(next, made);
          made.push(next);
        } catch {
          // it cannot be beside the others
        }
      }
      for (const one of made)
        for (const other of made) {
          if (one === other || !overlaps(one.range, other.range)) continue;
          assert.notEqual(one.layout, other.layout);
          assert.notEqual(one.range.prefix, other.range.prefix);
          const [routed, bridged] = one.layout === 'routed' ? [one, other] : [other, one];
          assert.ok(routed.range.prefix > bridged.range.prefix);
          assert.ok(!contains(routed.range, parseAddress(bridged.gateway)));
        }
    }),
  );
});

function at(network: NetworkPlan, address: string): string {
  const { gateway, prefix } = placeOf(parsePlan(network), address);
  return `${formatAddress(gateway)}/${prefix}`;
}

test('a machine’s gateway is the network’s, or the first address of its own /24', () => {
  assert.equal(at(defaultPlan, '192.168.241.2'), '192.168.0.1/16');
  assert.equal(at(plan({ gateway: '10.20.0.254' }), '10.20.0.1'), '10.20.0.254/24');
  assert.equal(at(seed, '192.168.241.2'), '192.168.241.1/24');
  for (const [network, address] of [
    [defaultPlan, '192.168.0.1'],
    [defaultPlan, '192.168.0.0'],
    [defaultPlan, '192.168.255.255'],
    [defaultPlan, '10.0.0.2'],
    [seed, '192.168.241.1'],
    [seed, '192.168.241.255'],
    [seed, '192.168.0.2'],
  ] as const)
    assert.throws(() => placeOf(parsePlan(network), address), /no machine's address/, address);
});

test('all numbers of the seed’s addressing lie in its range, with the gateways they are told', () => {
  for (let number = numbered.first; number <= numbered.last; number += 1)
    assert.deepEqual(placeOf(parsePlan(seed), addressOfNumber(number)), {
      address: parseAddress(addressOfNumber(number)),
      gateway: parseAddress(gatewayOfNumber(number)),
      prefix: numbered.prefix,
    });
});
