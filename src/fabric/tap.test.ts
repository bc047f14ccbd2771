import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launch, launchOk } from '#host/launch.ts';
import { ruleset, skip, useFabric, wireOf } from '#test/fabricbed.ts';
import { type Netbed, makeNetns } from '#test/netbed.ts';
import { type TapGuest, makeGuest } from '#test/tapguest.ts';
import { type Fabric, openFabric, tapOf } from './fabric.ts';
import { openTap } from './tap.ts';

let fabric: Fabric;
let vm: TapGuest;
let container: Netbed;

useFabric('tap', {}, async ({ fabric: opened, stack }) => {
  fabric = opened;
  const wire = wireOf('192.168.0.2', 'anna', 'default');
  vm = stack.use(await makeGuest({ ...wire, gateway: '192.168.0.1' }));
  const { fd, link } = await fabric.plugTap(wire);
  assert.equal(link, tapOf(wire.machineId));
  await vm.powerOn(fd);
  container = stack.use(await makeNetns());
  await fabric.plug({ ...wireOf('192.168.0.3', 'anna', 'default'), pid: container.pid });
});

test(
  'a virtual machine reaches its gateway and the machines of its owner, whatever they are',
  { skip },
  async () => {
    await until(5000, 'the first answer', async () => ((await vm.pings('192.168.0.1')) ? true : undefined));
    assert.ok(await vm.reaches('192.168.0.3'));
    assert.ok(await container.reaches('192.168.0.2'));
    await launchOk(['busybox', 'ping', '-c1', '-W1', '192.168.0.2']);
  },
);

test('a virtual machine and one of another owner do not reach each other', { skip }, async () => {
  await using stranger = await makeGuest({
    ...wireOf('192.168.0.4', 'ben', 'default'),
    gateway: '192.168.0.1',
  });
  const { fd } = await fabric.plugTap(wireOf('192.168.0.4', 'ben', 'default'));
  await stranger.powerOn(fd);
  await until(5000, 'the first answer', async () =>
    (await stranger.pings('192.168.0.1')) ? true : undefined,
  );
  assert.equal(await stranger.pings('192.168.0.2'), false);
  assert.equal(await vm.pings('192.168.0.4'), false);
  assert.equal(await stranger.pings('192.168.0.3'), false);
  await fabric.unplug(wireOf('192.168.0.4', 'ben', 'default').machineId);
});

test('a virtual machine speaks with its own addresses only', { skip }, async () => {
  await vm.run('ip', 'addr', 'add', '192.168.0.77/16', 'dev', 'eth0');
  const spoofed = await vm.run('busybox', 'ping', '-c1', '-W1', '-I', '192.168.0.77', '192.168.0.1');
  assert.notEqual(spoofed.status, 0);
  await vm.run('ip', 'addr', 'del', '192.168.0.77/16', 'dev', 'eth0');
  assert.ok(await vm.reaches('192.168.0.1'));
});

test(
  'the wire of a virtual machine ends with the process that holds it, and unplugging takes its rules',
  { skip },
  async () => {
    const earlier = await ruleset();
    const wire = wireOf('192.168.0.5', 'anna', 'default');
    const tap = tapOf(wire.machineId);
    await using guest = await makeGuest(wire);
    const { fd } = await fabric.plugTap(wire);
    await guest.powerOn(fd);
    assert.ok((await ruleset()).includes(tap));
    assert.equal((await launch(['ip', 'link', 'show', tap])).status, 0);
    await guest.holder?.stop({ graceMs: 0 });
    await until(5000, 'the wire to go', async () =>
      (await launch(['ip', 'link', 'show', tap])).status === 0 ? undefined : true,
    );
    await fabric.unplug(wire.machineId);
    assert.equal(await ruleset(), earlier);
  },
);

test(
  'plugging a virtual machine again takes the device from a process that still holds it',
  { skip },
  async () => {
    const wire = wireOf('192.168.0.6', 'anna', 'default');
    await using first = await makeGuest({ ...wire, gateway: '192.168.0.1' });
    await using second = await makeGuest({ ...wire, gateway: '192.168.0.1' });
    await first.powerOn((await fabric.plugTap(wire)).fd);
    await second.powerOn((await fabric.plugTap(wire)).fd);
    await until(5000, 'the first answer', async () =>
      (await second.pings('192.168.0.1')) ? true : undefined,
    );
    assert.equal(await first.pings('192.168.0.1'), false);
    await fabric.unplug(wire.machineId);
  },
);

const at = (last: number, owner: string) => wireOf(`192.168.0.${last}`, owner, 'default');

test(
  'a fabric that is opened again keeps the wires of living virtual machines and drops the others',
  { skip },
  async () => {
    const stray = await fabric.plugTap(at(9, 'carl'));
    const [waiting, dropped] = [at(11, 'elsa'), at(12, 'elsa')];
    const loose = [waiting, dropped].map(({ machineId }) => openTap(tapOf(machineId)));
    using again = await openFabric();
    const { removed, missing } = await again.reconcile([at(2, 'anna'), at(3, 'anna'), at(10, 'dora')], {
      loose: new Set([waiting.machineId]),
    });
    stray.fd.close();
    assert.deepEqual(removed.sort(), [stray.link, tapOf(dropped.machineId)].sort());
    await again.connectTap(waiting); // it waited for its place
    await again.unplug(waiting.machineId);
    for (const device of loose) device.close();
    assert.deepEqual(missing, [at(10, 'dora').machineId]);
    assert.ok(await vm.reaches('192.168.0.3'));
  },
);
