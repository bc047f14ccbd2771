/** The OS-Cloud routes over HTTP, with a real database and real machines: containers stand in for VMs here. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { until } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { silent } from '#base/log.ts';
import { type Bed, startBed } from '#machines/testing.ts';
import { insertToken, revokeToken } from '#store/tokens.ts';
import { openAuthenticator } from '../auth/authenticate.ts';
import { hashSecret, newSecret } from '../auth/secret.ts';
import type { OsCloud } from './listen.ts';
import { openOsCloud } from './open.ts';
import { selectOsCloudTables } from './tables.ts';

const skip = process.getuid?.() === 0 ? false : 'machines are made by root';
const minimumBytes = 16 * 2 ** 20;

const wanted = (name: string, more: object = {}) => ({
  name,
  image: 'ubuntu_22.04',
  network: 'default',
  mem_size: '64M',
  disk_size: '32M',
  ...more,
});
const error = (message: string): string => `{"error_msg":${JSON.stringify(message)},"status":"error"}\n`;

/** The first one as it is shown. */
const info = (state: string): string =>
  `{"disk_size":33554432,"id":1,"ip":"192.168.0.2","mem_size":67108864,"name":"my_vm","network":"default","os":"ubuntu_22.04","state":"${state}"}\n`;

suite('OS-Cloud', { skip }, () => {
  let bed: Bed;
  let server: OsCloud;
  let guarded: OsCloud;

  before(async () => {
    bed = await startBed();
    const authenticator = await openAuthenticator(bed.store);
    const open = (how: boolean) =>
      openOsCloud({
        listen: { host: '127.0.0.1', port: 0 },
        endpoint: { host: '127.0.0.1', port: 5000 },
        open: how,
        authenticator,
        store: bed.store,
        machines: async () => bed.machines,
        driver: 'container',
        template: async (name) => {
          if (name !== 'ubuntu_22.04') throw new CarrelError('not_found', 'no such image');
          return { image: 'busybox', minimumBytes };
        },
        log: silent,
      });
    server = await open(true);
    guarded = await open(false);
  });
  after(async () => {
    await server?.close();
    await guarded?.close();
    await bed?.[Symbol.asyncDispose]();
  });

  const url = (path: string, { port } = server): string => `http://127.0.0.1:${port}${path}`;

  async function get(path: string, headers: Record<string, string> = {}, at = server): Promise<string> {
    return (await fetch(url(path, at), { headers })).text();
  }

  async function post(path: string, body: unknown, headers: Record<string, string> = {}, at = server) {
    const response = await fetch(url(path, at), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
    return response.text();
  }

  test('the lab as it is written: create, list, info, stop, start', async () => {
    assert.equal(await get('/'), 'Welcome to OS Cloud!\n');
    assert.equal(await get('/vm_list'), '[]\n');
    assert.equal(await post('/vm_create', wanted('my_vm')), '{"id":1,"status":"ok"}\n');
    assert.equal(await get('/vm_list'), '[{"id":1,"name":"my_vm"}]\n');
    assert.equal(await post('/vm_info', { id: 1 }), info('RUNNING'));
    assert.equal(await post('/vm_create', wanted('my_vm')), error('vm "my_vm" already exists'));
    for (let times = 0; times < 2; times += 1) {
      assert.equal(await post('/vm_stop', { id: 1 }), '{"status":"ok"}\n');
      assert.equal(await post('/vm_info', { id: 1 }), info('STOPPED'));
    }
    for (let times = 0; times < 2; times += 1) {
      assert.equal(await post('/vm_start', { id: 1 }), '{"status":"ok"}\n');
      assert.equal(await post('/vm_info', { id: 1 }), info('RUNNING'));
    }
    assert.equal(await post('/vm_info', { id: 99 }), error('vm "99" not found'));
    assert.equal(await post('/vm_stop', { id: 99 }), error("vm '99' not found"));
    assert.equal(await post('/vm_start', { id: 'x' }), error("vm 'x' not found"));
  });

  async function traces(): Promise<unknown> {
    const { db } = bed.store;
    const count = async (table: 'machines' | 'oscloud_machines' | 'addresses' | 'jobs') =>
      (
        await db
          .selectFrom(table)
          .select(({ fn }) => fn.countAll<number>().as('count'))
          .executeTakeFirstOrThrow()
      ).count;
    return [
      await count('machines'),
      await count('oscloud_machines'),
      await count('addresses'),
      await count('jobs'),
      readdirSync(join(bed.dataDirectory, 'machines')).toSorted(),
    ];
  }

  test('what cannot be is refused before any work, with the reason, and leaves nothing', async () => {
    const before = await traces();
    assert.equal(
      await post('/vm_create', wanted('a', { image: 'nope' })),
      error('disk template "nope" not found'),
    );
    assert.equal(
      await post('/vm_create', wanted('a', { network: 'nonet' })),
      error('network "nonet" not found'),
    );
    assert.match(
      await post('/vm_create', wanted('a', { disk_size: '1M' })),
      /create disk failed: disk template \\"ubuntu_22.04\\" needs a disk of at least 16777216 bytes/,
    );
    assert.match(
      await post('/vm_create', wanted('a', { mem_size: '512' })),
      /Invalid mem_size: at least 16 MiB/,
    );
    assert.match(
      await post('/vm_create', wanted('a', { ssh_key: "'; touch /root/pwned; '" })),
      /Invalid ssh_key: /,
    );
    assert.deepEqual(await traces(), before);
  });

  test('creations side by side all succeed, with numbers, addresses and names of their own', async () => {
    const names = ['c 1', 'c_1', 'c-1', 'C.1', 'ç1', '名前'];
    const answers = await Promise.all(names.map((name) => post('/vm_create', wanted(name))));
    const ids = answers.map((text) =>
      Number(/^\{"id":(\d+),"status":"ok"\}\n$/.exec(text)?.[1] ?? assert.fail(text)),
    );
    assert.equal(new Set(ids).size, names.length);
    const ips = new Set<unknown>();
    for (const [index, id] of ids.entries()) {
      const info: { name: string; ip: string } = JSON.parse(await post('/vm_info', { id }));
      assert.equal(info.name, names[index]);
      ips.add(info.ip);
    }
    assert.equal(ips.size, names.length);
    assert.match(await get('/vm_list'), /"name":"\\u540d\\u524d"/);
  });

  test('of two that ask for one name at the same moment, one gets it', async () => {
    const answers = await Promise.all([1, 2, 3].map(() => post('/vm_create', wanted('twin'))));
    assert.equal(answers.filter((text) => text.includes('"ok"')).length, 1);
    assert.equal(answers.filter((text) => text === error('vm "twin" already exists')).length, 2);
  });

  test('a machine deleted elsewhere is gone from the list at once; its number is not given again', async () => {
    const made = await post('/vm_create', wanted('short'));
    const id = Number(/"id":(\d+)/.exec(made)?.[1]);
    assert.match(await get('/vm_list'), /"short"/);
    const { machine_id } = await bed.store.db
      .selectFrom('oscloud_machines')
      .select('machine_id')
      .where('number', '=', id)
      .executeTakeFirstOrThrow();
    await bed.done(bed.machines.remove(null, machine_id));
    await until(3000, 'the list to forget it', async () =>
      (await get('/vm_list')).includes('short') ? undefined : true,
    );
    assert.equal(await post('/vm_info', { id }), error(`vm "${id}" not found`));
    assert.match(await post('/vm_create', wanted('short')), new RegExp(`"id":${id + 1},`));
  });

  test('a machine that ends by itself is shown as stopped, and can be started', async () => {
    const id = Number(/"id":(\d+)/.exec(await post('/vm_create', wanted('brief')))?.[1]);
    const { machine_id } = await bed.store.db
      .selectFrom('oscloud_machines')
      .select('machine_id')
      .where('number', '=', id)
      .executeTakeFirstOrThrow();
    const { keeper } = await bed.store.db
      .selectFrom('machines')
      .select('keeper')
      .where('id', '=', machine_id)
      .executeTakeFirstOrThrow();
    assert.ok(keeper);
    process.kill(keeper.pid, 'SIGKILL');
    await until(5000, 'its end to be noticed', async () =>
      (await post('/vm_info', { id })).includes('"STOPPED"') ? true : undefined,
    );
    assert.equal(await post('/vm_start', { id }), '{"status":"ok"}\n');
    await bed.done(bed.machines.pause(null, machine_id));
    assert.match(await post('/vm_info', { id }), /"PAUSED"/);
    assert.equal(await post('/vm_start', { id }), '{"status":"ok"}\n');
    assert.match(await post('/vm_info', { id }), /"RUNNING"/);
  });

  test('the records are shown as the tables of the lab', async () => {
    const { vm, disk, network } = await selectOsCloudTables(
      bed.store.db,
      await bed.user('boss', { admin: true }),
    );
    const [first] = vm;
    assert.deepEqual(
      [first?.id, first?.name, first?.ip, first?.state],
      [1, 'my_vm', '192.168.0.2', 'RUNNING'],
    );
    assert.deepEqual(disk[0], { id: 1, size: 33_554_432, template_name: 'ubuntu_22.04' });
    assert.deepEqual(network[0], {
      id: 1,
      name: 'default',
      bridge: 'br0',
      ip: '192.168.0.0',
      mask: '255.255.0.0',
    });
    assert.deepEqual((await selectOsCloudTables(bed.store.db, await bed.user('nobody'))).vm, []);
  });

  test('without --oscloud-open a token is needed, and each account counts and sees its own', async () => {
    const ada = await bed.user('ada');
    const secret = newSecret();
    const token = await insertToken(bed.store.db, {
      user_id: ada.id,
      hash: hashSecret(secret),
      label: 'test',
    });
    const headers = { authorization: `Bearer ${secret}` };
    assert.equal(await get('/', {}, guarded), 'Welcome to OS Cloud!\n');
    for (const bad of [
      {},
      { authorization: 'Bearer nonsense' },
      { authorization: `Bearer ${newSecret()}` },
    ]) {
      const response = await fetch(url('/vm_list', guarded), { headers: bad });
      assert.deepEqual([response.status, response.headers.get('www-authenticate')], [401, 'Bearer']);
      await response.text();
    }
    assert.equal(await get('/vm_list', headers, guarded), '[]\n');
    assert.equal(await post('/vm_create', wanted('my_vm'), headers, guarded), '{"id":1,"status":"ok"}\n');
    assert.equal(await get('/vm_list', headers, guarded), '[{"id":1,"name":"my_vm"}]\n');
    assert.equal(await post('/vm_info', { id: 2 }, headers, guarded), error('vm "2" not found'));
    await revokeToken(bed.store.db, ada.id, token.id);
    await bed.store.db.executeQuery(
      (await import('kysely')).sql`select pg_notify('carrel_auth', ${ada.id})`.compile(bed.store.db),
    );
    await until(3000, 'the token to end', async () => {
      const response = await fetch(url('/vm_list', guarded), { headers });
      await response.text();
      return response.status === 401 || undefined;
    });
  });

  test('open routes answer to their own name only, refuse large bodies, and are for the loopback', async () => {
    const { request } = await import('node:http');
    const status = await new Promise((resolve, reject) => {
      request(
        { host: '127.0.0.1', port: server.port, path: '/vm_list', headers: { host: 'evil.example' } },
        (response) => {
          response.resume();
          resolve(response.statusCode);
        },
      )
        .on('error', reject)
        .end();
    });
    assert.equal(status, 403);
    const large = await fetch(url('/vm_create'), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: 'x'.repeat(70_000),
    });
    await large.text();
    assert.equal(large.status, 413);
    await assert.rejects(
      openOsCloud({
        listen: { host: '127.0.0.1', port: 0 },
        endpoint: { host: '0.0.0.0', port: 5000 },
        open: true,
        authenticator: { identify: () => assert.fail('nobody is asked') },
        store: bed.store,
        machines: async () => bed.machines,
        template: () => assert.fail('nothing is made'),
        log: silent,
      }),
      { code: 'forbidden' },
    );
  });
});
