/** Addresses and names inside networks with DHCP: real dnsmasq, real clients, real DNS. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launch, launchOk, launchService } from '#host/launch.ts';
import { identify, isAlive, signalProcess } from '#host/processes.ts';
import { powerOn, ruleset, root, useFabric, wireOf } from '#test/fabricbed.ts';
import { type TapGuest, makeGuest } from '#test/tapguest.ts';
import { openFabric } from './fabric.ts';
import { hostFiles } from './names.ts';
import { netnsOf } from './netns.ts';
import { type NetworkPlan, defaultPlan, parsePlan } from './networks.ts';

const installed = existsSync('/usr/sbin/dnsmasq');
const skip = root ? (installed ? false : 'dnsmasq is not installed') : 'needs root';

const lab: NetworkPlan = {
  ...defaultPlan,
  name: 'lab',
  bridge: 'br1',
  cidr: '10.20.0.0/24',
  gateway: '10.20.0.1',
  dhcp: true,
};
const quiet: NetworkPlan = {
  ...lab,
  name: 'quiet',
  bridge: 'br2',
  cidr: '10.30.0.0/24',
  gateway: '10.30.0.1',
  nat: false,
};
const resolver = '198.18.0.53';
const place = { gateway: '10.20.0.1', prefix: 24 };

const web = wireOf('10.20.0.2', 'anna', 'lab');
const db = wireOf('10.20.0.3', 'anna', 'lab');
const bens = wireOf('10.20.0.4', 'ben', 'lab');
const hosts = [
  { name: 'web', ...web },
  { name: 'db', ...db },
  { name: 'other', ...bens },
];
let vm: TapGuest;

const bed = useFabric('names', { networks: [defaultPlan, lab, quiet], resolver }, async (here) => {
  if (!installed) return;
  await here.fabric.setHosts('lab', hosts);
  vm = here.stack.use(await powerOn(here, web, place));
  here.stack.use(await powerOn(here, db, place));
});

/** The dnsmasq processes in the fabric. */
function servers(): number[] {
  const here = netnsOf('self');
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return netnsOf(pid) === here && readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'dnsmasq';
      } catch {
        return false;
      }
    });
}

/** What a name is, as a guest is told; undefined if there is no such name. */
async function lookup(guest: TapGuest, name: string, server = '10.20.0.1'): Promise<string | undefined> {
  const { stdout } = await guest.run('busybox', 'nslookup', '-type=a', name, server);
  return /Name:\s+\S+\s+Address: (\S+)/.exec(stdout.toString())?.[1];
}

test('machines of a network know each other by name', { skip }, async () => {
  assert.equal(await lookup(vm, 'db'), '10.20.0.3');
  assert.equal(await lookup(vm, 'DB.internal'), '10.20.0.3');
  assert.equal(await lookup(vm, 'nobody'), undefined);
  assert.equal(await lookup(vm, 'nobody.internal'), undefined);
  const { stdout } = await vm.run('busybox', 'nslookup', '-type=ptr', '3.0.20.10.in-addr.arpa', '10.20.0.1');
  assert.match(stdout.toString(), /name = db\.internal/);
});

test('a change of the names is known at once, and what is new without a new process', { skip }, async () => {
  const before = servers();
  await bed().fabric.setHosts('lab', [...hosts, { name: 'late', ...wireOf('10.20.0.9', 'anna', 'lab') }]);
  await until(5000, 'the new name', async () => await lookup(vm, 'late'));
  assert.deepEqual(servers(), before);
  await bed().fabric.setHosts('lab', hosts);
  assert.equal(await lookup(vm, 'late'), undefined);
  assert.equal(await lookup(vm, 'db'), '10.20.0.3');
});

/** Asks for an address as a machine without one does; what the client was told. */
async function askForAddress(guest: TapGuest, seconds = 3): Promise<Record<string, string>> {
  const script = join(bed().directory, 'told');
  writeFileSync(
    script,
    '#!/bin/busybox sh\n[ "$1" = bound ] && echo "$ip $subnet $router $dns $domain $lease"\nexit 0\n',
    { mode: 0o755 },
  );
  const { stdout } = await guest.run(
    'busybox',
    'udhcpc',
    '-i',
    'eth0',
    '-n',
    '-q',
    '-f',
    '-t',
    '2',
    '-T',
    String(seconds > 2 ? 2 : 1),
    '-s',
    script,
  );
  const [ip = '', subnet = '', router = '', dns = '', name = '', lease = ''] = stdout
    .toString()
    .trim()
    .split(' ');
  return { ip, subnet, router, dns, domain: name, lease };
}

test('a machine that is known is given its address, and nobody else is given any', { skip }, async () => {
  const { fabric } = bed();
  const wire = wireOf('10.20.0.4', 'ben', 'lab');
  await using guest = await makeGuest({ mac: wire.mac });
  await guest.powerOn((await fabric.plugTap(wire)).fd);
  assert.deepEqual(await askForAddress(guest), {
    ip: '10.20.0.4',
    subnet: '255.255.255.0',
    router: '10.20.0.1',
    dns: '10.20.0.1',
    domain: 'internal',
    lease: '43200',
  });
  await fabric.setHosts('lab', hosts.slice(0, 2));
  assert.equal(await lookup(vm, 'other'), undefined, 'nor is it known any more');
  assert.equal((await askForAddress(guest, 1))['ip'], '');
  await fabric.setHosts('lab', hosts);
  await fabric.unplug(wire.machineId);
});

/** A program that sends DHCPDISCOVER with this hardware address inside (RFC 2131, section 2). */
function discover(inside: string): string {
  return `
  const question = Buffer.alloc(300); question.set([1, 1, 6, 0, 1, 2, 3, 4]); question.writeUInt16BE(0x8000, 10);
  question.set(Buffer.from('${inside.replaceAll(':', '')}', 'hex'), 28);
  question.set([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255], 236);
  const socket = require('node:dgram').createSocket({ type: 'udp4', reuseAddr: true });
  socket.bind(68, '0.0.0.0', () => { socket.setBroadcast(true); socket.send(question, 67, '255.255.255.255'); });
  const timer = setTimeout(() => { console.log('nothing'); process.exit(0); }, 1500);
  socket.on('message', (answer) => { console.log(answer.subarray(16, 20).join('.')); process.exit(0); });`;
}

test('a machine cannot ask in another’s name', { skip }, async () => {
  const { fabric } = bed();
  await using guest = await makeGuest({ mac: bens.mac });
  await guest.powerOn((await fabric.plugTap(bens)).fd);
  await guest.run('ip', 'link', 'set', 'eth0', 'address', web.mac);
  assert.equal((await askForAddress(guest, 1))['ip'], '', 'with another hardware address');
  await guest.run('ip', 'link', 'set', 'eth0', 'address', bens.mac);
  await guest.run('ip', 'route', 'add', '255.255.255.255/32', 'dev', 'eth0');
  const ask = async (inside: string): Promise<string> =>
    (await guest.run(process.execPath, '-e', discover(inside))).stdout.toString().trim();
  assert.equal(await ask(bens.mac), '10.20.0.4');
  assert.equal(await ask(web.mac), 'nothing');
  await fabric.unplug(bens.machineId);
});

test('the answer to one machine is not heard by another', { skip }, async () => {
  await using here = new AsyncDisposableStack();
  const { fabric } = bed();
  await using guest = await makeGuest({ mac: bens.mac });
  await guest.powerOn((await fabric.plugTap(bens)).fd);
  const listener = await launchService(
    [
      'nsenter',
      `--net=/proc/${vm.pid}/ns/net`,
      '--',
      process.execPath,
      '-e',
      `const socket = require('node:dgram').createSocket('udp4'); socket.on('message', () => process.exit(7)).bind(68);
       socket.on('listening', () => console.log('listening'));`,
    ],
    {
      stdio: ['ignore', 'pipe', 'ignore'],
      ready: async ({ child }) => await new Promise((resolve) => child.stdout?.once('data', resolve)),
    },
  );
  here.defer(async () => void (await listener.stop({ graceMs: 100 })));
  // -B: the answer shall be a broadcast
  const answered = await guest.run(
    'busybox',
    'udhcpc',
    '-i',
    'eth0',
    '-B',
    '-n',
    '-q',
    '-f',
    '-t',
    '2',
    '-T',
    '2',
    '-s',
    '/bin/true',
  );
  assert.equal(answered.status, 0);
  assert.ok(isAlive(listener.identity), 'nobody else heard it');
  await fabric.unplug(bens.machineId);
});

test(
  'it listens on the bridge alone, as nobody, and machines reach nothing else of it',
  { skip },
  async () => {
    const [pid] = servers();
    assert.ok(pid);
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    assert.match(status, /^Uid:\s+65534\s+65534\s+65534\s+65534$/m);
    assert.match(status, /^CapEff:\s+0000000000003400$/m);
    assert.match(status, /^NoNewPrivs:\s+1$/m);
    const { stdout } = await launchOk(['ss', '-Hlntu']);
    const bound = stdout
      .toString()
      .trim()
      .split('\n')
      .map((line) => line.trim().split(/\s+/)[4]);
    assert.deepEqual(
      bound.toSorted((a, b) => String(a).localeCompare(String(b))),
      ['0.0.0.0%br1:67', '10.20.0.1:53', '10.20.0.1:53'],
    );
    assert.notEqual((await vm.run('busybox', 'nc', '-w', '1', '10.20.0.1', '53')).status, 0, 'TCP is closed');
    const elsewhere = await powerOn(bed(), wireOf('192.168.0.2', 'anna', 'default'), {
      gateway: '192.168.0.1',
      prefix: 16,
    });
    assert.equal(await lookup(elsewhere, 'db'), undefined, 'not from another network');
    assert.equal(await lookup(elsewhere, 'db', '192.168.0.1'), undefined);
    await elsewhere[Symbol.asyncDispose]();
    await bed().fabric.unplug(wireOf('192.168.0.2', 'anna', 'default').machineId);
  },
);

test(
  'names of the outside are asked for at the uplink, but not from a network without NAT',
  { skip },
  async () => {
    const { outside, fabric } = bed();
    // a name server out there that answers every question with 203.0.113.9 (RFC 1035, section 4)
    const answering = `const server = require('node:dgram').createSocket('udp4');
    server.on('message', (question, from) => { const end = question.indexOf(0, 12) + 5;
      const reply = Buffer.concat([question.subarray(0, end), Buffer.from([0xc0,12,0,1,0,1,0,0,0,60,0,4,203,0,113,9])]);
      reply.writeUInt16BE(0x8180, 2); reply.writeUInt16BE(1, 6); reply.writeUInt32BE(0, 8); server.send(reply, from.port, from.address); });
    server.bind(53, '198.18.0.53', () => console.log('listening'));`;
    const server = await launchService(
      ['nsenter', `--net=/proc/${outside.pid}/ns/net`, '--', process.execPath, '-e', answering],
      {
        stdio: ['ignore', 'pipe', 'ignore'],
        ready: async ({ child }) => await new Promise((resolve) => child.stdout?.once('data', resolve)),
      },
    );
    try {
      assert.equal(await lookup(vm, 'lab.example'), '203.0.113.9');
      assert.equal(await lookup(vm, 'nobody.internal'), undefined, 'our own domain is asked of nobody');
      const wire = wireOf('10.30.0.2', 'anna', 'quiet');
      await fabric.setHosts('quiet', [{ name: 'alone', ...wire }]);
      await using guest = await powerOn(bed(), wire, { gateway: '10.30.0.1', prefix: 24 });
      assert.equal(await lookup(guest, 'alone', '10.30.0.1'), '10.30.0.2');
      assert.equal(await lookup(guest, 'lab.example', '10.30.0.1'), undefined);
      assert.equal(await lookup(guest, 'db', '10.30.0.1'), undefined, 'names are those of the network');
      await fabric.unplug(wire.machineId);
      await fabric.removeNetwork('quiet');
      await fabric.ensureNetwork(quiet);
      assert.equal(servers().length, 1);
    } finally {
      await server.stop({ graceMs: 100 });
    }
  },
);

test('a server that is killed is there again', { skip }, async () => {
  const [pid = 0] = servers();
  const killed = identify(pid);
  assert.ok(killed);
  signalProcess(killed, 'SIGKILL');
  await until(10_000, 'names to be served again', async () => await lookup(vm, 'db'));
  assert.equal(servers().length, 1);
  assert.notEqual(servers()[0], pid);
});

test(
  'the server dies with the process that began it, killed or not, and the next one serves again',
  { skip },
  async () => {
    const { directory, fabric } = bed();
    const rules = await ruleset();
    await fabric.ensureNetwork({ ...lab, dhcp: false });
    await until(5000, 'the server to end', () => (servers().length === 0 ? true : undefined));
    assert.ok(!existsSync(join(directory, 'names', 'lab')), 'nothing is left of it');
    assert.equal(await lookup(vm, 'db'), undefined);
    const daemon = `
    const { openFabric } = await import('${import.meta.dirname}/fabric.ts');
    const fabric = await openFabric(${JSON.stringify({ networks: [defaultPlan, lab, quiet], resolver, runDirectory: directory })});
    await fabric.setHosts('lab', ${JSON.stringify(hosts.map(({ name, mac, address }) => ({ name, mac, address })))});
    console.log('serving'); setInterval(() => undefined, 1000);`;
    for (let round = 0; round < 2; round += 1) {
      const service = await launchService(
        [process.execPath, '--input-type=module-typescript', '-e', daemon],
        {
          stdio: ['ignore', 'pipe', 'inherit'],
          ready: async ({ child }) => await new Promise((resolve) => child.stdout?.once('data', resolve)),
        },
      );
      assert.equal(await lookup(vm, 'db'), '10.20.0.3');
      assert.equal(servers().length, 1);
      signalProcess(service.identity, 'SIGKILL');
      await until(5000, 'the server to end', () => (servers().length === 0 ? true : undefined));
    }
    await fabric.ensureNetwork(lab);
    await fabric.setHosts('lab', hosts);
    assert.equal(await lookup(vm, 'db'), '10.20.0.3');
    assert.equal(await ruleset(), rules);
  },
);

test(
  'there are no names where there is no DHCP, and no server without a place for its files',
  { skip },
  async () => {
    await assert.rejects(bed().fabric.setHosts('default', []), /has no DHCP/);
    await assert.rejects(bed().fabric.setHosts('none', []), /no network/);
    using elsewhere = await openFabric({ networks: [defaultPlan, lab, quiet], resolver });
    await assert.rejects(elsewhere.setHosts('lab', []), /without a directory/);
    // another one serves the network already
    using second = await openFabric({
      networks: [defaultPlan, lab, quiet],
      resolver,
      runDirectory: join(bed().directory, 'second'),
    });
    await assert.rejects(second.setHosts('lab', hosts), /cannot be served.*in use/s);
    assert.equal(await lookup(vm, 'db'), '10.20.0.3');
    assert.equal((await launch(['test', '-e', join(bed().directory, 'second', 'names', 'lab')])).status, 1);
  },
);

function host(name: string, number: number) {
  return { name, ...wireOf(`10.20.0.${number}`, 'anna', 'lab') };
}

test('what is no host name is nobody’s, and the first machine with a name keeps it', () => {
  const network = parsePlan(lab);
  const { names, reservations } = hostFiles(network, [
    host('web', 2),
    host('WEB', 3),
    host('a b', 4),
    host('x\n10.20.0.1 gateway', 5),
    host('wpad', 6),
    host('localhost', 7),
    host('1234', 8),
    host('-a', 9),
    host('a.b', 10),
    host('x'.repeat(64), 11),
    host('ok-1', 12),
  ]);
  assert.equal(names, '10.20.0.2 web\n10.20.0.12 ok-1\n');
  assert.equal(reservations.split('\n').length, 12);
  assert.throws(() => hostFiles(network, [host('x', 1)]), /no machine's address/);
  assert.throws(() => hostFiles(network, [{ ...host('x', 2), mac: 'aa,bb' }]), /Invalid hardware address/);
  assert.throws(
    () => hostFiles(network, [{ ...host('x', 2), address: '192.168.0.2' }]),
    /no machine's address/,
  );
});
