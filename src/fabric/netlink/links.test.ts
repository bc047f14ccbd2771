import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launchOk } from '#host/launch.ts';
import { syscallErrno } from '#host/syscalls.ts';
import { type Netbed, enterNetns, makeNetns } from '#test/netbed.ts';
import { parseAddress } from '../addresses.ts';
import { inNetns } from '../netns.ts';
import { type Links, openLinks } from './links.ts';

const root = process.getuid?.() === 0;
const skip = root ? false : 'needs root';
const stack = new AsyncDisposableStack();
let machine: Netbed;
let links: Links;

before(async () => {
  if (!root) return;
  const fabric = stack.use(await makeNetns());
  machine = stack.use(await makeNetns());
  enterNetns(fabric.pid);
  links = stack.use(openLinks());
});
after(async () => {
  if (!root) return;
  await stack.disposeAsync();
  enterNetns(process.ppid);
});

async function said(...argv: [string, ...string[]]): Promise<string> {
  return (await launchOk(argv)).stdout.toString();
}

test('a bridge is made once, with the hardware address it keeps', { skip }, async () => {
  assert.equal(await links.createBridge('br0', { mac: '02:ca:c0:a8:00:01' }), true);
  assert.equal(await links.createBridge('br0', { mac: '02:ca:c0:a8:00:02' }), false);
  const bridge = await links.find('br0');
  assert.deepEqual(
    { kind: bridge?.kind, mac: bridge?.mac, up: bridge?.up, master: bridge?.master },
    { kind: 'bridge', mac: '02:ca:c0:a8:00:01', up: true, master: undefined },
  );
  const details = await said('ip', '-d', 'link', 'show', 'br0');
  assert.match(details, /stp_state 0/);
  assert.match(details, /mcast_snooping 0/);
});

test('a wire has one end here and one, named and addressed, in the machine', { skip }, async () => {
  const master = (await links.find('br0'))?.index ?? 0;
  const peer = { netns: { pid: machine.pid }, name: 'eth0', mac: '02:ca:c0:a8:00:02' };
  await links.createVeth({ name: 'v-1', master, mtu: 1400, peer });
  const here = await links.find('v-1');
  assert.deepEqual([here?.kind, here?.master, here?.mtu, here?.up], ['veth', master, 1400, true]);
  {
    using inside = inNetns(machine.pid, () => openLinks());
    const eth0 = await inside.find('eth0');
    assert.deepEqual([eth0?.mac, eth0?.mtu, eth0?.up], [peer.mac, 1400, false]);
    await inside.addAddress(eth0?.index ?? 0, parseAddress('192.168.0.2'), 16);
    await inside.addAddress(eth0?.index ?? 0, parseAddress('192.168.0.2'), 16);
    await inside.setUp('eth0');
    await inside.addDefaultRoute(parseAddress('192.168.0.1'));
    await inside.addDefaultRoute(parseAddress('192.168.0.1'));
  }
  const addresses = (await machine.run('ip', '-4', 'addr', 'show', 'eth0')).stdout.toString();
  assert.match(addresses, /inet 192\.168\.0\.2\/16 brd 192\.168\.255\.255 scope global eth0/);
  assert.match((await machine.run('ip', 'route')).stdout.toString(), /^default via 192\.168\.0\.1 dev eth0/);
  assert.deepEqual(
    (await links.list()).map(({ name }) => name),
    ['lo', 'br0', 'v-1'],
  );
});

test('a port’s flags are set, the others stay', { skip }, async () => {
  await links.setPort('v-1', { isolated: true, learning: false });
  assert.match(
    await said('bridge', '-d', 'link', 'show', 'dev', 'v-1'),
    /learning off flood on .*isolated on/s,
  );
  await links.setPort('v-1', { isolated: false });
  assert.match(await said('bridge', '-d', 'link', 'show', 'dev', 'v-1'), /learning off .*isolated off/s);
  await links.setMaster('v-1', 0);
  assert.equal((await links.find('v-1'))?.master, undefined);
});

test('a refusal names the object and the kernel’s reason', { skip }, async () => {
  const peer = { netns: { pid: machine.pid }, name: 'eth1', mac: '02:ca:c0:a8:00:03' };
  const failing: Record<string, () => Promise<void>> = {
    EEXIST: () => links.createVeth({ name: 'v-1', master: 0, peer }),
    ESRCH: () => links.createVeth({ name: 'v-2', master: 0, peer: { ...peer, netns: { pid: 2 ** 22 + 1 } } }),
    ENODEV: () => links.setUp('v-3'),
  };
  for (const [errno, work] of Object.entries(failing))
    await assert.rejects(
      work,
      (error: unknown) => syscallErrno(error) === errno && /v-\d/.test(String(error)),
      errno,
    );
  for (const bad of ['', 'a b', 'a/b', '..', 'x'.repeat(16), 'a\0'])
    await assert.rejects(links.setUp(bad), /cannot be an interface's name/, bad);
  assert.equal(await links.find('v-2'), undefined);
});

test('what is deleted is gone at both ends, and deleting again does nothing', { skip }, async () => {
  assert.equal(await links.delete('v-1'), true);
  assert.equal(await links.delete('v-1'), false);
  assert.doesNotMatch((await machine.run('ip', 'link')).stdout.toString(), /eth0/);
});

test('a list of hundreds of interfaces comes whole', { skip }, async () => {
  const peer = { netns: { pid: machine.pid }, mac: '02:ca:c0:a8:00:03' };
  for (let index = 0; index < 150; index += 1)
    await links.createVeth({ name: `many-${index}`, master: 0, peer: { ...peer, name: `peer-${index}` } });
  assert.equal((await links.list()).filter(({ name }) => name.startsWith('many-')).length, 150);
});
