import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launchOk } from '#host/launch.ts';
import { ruleset, skip, useFabric, wireOf } from '#test/fabricbed.ts';
import { type Netbed, type Tap, makeNetns, openTap } from '#test/netbed.ts';
import { macOf, parseAddress, parseMac } from './addresses.ts';
import { type Fabric, type Wire, linkOf, openFabric } from './fabric.ts';
import { openLinks } from './netlink/links.ts';
import { inNetns } from './netns.ts';

let fabric: Fabric;
/** anna has two machines, ben one; the third of the list is ben's. */
const machines: { bed: Netbed; wire: Wire }[] = [];

function at(index: number): { bed: Netbed; wire: Wire } {
  const machine = machines[index];
  if (!machine) throw new Error(`no machine ${index}`);
  return machine;
}

async function eth0(bed: Netbed): Promise<number> {
  using links = inNetns(bed.pid, () => openLinks());
  return (await links.find('eth0'))?.index ?? 0;
}

const bed = useFabric('fabric', {}, async ({ fabric: opened, stack }) => {
  fabric = opened;
  for (const [number, owner] of [
    [2, 'anna'],
    [3, 'anna'],
    [4, 'ben'],
  ] as const) {
    const machine = stack.use(await makeNetns());
    const wire = wireOf(`192.168.0.${number}`, owner, 'default');
    await fabric.plug({ ...wire, pid: machine.pid });
    machines.push({ bed: machine, wire });
  }
});

test('a machine reaches its gateway and the machines of its owner', { skip }, async () => {
  assert.ok(await at(0).bed.reaches('192.168.0.1'));
  assert.ok(await at(0).bed.reaches('192.168.0.3'));
  assert.ok(await at(1).bed.reaches('192.168.0.2'));
});

test(
  'a machine does not reach those of another owner, directly or by way of the gateway',
  { skip },
  async () => {
    const anna = at(0);
    const ben = at(2);
    assert.equal(await anna.bed.pings(ben.wire.address), false);
    assert.equal(await ben.bed.pings(anna.wire.address), false);
    await anna.bed.run('ip', 'route', 'add', `${ben.wire.address}/32`, 'via', '192.168.0.1');
    assert.equal(await anna.bed.pings(ben.wire.address), false);
    await anna.bed.run('ip', 'route', 'del', `${ben.wire.address}/32`);
  },
);

const marker = Buffer.from('the last frame');

interface FrameParts {
  to?: string;
  from?: string;
  type?: number;
  payload?: Uint8Array;
}

function frame({
  to = at(1).wire.mac,
  from = at(0).wire.mac,
  type = 0x0800,
  payload = ip({}),
}: FrameParts): Buffer {
  return Buffer.concat([parseMac(to), parseMac(from), Buffer.of(type >> 8, type & 255), payload]);
}

/** An IPv4 packet of protocol 253 (for experiments, RFC 3692). */
function ip({ from = at(0).wire.address, to = at(1).wire.address, data = Buffer.from('x') }): Buffer {
  const header = Buffer.from([0x45, 0, 0, 20 + data.length, 0, 0, 0, 0, 64, 253, 0, 0]);
  const packet = Buffer.concat([header, Buffer.from(`${from}.${to}`.split('.').map(Number)), data]);
  let sum = 0;
  for (let at = 0; at < 20; at += 2) sum += packet.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  packet.writeUInt16BE(~sum & 0xffff, 10);
  return packet;
}

function arp({ operation = 2, mac = at(0).wire.mac, address = at(0).wire.address, type = 1 }): Buffer {
  return Buffer.concat([
    Buffer.from([0, type, 8, 0, 6, 4, 0, operation]),
    parseMac(mac),
    Buffer.from(address.split('.').map(Number)),
    parseMac(at(1).wire.mac),
    Buffer.from(at(1).wire.address.split('.').map(Number)),
  ]);
}

/** What arrives, up to a well-behaved last frame: frames on one wire keep their order. */
async function arriving(tap: Tap, ofMac: string): Promise<Buffer[]> {
  const seen: Buffer[] = [];
  await until(5000, 'the last frame', () => {
    seen.push(...tap.received());
    return seen.some((one) => one.includes(marker)) ? true : undefined;
  });
  const neighbour = Buffer.from(parseMac(ofMac));
  return seen.filter(
    (one) => !one.includes(marker) && (one.subarray(6, 12).equals(neighbour) || one.includes('SPOOF')),
  );
}

test('a frame with an address that is not the machine’s own is dropped', { skip }, async () => {
  const anna = at(0);
  using from = openTap(anna.bed.pid, await eth0(anna.bed));
  using to = openTap(at(1).bed.pid, await eth0(at(1).bed));
  const otherMac = '02:ca:c0:a8:00:63';
  const data = Buffer.from('SPOOF');
  to.received();
  const bad: Record<string, Buffer> = {
    'foreign IPv4 source': frame({ payload: ip({ from: '192.168.0.99', data }) }),
    'the source of the neighbour': frame({ payload: ip({ from: '192.168.0.3', data }) }),
    'the gateway’s source': frame({ payload: ip({ from: '192.168.0.1', data }) }),
    'no source': frame({ payload: ip({ from: '0.0.0.0', data }) }),
    'foreign hardware source': frame({ from: otherMac, payload: ip({ data }) }),
    'the gateway’s hardware source': frame({
      from: macOf(parseAddress('192.168.0.1')),
      payload: ip({ data }),
    }),
    'ARP for the gateway’s address': frame({ type: 0x0806, payload: arp({ address: '192.168.0.1' }) }),
    'ARP with a foreign hardware address inside': frame({ type: 0x0806, payload: arp({ mac: otherMac }) }),
    'ARP from a foreign hardware address': frame({ type: 0x0806, from: otherMac, payload: arp({}) }),
    'ARP of another kind of hardware': frame({
      type: 0x0806,
      payload: arp({ type: 6, address: '192.168.0.1' }),
    }),
    'IPv6 router advertisement': frame({
      type: 0x86dd,
      to: '33:33:00:00:00:01',
      payload: Buffer.from('SPOOF'),
    }),
    'VLAN tag': frame({ type: 0x8100, payload: Buffer.concat([Buffer.of(0, 5, 8, 0), ip({ data })]) }),
    'double VLAN tag': frame({ type: 0x88a8, payload: Buffer.concat([Buffer.of(0, 5, 8, 0), ip({ data })]) }),
    'spanning tree': frame({ type: 0x0026, to: '01:80:c2:00:00:00', payload: Buffer.from('SPOOF') }),
    LLDP: frame({ type: 0x88cc, to: '01:80:c2:00:00:0e', payload: Buffer.from('SPOOF') }),
  };
  for (const [name, one] of Object.entries(bad)) {
    from.send(one);
    from.send(frame({ payload: ip({ data: marker }) }));
    assert.deepEqual(await arriving(to, anna.wire.mac), [], name);
  }
  from.send(frame({ type: 0x0806, payload: arp({}) }));
  from.send(frame({ payload: ip({ data: marker }) }));
  assert.equal((await arriving(to, anna.wire.mac)).length, 1, 'an honest ARP answer arrives');
});

test('a broadcast reaches the owner’s machines and nobody else’s', { skip }, async () => {
  const [anna, sister, ben] = [at(0), at(1), at(2)];
  using from = openTap(anna.bed.pid, await eth0(anna.bed));
  using same = openTap(sister.bed.pid, await eth0(sister.bed));
  using other = openTap(ben.bed.pid, await eth0(ben.bed));
  other.received();
  from.send(frame({ to: 'ff:ff:ff:ff:ff:ff', payload: ip({ to: '192.168.255.255', data: marker }) }));
  await until(5000, 'the broadcast', () =>
    same.received().some((one) => one.includes(marker)) ? true : undefined,
  );
  await launchOk(['busybox', 'ping', '-c1', '-W1', ben.wire.address]);
  const seen = other.received();
  assert.ok(seen.length > 0, 'ben hears the gateway');
  assert.ok(!seen.some((one) => one.includes(marker)));
});

test('machines cannot connect to what listens in the fabric, but are reached from it', { skip }, async () => {
  const server = createServer((socket) => socket.end('secret'));
  await new Promise<void>((resolve) => {
    server.listen(0, '0.0.0.0', resolve);
  });
  try {
    const address = server.address();
    const port = String(typeof address === 'object' ? address?.port : 0);
    const inside = await launchOk(['busybox', 'nc', '-w', '2', '192.168.0.1', port]);
    assert.equal(inside.stdout.toString(), 'secret');
    const outside = await at(0).bed.run('busybox', 'nc', '-w', '1', '192.168.0.1', port);
    assert.notEqual(outside.status, 0);
    assert.equal(outside.stdout.length, 0);
  } finally {
    server.close();
  }
  await launchOk(['busybox', 'ping', '-c1', '-W1', '192.168.0.2']);
});

test('a machine reaches the outside masqueraded, and no network that is closed', { skip }, async () => {
  const { outside } = bed();
  await outside.run('ip', 'addr', 'add', '169.254.169.254/32', 'dev', 'outside0');
  assert.ok(await at(0).bed.reaches('203.0.113.1'));
  assert.equal(await at(0).bed.pings('169.254.169.254'), false);
  assert.equal(await at(0).bed.pings('10.9.9.9'), false);
  // from outside nobody gets in uninvited, even with a route
  await outside.run('ip', 'route', 'add', '192.168.0.0/16', 'via', '198.51.100.2');
  assert.equal(await outside.pings('192.168.0.2'), false);
  assert.equal(await outside.pings('192.168.0.1'), false);
  // one that opens more connections than it may is cut off from the outside, and nobody else is
  const flood = `const socket = require('node:dgram').createSocket('udp4');
    (async () => { for (let port = 1; port <= 2500; port += 1)
      await new Promise((done) => socket.send('x', 10000 + port, '203.0.113.1', done)); socket.close(); })();`;
  await at(0).bed.run(process.execPath, '-e', flood);
  assert.equal(await at(0).bed.pings('203.0.113.1'), false);
  assert.ok(await at(1).bed.reaches('203.0.113.1'));
  assert.ok(await at(0).bed.reaches('192.168.0.1'), 'the gateway is nothing outside');
});

test('opening the fabric again doubles nothing and disturbs no machine', { skip }, async () => {
  const rules = await ruleset();
  for (let round = 0; round < 3; round += 1) {
    using again = await openFabric();
    assert.ok(await at(0).bed.reaches('192.168.0.3'), 'before it knows the machines');
    assert.deepEqual(await again.reconcile(machines.map(({ wire }) => wire)), { removed: [], missing: [] });
  }
  assert.equal(await ruleset(), rules);
  assert.ok(await at(0).bed.reaches('192.168.0.3'));
  assert.equal(await at(0).bed.pings('192.168.0.4'), false);
});

test(
  'reconcile removes what belongs to no machine and names the machines without a wire',
  { skip },
  async () => {
    await using stray = await makeNetns();
    await fabric.plug({ ...wireOf('192.168.0.9', 'carl', 'default'), pid: stray.pid });
    const wires = machines.map(({ wire }) => wire);
    const { removed, missing } = await fabric.reconcile([
      ...wires,
      wireOf('192.168.0.10', 'dora', 'default'),
    ]);
    assert.deepEqual(removed, [linkOf(wireOf('192.168.0.9', 'carl', 'default').machineId)]);
    assert.deepEqual(missing, [wireOf('192.168.0.10', 'dora', 'default').machineId]);
    assert.ok(!(await ruleset()).includes(linkOf(wireOf('192.168.0.9', 'carl', 'default').machineId)));
    await fabric.reconcile(wires);
  },
);

test('twenty machines plugged and unplugged at once leave no link and no rule', { skip }, async () => {
  const rules = await ruleset();
  await using beds = new AsyncDisposableStack();
  const many = await Promise.all(
    Array.from({ length: 20 }, async (_, index) => ({
      bed: beds.use(await makeNetns()),
      wire: wireOf(`192.168.0.${20 + index}`, 'eve', 'default'),
    })),
  );
  await Promise.all(many.map(async ({ bed, wire }) => await fabric.plug({ ...wire, pid: bed.pid })));
  assert.ok(await many[0]?.bed.reaches('192.168.0.39'));
  await Promise.all(many.map(async ({ wire }) => await fabric.unplug(wire.machineId)));
  await Promise.all(many.map(async ({ wire }) => await fabric.unplug(wire.machineId)));
  assert.equal(await ruleset(), rules);
});

test(
  'two processes agree: what one plugged the other can plug again, change and unplug',
  { skip },
  async () => {
    const rules = await ruleset();
    using other = await openFabric();
    await using bed = await makeNetns();
    const wire = wireOf('192.168.0.12', 'anna', 'default');
    await fabric.plug({ ...wire, pid: bed.pid });
    assert.ok(await bed.reaches('192.168.0.2'));
    await other.plug({ ...wire, pid: bed.pid, owner: 'ben' });
    assert.equal(await bed.pings('192.168.0.2'), false);
    assert.ok(await bed.reaches('192.168.0.4'));
    await fabric.unplug(wire.machineId);
    assert.equal(await ruleset(), rules);
    await fabric.plug({ ...wire, pid: bed.pid });
    await other.unplug(wire.machineId);
    assert.equal(await ruleset(), rules);
    await fabric.unplug(wire.machineId);
    await other.unplug('m-zzzzzzzzzzzz');
    assert.equal(await ruleset(), rules);
  },
);

test('plugging a machine again replaces its wire', { skip }, async () => {
  await using first = await makeNetns();
  await using second = await makeNetns();
  const wire = wireOf('192.168.0.11', 'anna', 'default');
  await fabric.plug({ ...wire, pid: first.pid });
  await fabric.plug({ ...wire, pid: second.pid });
  assert.ok(await second.reaches('192.168.0.2'));
  assert.ok(!readFileSync(`/proc/${first.pid}/net/dev`, 'utf8').includes('eth0'));
  await fabric.unplug(wire.machineId);
});

test('the fabric cannot be opened where it would change the host', { skip }, async () => {
  await assert.rejects(openFabric({ netns: 'net:[1]' }), /own network namespace/);
  await assert.rejects(
    fabric.plug({ ...wireOf('192.168.0.2', 'anna', 'default'), address: '10.0.0.2', pid: at(0).bed.pid }),
    /no machine's address/,
  );
});
