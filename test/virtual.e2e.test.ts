/**
 * Virtual machines through the API of a real cloud: two that know each other by name and by key, a disk that becomes
 * again what it was, copies, sleep, and a subnet by number. Emulated where there is no KVM.
 */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { text } from 'node:stream/consumers';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import type { Client } from '#contract/client.ts';
import type { Machine } from '#contract/schemas/machines.ts';
import { openImages } from '#images/store.ts';
import { startCloud, whyNoCloud, type Cloud, type Person } from './harness/cloud.ts';

/** Built by `carrel image build tiny`; a test does not build for minutes behind people's backs. */
const image = 'tiny';

async function whyNot(): Promise<string | false> {
  const reason = whyNoCloud();
  if (reason !== undefined) return reason;
  const images = await openImages();
  return (await images.find(image, { kind: 'disk' })) ? false : `the image ${image} is not built here`;
}

const skip = await whyNot();
/** Emulated, on a busy host, a machine boots in half a minute. */
const jobSeconds = 60;
const rounds = 4;

async function done(client: Client, accepted: Promise<{ readonly job: { readonly id: string } }>) {
  const { job } = await accepted;
  for (let round = 0; ; round += 1) {
    const now = await client.getJob({ params: { job: job.id }, query: { wait: jobSeconds } });
    if (now.state === 'done') return now;
    assert.ok(round < rounds && !['failed', 'cancelled'].includes(now.state), JSON.stringify(now.error));
  }
}

const ssh = (host: string): string =>
  `dbclient -y -i /root/.ssh/id_dropbear root@${host} 'hostname; cat /root/note 2>/dev/null || true'`;

suite('virtual machines in a cloud', { skip, timeout: 900_000 }, () => {
  let cloud: Cloud;
  let ada: Person;

  const said = async (machine: string, script: string): Promise<string> => {
    const { end, stdout, stderr } = await ada.client.runInMachine({
      params: { machine },
      body: { argv: ['sh', '-c', script], cwd: '/' },
    });
    const err = Buffer.from(stderr, 'base64').toString();
    assert.deepEqual(end, { kind: 'exited', status: 0 }, err);
    return Buffer.from(stdout, 'base64').toString().trim();
  };
  const make = async (name: string, more: object = {}): Promise<Machine> => {
    const limits = { memoryBytes: 192 * 2 ** 20 };
    const body = { name, image, driver: 'qemu' as const, limits, ...more };
    await done(ada.client, ada.client.createMachine({ params: {}, body }));
    return show(name);
  };
  const show = (machine: string): Promise<Machine> => ada.client.getMachine({ params: { machine } });
  const keyOfFirst = 'dropbearkey -t ed25519 -f /root/.ssh/id_dropbear 2>/dev/null | grep ^ssh-';
  /** The first machine goes to another; its server may begin a moment after the machine answers. */
  const sshSays = (host: string, wanted: string): Promise<true> =>
    until(60_000, `${host} to say ${wanted}`, async () => {
      const heard = await said('first', ssh(host)).catch(() => undefined);
      return heard === wanted ? true : undefined;
    });
  const refused = (more: object, code: string): Promise<void> =>
    assert.rejects(make('wrong', more), (error: unknown) => isCarrelError(error) && error.code === code);

  before(async () => {
    cloud = await startCloud();
    ada = await cloud.person('ada');
  });
  after(async () => {
    await cloud?.[Symbol.asyncDispose]();
  });

  test('a machine says how it runs, and takes the size of its disk from its image', async () => {
    const { runtime, limits, network, driver } = await make('first');
    assert.ok(runtime?.accelerator === 'kvm' || runtime?.accelerator === 'tcg');
    if (runtime.accelerator === 'tcg') assert.ok(runtime.note, 'slow, and no word about it');
    assert.deepEqual([driver, network], ['qemu', 'default']);
    assert.ok(limits.diskBytes >= 2 * 2 ** 30);
    assert.match(await said('first', 'uname -sm'), /^Linux x86_64$/);
  });

  test('the key of one opens the other, by its name', async () => {
    const key = await said('first', `mkdir -p /root/.ssh; ${keyOfFirst}`);
    await make('second', { sshKeys: [key] });
    await said('second', 'echo from-second > /root/note; sync');
    await until(20_000, 'its name', () =>
      said('first', 'nslookup second.internal').then(
        () => true,
        () => undefined,
      ),
    );
    await sshSays('second.internal', 'second\nfrom-second');
  });

  test('the disk becomes again what it was, and the machine runs as before', async () => {
    const params = { machine: 'second' };
    await done(ada.client, ada.client.createSnapshot({ params, body: { name: 'clean' } }));
    const { items } = await ada.client.listSnapshots({ params });
    assert.deepEqual(
      items.map(({ name, state }) => [name, state]),
      [['clean', 'ready']],
    );
    await said('second', 'echo changed > /root/note; sync');
    await done(ada.client, ada.client.restoreSnapshot({ params: { ...params, snapshot: 'clean' } }));
    assert.equal((await show('second')).state, 'running');
    assert.equal(await said('second', 'cat /root/note'), 'from-second');
  });

  test('copies have the disk, keys of their own, and are let in like their original', async () => {
    const params = { machine: 'second' };
    await said('second', 'echo later > /root/note; sync');
    await done(ada.client, ada.client.cloneMachine({ params, body: { name: 'now' } }));
    await done(ada.client, ada.client.cloneMachine({ params, body: { name: 'then', snapshot: 'clean' } }));
    const { address: now } = await show('now');
    const { address: then } = await show('then');
    await sshSays(now ?? '', 'now\nlater');
    await sshSays(then ?? '', 'then\nfrom-second');
    const hosts = ['second', 'now', 'then'];
    const identities = await Promise.all(
      hosts.map((each) => said(each, 'cat /etc/machine-id; cat /etc/dropbear/*key | sha256sum')),
    );
    assert.equal(new Set(identities.flatMap((each) => each.split('\n'))).size, 2 * hosts.length);
    for (const machine of ['now', 'then'])
      await done(ada.client, ada.client.deleteMachine({ params: { machine } }));
    await done(ada.client, ada.client.deleteSnapshot({ params: { ...params, snapshot: 'clean' } }));
  });

  test('a new password is in the machine, and nowhere else', async () => {
    const before = await said('second', 'grep ^root: /etc/shadow');
    const params = { machine: 'second' };
    const { password } = await ada.client.resetPassword({ params });
    assert.notEqual(await said('second', 'grep ^root: /etc/shadow'), before);
    const { db } = cloud.store();
    for (const table of ['events', 'jobs', 'machines', 'idempotency'] as const) {
      const rows = await db.selectFrom(table).selectAll().execute();
      assert.ok(!JSON.stringify(rows).includes(password), table);
    }
  });

  test('a script that is asked for twice with one key is run once', async () => {
    const ask = () =>
      ada.client.runScript(
        { params: { machine: 'second' }, body: { lines: ['echo once >> /root/asked'] } },
        { idempotencyKey: 'the-same-script' },
      );
    const [first, again] = [await ask(), await ask()];
    assert.deepEqual([again.id, again.job.id], [first.id, first.job.id]);
    await done(ada.client, Promise.resolve(first));
    assert.equal(await said('second', 'cat /root/asked'), 'once');
  });

  test('what the kernel said at boot is kept', async () => {
    const bytes = await ada.client.getConsoleTranscript({ params: { machine: 'second' } });
    const said = bytes instanceof Uint8Array ? Buffer.from(bytes).toString() : await text(bytes);
    assert.match(said, /Linux version|login:|#/);
  });

  test('an idle machine sleeps, and a connection from its neighbour wakes it', async () => {
    const key = await said('first', keyOfFirst.replace('-t ed25519', '-y'));
    const { id, address } = await make('sleepy', { idleFreezeSeconds: 2, sshKeys: [key] });
    const asleep = async () => ((await show(id)).asleep ? true : undefined);
    await until(120_000, 'it to fall asleep', asleep, { everyMs: 200 });
    assert.equal((await show(id)).state, 'running');
    await sshSays(address ?? '', 'sleepy');
    await until(120_000, 'it to fall asleep again', asleep, { everyMs: 200 });
    assert.equal(await said(id, 'hostname'), 'sleepy');
    await done(ada.client, ada.client.deleteMachine({ params: { machine: id } }));
  });

  test('in the routed layout a machine has the subnet of its number', async () => {
    const network = { name: 'numbered', layout: 'routed' as const };
    await cloud.admin.createNetwork({ params: {}, body: network });
    const { address } = await make('r7', { network: 'numbered', networkNumber: 7 });
    assert.equal(address, '192.168.207.2');
    await said('r7', 'ping -c1 -W10 192.168.207.1');
    const taken = ada.client.createMachine({
      params: {},
      body: { name: 'r7b', image, driver: 'qemu', network: 'numbered', networkNumber: 7 },
    });
    await assert.rejects(taken, (error: unknown) => isCarrelError(error, 'name_taken'));
    await done(ada.client, ada.client.deleteMachine({ params: { machine: 'r7' } }));
    await cloud.admin.deleteNetwork({ params: { network: 'numbered' } });
  });

  test('what is wrong is refused before anything is made', async () => {
    await refused({ sshKeys: ["'; touch /root/pwned; '"] }, 'validation_failed');
    await refused({ limits: { diskBytes: 16 * 2 ** 20 } }, 'validation_failed');
    await refused({ image: 'busybox' }, 'not_found');
    await refused({ network: 'nowhere' }, 'not_found');
    await assert.rejects(show('wrong'), (error: unknown) => isCarrelError(error, 'not_found'));
  });

  test('down leaves nothing', async () => {
    assert.deepEqual(await cloud.down(), []);
  });
});
