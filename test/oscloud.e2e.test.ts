/**
 * The OS-Cloud lab against a real cloud: real virtual machines, a real OpenSSH client, a stand-in for the host and
 * one for the internet behind it. One cloud for all; the cases build on each other, in the order of the lab.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launch } from '#host/launch.ts';
import { statOf } from '#host/processes.ts';
import { openImages } from '#images/store.ts';
import { startCloud, whyNoCloud } from './harness/cloud.ts';
import { labImage, OsCloudLab, serveWorld, world } from './harness/oscloud.ts';
import { enterNetns, makeNetns } from './netbed.ts';

async function whyNoVms(): Promise<string | undefined> {
  const reason = whyNoCloud();
  if (reason !== undefined) return reason;
  for (const program of ['qemu-system-x86_64', 'ssh', 'ssh-keygen', 'busybox'])
    if ((await launch(['which', program])).status !== 0) return `${program} is not installed`;
  if (await (await openImages()).find(labImage, { kind: 'disk' })) return undefined;
  return 'the disk is not built: carrel image build debian-12-disk';
}

const skip = (await whyNoVms()) ?? false;
const tiny = await (await openImages()).find('tiny', { kind: 'disk' });
/** What is enough where nothing of the system is looked at: it boots in a second or two. */
const small = tiny ? { image: 'tiny', mem_size: '128M', disk_size: '1G' } : {};
const error = (message: string): string => `{"error_msg":${JSON.stringify(message)},"status":"error"}\n`;

const stack = new AsyncDisposableStack();
let lab: OsCloudLab;

const runs = (pid: number): boolean => !['Z', 'X', undefined].includes(statOf(pid)?.state);
const row = async () => (await lab.table()).vm.find(({ id }) => id === 2) ?? assert.fail('it is gone');
const uptime = async (): Promise<number> =>
  Number((await lab.inside('192.168.0.3', 'cat', '/proc/uptime')).split(' ')[0]);

/** Through the forwarded port, from the host itself. */
const askForward = async (): Promise<string> =>
  (await launch(['busybox', 'timeout', '5', 'busybox', 'nc', '127.0.0.1', '8080'])).stdout.toString();

suite('the OS-Cloud lab', { skip, concurrency: false, timeout: 1_800_000 }, () => {
  before(async () => {
    const host = stack.use(await makeNetns());
    const outside = stack.use(await makeNetns());
    await host.run('ip', 'link', 'set', 'lo', 'up');
    const peer = ['peer', 'name', 'world0', 'netns', String(outside.pid)];
    await host.run('ip', 'link', 'add', 'host0', 'type', 'veth', ...peer);
    await host.run('ip', 'addr', 'add', '203.0.113.1/24', 'dev', 'host0');
    await host.run('ip', 'link', 'set', 'host0', 'up');
    await host.run('ip', 'route', 'add', 'default', 'via', world);
    await outside.run('ip', 'addr', 'add', `${world}/24`, 'dev', 'world0');
    await outside.run('ip', 'link', 'set', 'world0', 'up');
    enterNetns(host.pid);
    stack.defer(() => enterNetns(process.ppid));
    const scratch = mkdtempSync(join(tmpdir(), 'oscloud-'));
    stack.defer(() => rmSync(scratch, { recursive: true }));
    lab = new OsCloudLab(stack.use(await startCloud({ osCloud: true, uplink: true })), scratch);
    await lab.makeKey();
    stack.use(await serveWorld(outside, scratch));
  });
  after(async () => {
    const left = await lab?.cloud.down();
    await stack.disposeAsync();
    assert.deepEqual(left, []);
  });

  test('a greeting, and no machines', async () => {
    assert.equal(await lab.get('/'), 'Welcome to OS Cloud!\n');
    assert.equal(await lab.get('/vm_list'), '[]\n');
  });

  test('what is missing, malformed or unknown is named, before any work', async () => {
    const given: Record<string, unknown> = {};
    for (const [field, value] of Object.entries(lab.wanted('a'))) {
      if (field === 'ssh_key') continue;
      assert.equal(await lab.post('vm_create', given), error(`VM ${field} not provided`));
      given[field] = value;
    }
    assert.equal(
      await lab.post('vm_create', lab.wanted('a', { mem_size: 'lots' })),
      error('Invalid mem_size: lots'),
    );
    assert.equal(
      await lab.post('vm_create', lab.wanted('a', { image: 'nope' })),
      error('disk template "nope" not found'),
    );
    assert.equal(
      await lab.post('vm_create', lab.wanted('a', { network: 'nonet' })),
      error('network "nonet" not found'),
    );
    assert.match(
      await lab.post('vm_create', lab.wanted('a', { disk_size: '1G' })),
      /create disk failed: disk template .* needs a disk of at least \d+ bytes/,
    );
    assert.match(
      await lab.post('vm_create', lab.wanted('a', { ssh_key: "'; touch /root/pwned; '" })),
      /Invalid ssh_key/,
    );
    assert.equal(await lab.get('/vm_list'), '[]\n');
    const { items } = await lab.cloud.admin.listJobs({ params: {}, query: { kind: 'machine.create' } });
    assert.deepEqual(items, []);
  });

  test('the first machine: number 1, address .2, as large as it was asked for', async () => {
    const made = await lab.post('vm_create', {
      name: 'my_vm',
      image: labImage,
      network: 'default',
      mem_size: '2G',
      disk_size: '10G',
    });
    assert.equal(made, '{"id":1,"status":"ok"}\n');
    assert.equal(await lab.get('/vm_list'), '[{"id":1,"name":"my_vm"}]\n');
    assert.equal(
      await lab.post('vm_info', { id: 1 }),
      '{"disk_size":10737418240,"id":1,"ip":"192.168.0.2","mem_size":2147483648,"name":"my_vm","network":"default","os":"ubuntu_22.04","state":"RUNNING"}\n',
    );
    assert.equal(await lab.post('vm_create', lab.wanted('my_vm')), error('vm "my_vm" already exists'));
  });

  test('the console asks for a login; a second reader sees the same, and what was typed is kept', async () => {
    const { machine } = (await lab.table()).vm.find(({ id }) => id === 1) ?? assert.fail('it is gone');
    const url = new URL(`${lab.cloud.url}/v1/machines/${machine}/console`);
    const first = lab.reader(url);
    const second = lab.reader(url);
    await until(
      180_000,
      'login:',
      () => {
        first.stream.input(Buffer.from('\r'));
        return /login: /.test(first.seen()) || undefined;
      },
      { everyMs: 1000 },
    );
    // The system throws away what is typed while it prepares the terminal, and shows nothing of a password: Enter now and
    // then, or every name could meet a question for a password.
    let tries = 0;
    await until(
      300_000,
      'what was typed',
      () => {
        tries += 1;
        const keys = Buffer.from(tries % 3 === 0 ? '\r' : 'nobody-special\r');
        // only one of them may type, and on a busy host that may have become the other one
        for (const { stream } of [first, second]) stream.input(keys);
        return [first, second].every(({ seen }) => seen().includes('nobody-special')) || undefined;
      },
      { everyMs: 1500 },
    );
    const late = lab.reader(url);
    await until(20_000, 'the transcript', () => late.seen().includes('nobody-special') || undefined);
    for (const { stream } of [first, second, late]) {
      stream.leave();
      await stream.ended;
    }
    // two cores are soon too few for machines that start up beside each other
    assert.equal(await lab.post('vm_stop', { id: 1 }), '{"status":"ok"}\n');
  });

  test('with a key one comes in by ssh, without a password, and is greeted; the disk is as large as it was ordered', async () => {
    assert.equal(await lab.post('vm_create', lab.wanted('my_vm2')), '{"id":2,"status":"ok"}\n');
    const session = await lab.login('192.168.0.3', ['-tt'], 'hostname\nexit\n');
    assert.match(session.stdout.toString(), /Powered by OS Cloud/, session.stderr.toString());
    assert.match(session.stdout.toString(), /my-vm2/);
    const [, kib = '0'] = (await lab.inside('192.168.0.3', 'df', '-k', '--output=size', '/'))
      .trim()
      .split(/\s+/);
    assert.ok(Number(kib) >= 3.8 * 2 ** 20, `${kib} KiB`);
  });

  test('the machine reaches the world behind the host, and no rule is there twice after a restart', async () => {
    assert.match(await lab.inside('192.168.0.3', 'curl', '-s', '-m', '20', `http://${world}/`), /301 Moved/);
    const rules = await lab.masquerades();
    assert.ok(rules.length > 0 && new Set(rules).size === rules.length, rules.join('\n'));
    await lab.killDaemon();
    assert.deepEqual(await lab.masquerades(), rules);
  });

  test('two at the same moment: both are made, with everything of their own, and both answer by ssh', async () => {
    const made = await Promise.all(
      ['c1', 'c2'].map((name) => lab.post('vm_create', lab.wanted(name, small))),
    );
    assert.deepEqual(made.toSorted(), ['{"id":3,"status":"ok"}\n', '{"id":4,"status":"ok"}\n']);
    const { vm } = await lab.table();
    for (const field of ['ip', 'mac', 'qemu_pid', 'machine'] as const)
      assert.equal(new Set(vm.map((row) => row[field])).size, 4, field);
    const names = await Promise.all(
      [3, 4].map(async (id) => {
        const ip = vm.find((row) => row.id === id)?.ip ?? '';
        return (await lab.inside(ip, 'hostname')).trim();
      }),
    );
    assert.deepEqual(names.toSorted(), ['c1', 'c2']);
  });

  test('the cloud is killed and restarted: the machine goes on as the same process, and can be stopped', async () => {
    const { qemu_pid: pid } = await row();
    const before = await uptime();
    await lab.killDaemon();
    assert.ok((await uptime()) > before);
    assert.equal((await row()).qemu_pid, pid);
    assert.match(await lab.post('vm_info', { id: 2 }), /"state":"RUNNING"/);
    assert.equal(await lab.post('vm_stop', { id: 2 }), '{"status":"ok"}\n');
    assert.ok(pid !== null && !runs(pid), 'its process is still there');
    assert.match(await lab.post('vm_info', { id: 2 }), /"state":"STOPPED"/);
    assert.equal(await lab.post('vm_stop', { id: 2 }), '{"status":"ok"}\n');
    for (let times = 0; times < 2; times += 1) {
      assert.equal(await lab.post('vm_start', { id: 2 }), '{"status":"ok"}\n');
      assert.match(await lab.post('vm_info', { id: 2 }), /"state":"RUNNING"/);
    }
    assert.equal(await lab.inside('192.168.0.3', 'hostname'), 'my-vm2\n');
  });

  test('numbers that are none, or nobody’s', async () => {
    for (const body of [{}, { id: 0 }])
      assert.equal(await lab.post('vm_info', body), error('VM id not provided'));
    assert.equal(await lab.post('vm_info', { id: 99 }), error('vm "99" not found'));
    for (const path of ['vm_stop', 'vm_start'])
      assert.equal(await lab.post(path, { id: 99 }), error("vm '99' not found"));
  });

  test(
    'machine 41 of the teaching cloud: its own subnet, a forward that works, a starter script line by line',
    { skip: tiny ? false : 'the disk is not built: carrel image build tiny' },
    async () => {
      const { admin } = lab.cloud;
      await admin.createNetwork({ params: {}, body: { name: 'classic', layout: 'routed' } });
      const { job, id } = await admin.createMachine({
        params: {},
        body: {
          name: 'vm41',
          image: 'tiny',
          driver: 'qemu',
          network: 'classic',
          networkNumber: 41,
          limits: { memoryBytes: 128 * 2 ** 20 },
          starter: { lines: ['echo one', 'false', 'echo three'], limitSeconds: 60 },
        },
      });
      const machine = id ?? assert.fail();
      await lab.ended(job.id);
      const { address, driver } = await admin.getMachine({ params: { machine } });
      assert.deepEqual([address, driver], ['192.168.241.2', 'qemu']);
      assert.match(await lab.addresses(), /192\.168\.241\.1\/24 .*vmtap141/);

      const { items } = await admin.listScripts({ params: { machine } });
      const [first] = items;
      assert.ok(first?.starter && first.jobId !== null);
      await lab.ended(first.jobId);
      const again = await admin.runScript({ params: { machine }, body: { again: first.id } });
      await lab.ended(again.job.id);
      for (const script of [first.id, again.id ?? '']) {
        const { results } = await admin.getScript({ params: { machine, script } });
        assert.deepEqual(
          results.map(({ line, end, stdout }) => [line, end, stdout]),
          [
            ['echo one', { kind: 'exited', status: 0 }, 'one\n'],
            ['false', { kind: 'exited', status: 1 }, ''],
            ['echo three', { kind: 'exited', status: 0 }, 'three\n'],
          ],
        );
        assert.ok(results.every(({ startedAt, wallMs }) => startedAt !== null && wallMs !== null));
      }

      const serve = 'while :; do echo hello from 41 | nc -l -p 4096; done';
      await admin.createExec({ params: { machine }, body: { argv: ['/bin/sh', '-c', serve] } });
      const forward = await admin.createForward({
        params: { machine },
        body: { port: 8080, machinePort: 4096 },
      });
      await until(
        60_000,
        'an answer of the machine',
        async () => (await askForward()).includes('hello from 41') || undefined,
      );
      await admin.removeForward({ params: { machine, forward: forward.id } });
      assert.equal(await askForward(), '');
    },
  );
});
