/** Several networks at once: who reaches whom. */
import assert from 'node:assert/strict';
import { addressOfNumber } from '#base/numbered.ts';
import { test } from 'node:test';
import { launch, launchOk } from '#host/launch.ts';
import { powerOn, ruleset, skip, useFabric, wireOf } from '#test/fabricbed.ts';
import { type Netbed, makeNetns } from '#test/netbed.ts';
import type { TapGuest } from '#test/tapguest.ts';
import { type Wire, openFabric } from './fabric.ts';
import { type NetworkPlan, defaultPlan } from './networks.ts';

const lab: NetworkPlan = {
  ...defaultPlan,
  name: 'lab',
  bridge: 'br1',
  cidr: '10.20.0.0/24',
  gateway: '10.20.0.254',
};
const quiet: NetworkPlan = {
  ...defaultPlan,
  name: 'quiet',
  bridge: 'br2',
  cidr: '10.30.0.0/24',
  gateway: '10.30.0.1',
  nat: false,
  isolation: 'open',
};
const seed: NetworkPlan = { ...defaultPlan, name: 'seed', cidr: '192.168.192.0/18', layout: 'routed' };
const plans = [defaultPlan, lab, quiet, seed];

const places: Record<string, { gateway: string; prefix: number }> = {
  default: { gateway: '192.168.0.1', prefix: 16 },
  lab: { gateway: '10.20.0.254', prefix: 24 },
  quiet: { gateway: '10.30.0.1', prefix: 24 },
};
const vms = new Map<string, TapGuest & { link: string }>();
const wires: Wire[] = [];

const bed = useFabric('several', { networks: [defaultPlan], resolver: '198.18.0.53' }, async (here) => {
  for (const plan of plans) await here.fabric.ensureNetwork(plan);
  const machines: readonly (readonly [string, string, string])[] = [
    ['default', '192.168.0.2', 'anna'],
    ['lab', '10.20.0.2', 'anna'],
    ['lab', '10.20.0.3', 'anna'],
    ['lab', '10.20.0.4', 'ben'],
    ['quiet', '10.30.0.2', 'anna'],
    ['quiet', '10.30.0.3', 'ben'],
    ['seed', addressOfNumber(41), 'anna'],
    ['seed', addressOfNumber(1), 'anna'],
    ['seed', addressOfNumber(2), 'ben'],
  ];
  for (const [network, address, owner] of machines) {
    const wire = wireOf(address, owner, network);
    const place = places[network] ?? { gateway: address.replace(/\.2$/, '.1'), prefix: 24 };
    vms.set(address, here.stack.use(await powerOn(here, wire, place)));
    wires.push(wire);
  }
});

function vm(address: string): TapGuest & { link: string } {
  const found = vms.get(address);
  if (!found) throw new Error(`no machine ${address}`);
  return found;
}

function translations(rules: string): string[] {
  return (rules.match(/^.*masquerade.*$/gm) ?? []).map((line) => line.trim());
}

/** Asked several times where an answer is expected, once where none is. */
async function reaches(from: string, targets: Readonly<Record<string, boolean>>): Promise<void> {
  const found = await Promise.all(
    Object.entries(targets).map(
      async ([target, expected]) =>
        [target, expected ? await vm(from).reaches(target) : await vm(from).pings(target)] as const,
    ),
  );
  assert.deepEqual(Object.fromEntries(found), targets, from);
}

test('machines of one owner talk in one network, and never from network to network', { skip }, async () => {
  await reaches('10.20.0.2', {
    '10.20.0.3': true,
    '10.20.0.4': false,
    '192.168.0.2': false,
    '10.30.0.2': false,
    '192.168.241.2': false,
    '192.168.0.1': false,
    '10.20.0.254': true,
  });
  await reaches('192.168.0.2', { '10.20.0.2': false, '10.30.0.2': false, '10.20.0.254': false });
});

test('in an open network all machines talk', { skip }, async () => {
  await reaches('10.30.0.2', { '10.30.0.3': true, '10.20.0.2': false });
  await reaches('10.30.0.3', { '10.30.0.2': true, '10.20.0.4': false });
});

test(
  'a network with NAT reaches the outside, one without reaches nothing there, and none what is closed',
  { skip },
  async () => {
    for (const from of ['192.168.0.2', '10.20.0.4', '192.168.241.2'])
      await reaches(from, { '203.0.113.1': true, '10.9.9.9': false });
    await reaches('10.30.0.2', { '203.0.113.1': false, '10.9.9.9': false });
    const rules = await bed().outside.run('ip', 'route', 'show');
    assert.doesNotMatch(rules.stdout.toString(), /10\.20|192\.168/, 'answers came back by translation only');
  },
);

test('one rule translates each network that has NAT, and none comes twice', { skip }, async () => {
  const before = await ruleset();
  assert.deepEqual(translations(before).sort(), [
    'ip saddr 10.20.0.0/24 masquerade',
    'ip saddr 192.168.0.0/16 masquerade',
    'ip saddr 192.168.192.0/18 masquerade',
  ]);
  for (let round = 0; round < 3; round += 1) {
    using again = await openFabric({ networks: plans, resolver: '198.18.0.53' });
    assert.deepEqual(await again.reconcile(wires), { removed: [], missing: [] });
  }
  using other = await openFabric({ resolver: '198.18.0.53' });
  await assert.rejects(other.plugTap(wireOf('10.20.0.9', 'anna', 'lab')), /no network "lab"/);
  assert.equal(await ruleset(), before, 'a process that knows one network leaves the others alone');
  await reaches('10.20.0.2', { '10.20.0.3': true, '10.20.0.4': false, '203.0.113.1': true });
  await reaches('192.168.241.2', { '203.0.113.1': true });
});

test('a routed machine has its own wire, network and gateway', { skip }, async () => {
  assert.equal(vm('192.168.241.2').link, 'vmtap141');
  const shown = (await launchOk(['ip', '-4', 'addr', 'show', 'vmtap141'])).stdout.toString();
  assert.match(shown, /inet 192\.168\.241\.1\/24/);
  assert.doesNotMatch((await launchOk(['ip', 'link', 'show', 'vmtap141'])).stdout.toString(), /master/);
  await launchOk(['busybox', 'ping', '-c1', '-W1', '192.168.241.2']);
  await reaches('192.168.241.2', {
    '192.168.241.1': true,
    '192.168.201.2': true,
    '192.168.202.2': false,
    '192.168.0.2': false,
    '192.168.0.1': false,
    '192.168.202.1': false,
  });
  await reaches('192.168.202.2', { '192.168.241.2': false, '192.168.201.2': false });
});

test('a routed machine speaks with its own addresses only', { skip }, async () => {
  const guest = vm('192.168.241.2');
  for (const address of ['192.168.241.3', '192.168.201.2', '192.168.0.2']) {
    await guest.run('ip', 'addr', 'add', `${address}/32`, 'dev', 'eth0');
    for (const target of ['192.168.241.1', '203.0.113.1', '192.168.201.2'])
      if (target !== address)
        assert.notEqual(
          (await guest.run('busybox', 'ping', '-c1', '-W1', '-I', address, target)).status,
          0,
          `${address} to ${target}`,
        );
    await guest.run('ip', 'addr', 'del', `${address}/32`, 'dev', 'eth0');
  }
  await guest.run('ip', 'link', 'set', 'eth0', 'address', '02:ca:00:00:00:99');
  assert.equal(await guest.pings('192.168.241.1'), false, 'nor with another hardware address');
  await guest.run('ip', 'link', 'set', 'eth0', 'address', '02:ca:c0:a8:f1:02');
  await guest.run('ip', 'route', 'add', 'default', 'via', '192.168.241.1');
  assert.ok(await guest.reaches('192.168.241.1'));
});

test('containers have their place in every layout, too', { skip }, async () => {
  for (const [network, address, gateway] of [
    ['lab', '10.20.0.20', '10.20.0.254'],
    ['seed', '192.168.210.2', '192.168.210.1'],
  ] as const) {
    await using machine: Netbed = await makeNetns();
    const wire = wireOf(address, 'anna', network);
    await bed().fabric.plug({ ...wire, pid: machine.pid });
    const neighbour = network === 'lab' ? '10.20.0.2' : '192.168.241.2';
    const found = [gateway, '203.0.113.1', neighbour].map(async (target) => await machine.reaches(target));
    const reached = await Promise.all(found);
    await bed().fabric.unplug(wire.machineId);
    assert.deepEqual(reached, [true, true, true], address);
  }
});

test('a network is removed when nothing is plugged, and leaves nothing', { skip }, async () => {
  const { fabric } = bed();
  await assert.rejects(fabric.removeNetwork('lab'), /in use by 3 machines/);
  await assert.rejects(fabric.removeNetwork('seed'), /in use by 3 machines/);
  await assert.rejects(
    fabric.ensureNetwork({ ...lab, cidr: '10.21.0.0/24', gateway: '10.21.0.1' }),
    /in use/,
  );
  const before = await ruleset();
  const links = (await launchOk(['ip', '-br', 'link'])).stdout.toString();
  for (const plan of [
    { ...lab, name: 'more', bridge: 'br7', cidr: '10.70.0.0/24', gateway: '10.70.0.1', dhcp: true },
    { ...seed, name: 'more', cidr: '10.70.0.0/16', gateway: '10.70.0.1' },
  ]) {
    await fabric.ensureNetwork(plan);
    const address = plan.layout === 'routed' ? '10.70.3.2' : '10.70.0.2';
    const wire = wireOf(address, 'anna', 'more');
    const { fd } = await fabric.plugTap({ ...wire, bytesPerSecond: 1_000_000 });
    assert.ok((await ruleset()).includes('nat-more'));
    await assert.rejects(fabric.removeNetwork('more'), /in use by 1 machine/);
    fd.close();
    await fabric.unplug(wire.machineId);
    await fabric.removeNetwork('more');
    await fabric.removeNetwork('more');
    assert.equal(await ruleset(), before);
    assert.equal((await launchOk(['ip', '-br', 'link'])).stdout.toString(), links);
  }
});

test('NAT can be given and taken while machines run', { skip }, async () => {
  const { fabric } = bed();
  const before = await ruleset();
  await fabric.ensureNetwork({ ...quiet, nat: true });
  await reaches('10.30.0.2', { '203.0.113.1': true, '10.9.9.9': false });
  await fabric.ensureNetwork(quiet);
  await reaches('10.30.0.2', { '203.0.113.1': false });
  assert.equal(await ruleset(), before);
});

test('a network that is in no plan any more goes when the fabric is opened again', { skip }, async () => {
  const before = await ruleset();
  {
    using earlier = await openFabric({ networks: plans, resolver: '198.18.0.53' });
    await earlier.ensureNetwork({
      ...lab,
      name: 'old',
      bridge: 'br8',
      cidr: '10.80.0.0/24',
      gateway: '10.80.0.1',
    });
    await earlier.ensureNetwork({ ...seed, name: 'older', cidr: '10.81.0.0/16' });
  }
  using again = await openFabric({ networks: plans, resolver: '198.18.0.53' });
  assert.deepEqual(await again.reconcile(wires), { removed: ['br8'], missing: [] });
  assert.equal(await ruleset(), before);
  assert.notEqual((await launch(['ip', 'link', 'show', 'br8'])).status, 0);
  await reaches('10.20.0.2', { '10.20.0.3': true });
});
