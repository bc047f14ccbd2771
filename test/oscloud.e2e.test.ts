/**
 * The OS-Cloud lab against a real cloud: real virtual machines, a real OpenSSH client, a stand-in for the host and
 * one for the internet behind it. One cloud for all; the cases build on each other, in the order of the lab.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { until } from '#base/deadline.ts';
import { openStream, type Stream } from '#cli/stream.ts';
import type { OsCloudTables } from '#contract/schemas/oscloud.ts';
import { type Argv, launch, type LaunchResult, launchService, type Service } from '#host/launch.ts';
import { statOf } from '#host/processes.ts';
import { openImages } from '#images/store.ts';
import { type Cloud, startCloud, whyNoCloud } from './harness/cloud.ts';
import { enterNetns, makeNetns, type Netbed } from './netbed.ts';

const image = 'ubuntu_22.04';

async function whyNoVms(): Promise<string | undefined> {
  const reason = whyNoCloud();
  if (reason !== undefined) return reason;
  for (const program of ['qemu-system-x86_64', 'ssh', 'ssh-keygen', 'busybox'])
    if ((await launch(['which', program])).status !== 0) return `${program} is not installed`;
  if (await (await openImages()).find(image, { kind: 'disk' })) return undefined;
  return 'the disk is not built: carrel image build debian-12-disk';
}

const skip = (await whyNoVms()) ?? false;
const tiny = await (await openImages()).find('tiny', { kind: 'disk' });
/** The stand-in for the internet: a documentation range, which machines may go to (RFC 5737). */
const world = '203.0.113.2';
/** What is enough where nothing of the system is looked at: it boots in a second or two. */
const small = tiny ? { image: 'tiny', mem_size: '128M', disk_size: '1G' } : {};
const error = (message: string): string => `{"error_msg":${JSON.stringify(message)},"status":"error"}\n`;

const stack = new AsyncDisposableStack();
let host: Netbed;
let cloud: Cloud;
/** Keys, and what the stand-in for the internet serves. */
let scratch: string;

/** An HTTP server in the stand-in for the internet. */
async function serveWorld(outside: Netbed): Promise<void> {
  const page = join(scratch, 'www');
  mkdirSync(page);
  writeFileSync(join(page, 'index.html'), '301 Moved\n');
  const httpd = ['busybox', 'httpd', '-f', '-p', `${world}:80`, '-h', page];
  const server: Service = await launchService([
    'nsenter',
    `--net=/proc/${outside.pid}/ns/net`,
    '--',
    ...httpd,
  ]);
  stack.defer(async () => void (await server.stop({ graceMs: 200 })));
}

async function get(path: string): Promise<string> {
  return (await fetch(cloud.osCloud + path)).text();
}

async function post(path: string, body: unknown): Promise<string> {
  const response = await fetch(`${cloud.osCloud}/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(300_000),
  });
  return response.text();
}

const wanted = (name: string, more: object = {}) => ({
  name,
  image,
  network: 'default',
  mem_size: '384M',
  disk_size: '4G',
  ssh_key: readFileSync(join(scratch, 'key.pub'), 'utf8'),
  ...more,
});

/** The lab's own way in: from where the machines are reached directly. */
async function ssh(
  ip: string,
  options: readonly string[],
  input: string,
  ...command: string[]
): Promise<LaunchResult> {
  const { daemon = 0 } = cloud.pids();
  const known = ['StrictHostKeyChecking=accept-new', `UserKnownHostsFile=${join(scratch, 'known')}`];
  const settings = ['BatchMode=yes', 'ConnectTimeout=10', ...known].flatMap((setting) => ['-o', setting]);
  const client = ['ssh', '-i', join(scratch, 'key'), ...settings, ...options, `root@${ip}`, ...command];
  const argv: Argv = ['nsenter', `--net=/proc/${daemon}/ns/net`, '--', ...client];
  return launch(argv, { input, timeoutMs: 150_000 });
}

/** The server for ssh comes up beside the rest: a machine that has answered may refuse a moment longer. */
const login = (
  ip: string,
  options: readonly string[],
  input: string,
  ...command: string[]
): Promise<LaunchResult> =>
  until(
    120_000,
    `ssh to ${ip}`,
    async () => {
      const result = await ssh(ip, options, input, ...command);
      return result.status === 255 && /refused|timed out|No route/.test(result.stderr.toString())
        ? undefined
        : result;
    },
    { everyMs: 500 },
  );

async function inside(ip: string, ...command: string[]): Promise<string> {
  const result = await login(ip, [], '', ...command);
  assert.equal(result.status, 0, result.stderr.toString());
  return result.stdout.toString();
}

async function ended(job: string): Promise<void> {
  const { state, error } = await until(240_000, `job ${job}`, async () => {
    const seen = await cloud.admin.getJob({ params: { job }, query: { wait: 30 } });
    return seen.finishedAt === null ? undefined : seen;
  });
  assert.equal(state, 'done', JSON.stringify(error));
}

const table = async (): Promise<OsCloudTables> => cloud.admin.getOsCloudTables({ params: {} });
const runs = (pid: number): boolean => !['Z', 'X', undefined].includes(statOf(pid)?.state);

async function killDaemon(): Promise<void> {
  const { daemon } = await cloud.untilWell();
  process.kill(daemon, 'SIGKILL');
  await until(20_000, 'another daemon', async () => (await cloud.untilWell()).daemon !== daemon || undefined);
}

const masquerades = async (): Promise<string[]> => {
  const { daemon = 0 } = cloud.pids();
  const rules = await launch(['nsenter', `--net=/proc/${daemon}/ns/net`, '--', 'nft', 'list', 'ruleset']);
  return rules.stdout
    .toString()
    .split('\n')
    .filter((line) => line.includes('masquerade'))
    .map((line) => line.trim());
};
const row = async () => (await table()).vm.find(({ id }) => id === 2) ?? assert.fail('it is gone');
const uptime = async (): Promise<number> =>
  Number((await inside('192.168.0.3', 'cat', '/proc/uptime')).split(' ')[0]);
const reader = (url: URL): { stream: Stream; seen: () => string } => {
  let text = '';
  const stream = openStream({
    url,
    token: cloud.adminToken,
    from: 0,
    output: (bytes) => {
      text += Buffer.from(bytes).toString('latin1');
    },
  });
  return { stream, seen: () => text };
};

/** Through the forwarded port, from the host itself. */
const askForward = async (): Promise<string> =>
  (await launch(['busybox', 'timeout', '5', 'busybox', 'nc', '127.0.0.1', '8080'])).stdout.toString();

suite('the OS-Cloud lab', { skip, concurrency: false, timeout: 600_000 }, () => {
  before(async () => {
    host = stack.use(await makeNetns());
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
    scratch = mkdtempSync(join(tmpdir(), 'oscloud-'));
    stack.defer(() => rmSync(scratch, { recursive: true }));
    cloud = stack.use(await startCloud({ osCloud: true, uplink: true }));
    await launch([
      'ssh-keygen',
      '-q',
      '-t',
      'ed25519',
      '-N',
      '',
      '-C',
      'os-cloud-user',
      '-f',
      join(scratch, 'key'),
    ]);
    await serveWorld(outside);
  });
  after(async () => {
    const left = await cloud?.down();
    await stack.disposeAsync();
    assert.deepEqual(left, []);
  });

  test('a greeting, and no machines', async () => {
    assert.equal(await get('/'), 'Welcome to OS Cloud!\n');
    assert.equal(await get('/vm_list'), '[]\n');
  });

  test('what is missing, malformed or unknown is named, before any work', async () => {
    const given: Record<string, unknown> = {};
    for (const [field, value] of Object.entries(wanted('a'))) {
      if (field === 'ssh_key') continue;
      assert.equal(await post('vm_create', given), error(`VM ${field} not provided`));
      given[field] = value;
    }
    assert.equal(await post('vm_create', wanted('a', { mem_size: 'lots' })), error('Invalid mem_size: lots'));
    assert.equal(
      await post('vm_create', wanted('a', { image: 'nope' })),
      error('disk template "nope" not found'),
    );
    assert.equal(
      await post('vm_create', wanted('a', { network: 'nonet' })),
      error('network "nonet" not found'),
    );
    assert.match(
      await post('vm_create', wanted('a', { disk_size: '1G' })),
      /create disk failed: disk template .* needs a disk of at least \d+ bytes/,
    );
    assert.match(
      await post('vm_create', wanted('a', { ssh_key: "'; touch /root/pwned; '" })),
      /Invalid ssh_key/,
    );
    assert.equal(await get('/vm_list'), '[]\n');
    const { items } = await cloud.admin.listJobs({ params: {}, query: { kind: 'machine.create' } });
    assert.deepEqual(items, []);
  });

  test('the first machine: number 1, address .2, as large as it was asked for', async () => {
    const made = await post('vm_create', {
      name: 'my_vm',
      image,
      network: 'default',
      mem_size: '2G',
      disk_size: '10G',
    });
    assert.equal(made, '{"id":1,"status":"ok"}\n');
    assert.equal(await get('/vm_list'), '[{"id":1,"name":"my_vm"}]\n');
    assert.equal(
      await post('vm_info', { id: 1 }),
      '{"disk_size":10737418240,"id":1,"ip":"192.168.0.2","mem_size":2147483648,"name":"my_vm","network":"default","os":"ubuntu_22.04","state":"RUNNING"}\n',
    );
    assert.equal(await post('vm_create', wanted('my_vm')), error('vm "my_vm" already exists'));
  });

  test('the console asks for a login; a second reader sees the same, and what was typed is kept', async () => {
    const { machine } = (await table()).vm.find(({ id }) => id === 1) ?? assert.fail('it is gone');
    const url = new URL(`${cloud.url}/v1/machines/${machine}/console`);
    const first = reader(url);
    const second = reader(url);
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
      120_000,
      'what was typed',
      () => {
        tries += 1;
        first.stream.input(Buffer.from(tries % 3 === 0 ? '\r' : 'nobody-special\r'));
        return [first, second].every(({ seen }) => seen().includes('nobody-special')) || undefined;
      },
      { everyMs: 1500 },
    );
    const late = reader(url);
    await until(20_000, 'the transcript', () => late.seen().includes('nobody-special') || undefined);
    for (const { stream } of [first, second, late]) {
      stream.leave();
      await stream.ended;
    }
    // two cores are soon too few for machines that start up beside each other
    assert.equal(await post('vm_stop', { id: 1 }), '{"status":"ok"}\n');
  });

  test('with a key one comes in by ssh, without a password, and is greeted; the disk is as large as it was ordered', async () => {
    assert.equal(await post('vm_create', wanted('my_vm2')), '{"id":2,"status":"ok"}\n');
    const session = await login('192.168.0.3', ['-tt'], 'hostname\nexit\n');
    assert.match(session.stdout.toString(), /Powered by OS Cloud/, session.stderr.toString());
    assert.match(session.stdout.toString(), /my-vm2/);
    const [, kib = '0'] = (await inside('192.168.0.3', 'df', '-k', '--output=size', '/')).trim().split(/\s+/);
    assert.ok(Number(kib) >= 3.8 * 2 ** 20, `${kib} KiB`);
  });

  test('the machine reaches the world behind the host, and no rule is there twice after a restart', async () => {
    assert.match(await inside('192.168.0.3', 'curl', '-s', '-m', '20', `http://${world}/`), /301 Moved/);
    const rules = await masquerades();
    assert.ok(rules.length > 0 && new Set(rules).size === rules.length, rules.join('\n'));
    await killDaemon();
    assert.deepEqual(await masquerades(), rules);
  });

  test('two at the same moment: both are made, with everything of their own, and both answer by ssh', async () => {
    const made = await Promise.all(['c1', 'c2'].map((name) => post('vm_create', wanted(name, small))));
    assert.deepEqual(made.toSorted(), ['{"id":3,"status":"ok"}\n', '{"id":4,"status":"ok"}\n']);
    const { vm } = await table();
    for (const field of ['ip', 'mac', 'qemu_pid', 'machine'] as const)
      assert.equal(new Set(vm.map((row) => row[field])).size, 4, field);
    const names = await Promise.all(
      [3, 4].map(async (id) => {
        const ip = vm.find((row) => row.id === id)?.ip ?? '';
        return (await inside(ip, 'hostname')).trim();
      }),
    );
    assert.deepEqual(names.toSorted(), ['c1', 'c2']);
  });

  test('the cloud is killed and restarted: the machine goes on as the same process, and can be stopped', async () => {
    const { qemu_pid: pid } = await row();
    const before = await uptime();
    await killDaemon();
    assert.ok((await uptime()) > before);
    assert.equal((await row()).qemu_pid, pid);
    assert.match(await post('vm_info', { id: 2 }), /"state":"RUNNING"/);
    assert.equal(await post('vm_stop', { id: 2 }), '{"status":"ok"}\n');
    assert.ok(pid !== null && !runs(pid), 'its process is still there');
    assert.match(await post('vm_info', { id: 2 }), /"state":"STOPPED"/);
    assert.equal(await post('vm_stop', { id: 2 }), '{"status":"ok"}\n');
    for (let times = 0; times < 2; times += 1) {
      assert.equal(await post('vm_start', { id: 2 }), '{"status":"ok"}\n');
      assert.match(await post('vm_info', { id: 2 }), /"state":"RUNNING"/);
    }
    assert.equal(await inside('192.168.0.3', 'hostname'), 'my-vm2\n');
  });

  test('numbers that are none, or nobody’s', async () => {
    for (const body of [{}, { id: 0 }])
      assert.equal(await post('vm_info', body), error('VM id not provided'));
    assert.equal(await post('vm_info', { id: 99 }), error('vm "99" not found'));
    for (const path of ['vm_stop', 'vm_start'])
      assert.equal(await post(path, { id: 99 }), error("vm '99' not found"));
  });

  test(
    'machine 41 of the teaching cloud: its own subnet, a forward that works, a starter script line by line',
    { skip: tiny ? false : 'the disk is not built: carrel image build tiny' },
    async () => {
      const { admin } = cloud;
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
      await ended(job.id);
      const { address, driver } = await admin.getMachine({ params: { machine } });
      assert.deepEqual([address, driver], ['192.168.241.2', 'qemu']);
      const { daemon = 0 } = cloud.pids();
      const links = await launch(['nsenter', `--net=/proc/${daemon}/ns/net`, '--', 'ip', '-4', 'addr']);
      assert.match(links.stdout.toString(), /192\.168\.241\.1\/24 .*vmtap141/);

      const { items } = await admin.listScripts({ params: { machine } });
      const [first] = items;
      assert.ok(first?.starter && first.jobId !== null);
      await ended(first.jobId);
      const again = await admin.runScript({ params: { machine }, body: { again: first.id } });
      await ended(again.job.id);
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
