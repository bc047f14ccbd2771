/** What goes over a machine's wire: how fast, how much, and what wakes one that sleeps. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launch, launchOk, launchService } from '#host/launch.ts';
import { signalProcess } from '#host/processes.ts';
import { powerOn, ruleset, skip, useFabric, wireOf } from '#test/fabricbed.ts';
import { type Netbed, makeNetns } from '#test/netbed.ts';
import type { TapGuest } from '#test/tapguest.ts';
import type { Wire } from './fabric.ts';
import { defaultPlan } from './networks.ts';

const place = { gateway: '192.168.0.1', prefix: 16 };
const slow = wireOf('192.168.0.2', 'anna', 'default');
const other = wireOf('192.168.0.3', 'anna', 'default');
const routed = wireOf('192.168.241.2', 'anna', 'seed');
let vm: TapGuest;
let container: Netbed;
let alone: TapGuest;

const seed = { ...defaultPlan, name: 'seed', cidr: '192.168.192.0/18', layout: 'routed' } as const;
const bed = useFabric('wires', { networks: [defaultPlan, seed] }, async (here) => {
  vm = here.stack.use(await powerOn(here, slow, place));
  container = here.stack.use(await makeNetns());
  await here.fabric.plug({ ...other, pid: container.pid });
  alone = here.stack.use(await powerOn(here, routed, { gateway: '192.168.241.1', prefix: 24 }));
});

const MiB = 2 ** 20;

/** How many seconds `bytes` take from the one to the other, whose address it is. */
async function transfer(from: Netbed, to: Netbed, address: string, bytes: number): Promise<number> {
  const receiver = `const net = require('node:net'); let seen = 0;
    net.createServer((socket) => socket.on('data', (chunk) => { seen += chunk.length; })
      .on('end', () => { socket.end(String(seen)); }).on('close', () => process.exit(0))).listen(5001, '0.0.0.0');`;
  const sender = `const net = require('node:net'); const began = Date.now(); let text = '';
    const socket = net.connect({ port: 5001, host: process.argv[1], allowHalfOpen: true }, () => socket.end(Buffer.alloc(${bytes})));
    socket.on('data', (chunk) => { text += chunk; }).on('end', () => console.log(JSON.stringify({ seen: Number(text), ms: Date.now() - began })));
    socket.on('error', (error) => { console.error(error.code); process.exit(1); });`;
  const listening = await launchService(
    ['nsenter', `--net=/proc/${to.pid}/ns/net`, '--', process.execPath, '-e', receiver],
    {
      ready: async () =>
        await until(5000, 'a listener', async () =>
          (await to.run('ss', '-Hltn', 'sport = :5001')).stdout.length > 0 ? true : undefined,
        ),
    },
  );
  try {
    const { stdout } = await launchOk(
      ['nsenter', `--net=/proc/${from.pid}/ns/net`, '--', process.execPath, '-e', sender, address],
      { timeoutMs: 60_000 },
    );
    const result: unknown = JSON.parse(stdout.toString());
    assert.ok(typeof result === 'object' && result && 'seen' in result && 'ms' in result);
    assert.equal(result.seen, bytes, 'all of it came');
    return Number(result.ms) / 1000;
  } finally {
    await listening.stop({ graceMs: 100 });
  }
}

/** The smallest part of `bytes` that must have waited, at this rate and with this much at once. */
function shortest(bytes: number, rate: number, atOnce: number): number {
  return (bytes - atOnce) / rate;
}

test(
  'a limit on the rate holds in both directions, for a virtual machine and for a container',
  { skip },
  async (t) => {
    const { fabric } = bed();
    const rate = MiB;
    const bytes = 4 * MiB;
    const free = await transfer(vm, container, other.address, bytes);
    const pairs: readonly (readonly [string, Wire, Netbed, string])[] = [
      ['virtual machine', slow, vm, slow.address],
      ['container', other, container, other.address],
    ];
    for (const [name, wire, machine, address] of pairs) {
      const [peer, peerAddress] = machine === vm ? [container, other.address] : [vm, slow.address];
      await fabric.reconcile([
        { ...wire, bytesPerSecond: rate },
        ...[slow, other, routed].filter((one) => one !== wire),
      ]);
      const sending = await transfer(machine, peer, peerAddress, bytes);
      const receiving = await transfer(peer, machine, address, bytes);
      t.diagnostic(
        `${name}: sends ${(bytes / sending / MiB).toFixed(2)} MiB/s, receives ${(bytes / receiving / MiB).toFixed(2)} MiB/s of ${rate / MiB}; ${(bytes / free / MiB).toFixed(0)} without`,
      );
      // nft_limit lets a second's worth go at once, and its burst; the token bucket a burst only
      assert.ok(sending >= shortest(bytes, rate, rate + 262_144), `${name} sends: ${sending} s`);
      assert.ok(receiving >= shortest(bytes, rate, 65_536), `${name} receives: ${receiving} s`);
      await fabric.reconcile([
        { ...wire, bytesPerSecond: null },
        ...[slow, other, routed].filter((one) => one !== wire),
      ]);
    }
    assert.doesNotMatch(await ruleset(), /limit rate-|rate over/);
    assert.doesNotMatch((await launchOk(['tc', 'qdisc'])).stdout.toString(), /tbf/);
    assert.deepEqual(fabric.findings, []);
  },
);

test(
  'a limit stays while a machine is routed, and when the fabric does not know better',
  { skip },
  async () => {
    const { fabric } = bed();
    await fabric.reconcile([slow, other, { ...routed, bytesPerSecond: 2_000_000 }]);
    const limited = await ruleset();
    assert.match(limited, /rate over (2000000 bytes|1953125 ?kbytes|\d+ \w+)\/second/);
    assert.match(
      (await launchOk(['tc', 'qdisc', 'show', 'dev', 'vmtap141'])).stdout.toString(),
      /tbf .*rate 16Mbit/,
    );
    await fabric.reconcile([slow, other, routed]);
    assert.equal(await ruleset(), limited);
    assert.ok(await alone.reaches('192.168.241.1'));
    await fabric.reconcile([slow, other, { ...routed, bytesPerSecond: null }]);
    assert.doesNotMatch(await ruleset(), /rate over/);
    for (const bad of [0, -1, 1.5, 10, Number.NaN])
      await assert.rejects(
        fabric.plugTap({ ...wireOf('192.168.0.9', 'anna', 'default'), bytesPerSecond: bad }),
        /is no rate/,
      );
    assert.notEqual((await launch(['ip', 'link', 'show', 't-003232235529'])).status, 0);
  },
);

test('traffic is counted from the machine’s point of view', { skip }, async () => {
  const { fabric } = bed();
  for (const [wire, machine, peer, address] of [
    [slow, vm, container, other.address],
    [other, container, vm, slow.address],
  ] as const) {
    const before = await fabric.traffic(wire.machineId);
    await transfer(machine, peer, address, 2 * MiB);
    const after = await fabric.traffic(wire.machineId);
    assert.ok(before && after);
    const sent = after.sentBytes - before.sentBytes;
    const received = after.receivedBytes - before.receivedBytes;
    assert.ok(sent >= 2 * MiB && sent < 3 * MiB, `sent ${sent}`);
    assert.ok(received > 0 && received < MiB, `received ${received}`);
  }
  assert.equal(await fabric.traffic('m-nobodyknows0'), null);
});

test(
  'the first frame for a machine that sleeps wakes it, and is answered when it is awake',
  { skip },
  async () => {
    const { fabric } = bed();
    const holder = vm.holder;
    assert.ok(holder);
    let woken = 0;
    const watch = await fabric.onFirstPacket(slow.machineId, () => {
      woken += 1;
      signalProcess(holder.identity, 'SIGCONT');
    });
    signalProcess(holder.identity, 'SIGSTOP');
    // what is not for it lets it sleep: others' frames, and a question for another address
    assert.equal(await container.pings('192.168.0.77'), false);
    assert.ok(await container.reaches('192.168.0.1'));
    assert.equal(woken, 0);
    const answer = await container.run('busybox', 'ping', '-c1', '-W5', slow.address);
    assert.equal(answer.status, 0, 'the frame that woke it was not lost');
    assert.equal(woken, 1);
    assert.ok(await container.reaches(slow.address));
    assert.equal(woken, 1, 'once');
    watch[Symbol.dispose]();
  },
);

test(
  'a question for its address alone wakes a machine, and one that is forgotten sleeps on',
  { skip },
  async () => {
    const { fabric } = bed();
    let woken = 0;
    {
      using _forgotten = await fabric.onFirstPacket(slow.machineId, () => (woken += 10));
    }
    using _watch = await fabric.onFirstPacket(slow.machineId, () => (woken += 1));
    await container.run('ip', 'neigh', 'flush', 'all');
    await container.run('busybox', 'arping', '-c1', '-w1', '-I', 'eth0', slow.address);
    await until(5000, 'the wake-up', () => (woken > 0 ? true : undefined));
    assert.equal(woken, 1);
    await assert.rejects(
      fabric.onFirstPacket('m-nobodyknows0', () => undefined),
      /has no wire/,
    );
  },
);
