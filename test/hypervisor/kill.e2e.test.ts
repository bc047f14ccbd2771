/** A process with virtual machines that is killed in the middle: nothing of it is left, and the next one runs. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { until, within } from '#base/deadline.ts';
import { launchOk } from '#host/launch.ts';
import { identify, statOf, untilGone } from '#host/processes.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { code, run } from '#vmm/testing.ts';
import { makeNetns } from '#test/netbed.ts';
import { compileKernel, type Running, startVmm } from './ourkernel.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** More by CARREL_KILL_ROUNDS. */
const rounds = Number(process.env['CARREL_KILL_ROUNDS'] ?? 3);

/** Field 5 of /proc/PID/stat (proc_pid_stat(5)); the name in field 2 may hold anything. */
async function groupOf(pid: string): Promise<number | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]);
  } catch {
    return undefined; // it has just ended
  }
}

/** Processes of a group that are left. */
async function groupMembers(group: number): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const groups = await Promise.all(pids.map(groupOf));
  return pids.filter((_, index) => groups[index] === group);
}

const programs: Readonly<Record<string, readonly string[]>> = {
  'two vCPUs': ['run', 'guest.c', '--vcpus=2', '--limit=60s'],
  'a schedule': ['schedule', 'guest.c', 'guest.c', '--limit=60s', '--slice=1ms'],
};

/** Kills it, and waits until its process group is empty. */
async function killed(vmm: Running): Promise<void> {
  vmm.child.kill('SIGKILL');
  assert.equal(await vmm.ended(), 'SIGKILL');
  await until(20_000, 'its group to be empty', async () =>
    (await groupMembers(vmm.pid)).length === 0 ? true : undefined,
  );
}

suite('kill -9', { skip: withoutKvm }, () => {
  for (const [name, args] of Object.entries(programs))
    test(`of a process with ${name} leaves nothing`, async (context) => {
      const directory = await mkdtemp(join(tmpdir(), 'carrel-kill-'));
      context.after(() => rm(directory, { recursive: true }));
      const guest = join(root, 'test/hypervisor/speak-and-spin.c');
      for (let round = 0; round < rounds; round += 1) {
        const child = spawn(
          process.execPath,
          ['src/cli/main.ts', 'vmm', ...args.map((arg) => (arg === 'guest.c' ? guest : arg))],
          {
            cwd: root,
            stdio: ['ignore', 'pipe', 'inherit'],
            detached: true, // a process group of its own
            env: { ...process.env, TMPDIR: directory },
          },
        );
        const ended = once(child, 'exit');
        const { pid } = child;
        assert.ok(pid);
        const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
        for (const _ of [0, 1]) {
          const line: IteratorResult<string> = await within(60_000, 'both to speak', lines.next());
          assert.match(String(line.value), /here/);
        }
        child.kill('SIGKILL');
        const [, signal] = await within(120_000, 'the process to end', ended);
        assert.equal(signal, 'SIGKILL');
        await until(120_000, 'its group to be empty', async () =>
          (await groupMembers(pid)).length === 0 ? true : undefined,
        );
        assert.deepEqual(await readdir(directory), []);
      }
      assert.equal((await run(code(0xf4))).end.kind, 'halted');
    });

  test('of vmm serve leaves nothing while its guest runs, and its port is free', async (context) => {
    const directory = await mkdtemp(join(tmpdir(), 'carrel-kill-'));
    context.after(() => rm(directory, { recursive: true }));
    let listen = '127.0.0.1:0';
    for (let round = 0; round < rounds; round += 1) {
      await using vmm = startVmm(['serve', 'test/hypervisor/speak-and-spin.c', `--listen=${listen}`], {
        env: { TMPDIR: directory },
      });
      const [, address = ''] = await vmm.said(/serving at http:\/\/(127\.0\.0\.1:\d+)/);
      const [, token = ''] = await vmm.said(/^token (\S+)$/m);
      const headers = { authorization: `Bearer ${token}` };
      const body = JSON.stringify({ do: 'continue' });
      const answer = await fetch(`http://${address}/command`, { method: 'POST', headers, body });
      assert.equal(answer.status, 200, await answer.text());
      await until(20_000, 'the guest to speak', async () =>
        /here/.test(await (await fetch(`http://${address}/events`, { headers })).text()) ? true : undefined,
      );
      await killed(vmm);
      assert.deepEqual(await readdir(directory), []);
      listen = address;
    }
  });

  const skip = process.getuid?.() === 0 ? false : 'needs root';
  test(
    'of vmm linux leaves nothing: card, disk and console are free for the next one',
    { skip },
    async (context) => {
      const directory = await mkdtemp(join(tmpdir(), 'carrel-kill-'));
      context.after(() => rm(directory, { recursive: true }));
      const kernel = await compileKernel(directory);
      const disk = join(directory, 'disk');
      await writeFile(disk, Buffer.alloc(4096));
      const names = (await readdir(directory)).toSorted();
      await using bed = await makeNetns();
      const links = async (): Promise<string> => (await bed.run('ip', '-brief', 'link')).stdout.toString();
      await bed.run('ip', 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap');
      await bed.run('ip', 'link', 'set', 'tap0', 'up');
      const before = await links();
      for (let round = 0; round < rounds; round += 1) {
        await using vmm = startVmm(
          ['linux', '--kernel', kernel, '--disk', disk, '--tap', 'tap0', '--console', 'virtio'],
          { netns: bed.pid, env: { TMPDIR: directory } },
        );
        await vmm.said(/^devices: net disk console\n$/);
        vmm.type('disk\n');
        await vmm.said(/sector 0/);
        await killed(vmm);
        assert.deepEqual((await readdir(directory)).toSorted(), names);
        // the kernel tells of a lost carrier up to a second later
        await until(20_000, 'the TAP to be there, without a carrier', async () =>
          (await links()) === before ? true : undefined,
        );
      }
    },
  );

  test('while gcc compiles a guest leaves what the next one removes', async (context) => {
    const directory = await mkdtemp(join(tmpdir(), 'carrel-kill-'));
    context.after(() => rm(directory, { recursive: true }));
    const temporary = join(directory, 'tmp');
    await mkdir(temporary);
    const env = { TMPDIR: temporary };
    // gcc waits at it for as long as nobody writes
    const pipe = join(directory, 'pipe.h');
    await launchOk(['mkfifo', pipe]);
    const guest = join(directory, 'guest.c');
    await writeFile(guest, '#include "pipe.h"\nint main(void) { return 0; }\n');
    await using vmm = startVmm(['run', guest], { env });
    await until(60_000, 'gcc to compile', async () => {
      const [scratch] = await readdir(temporary);
      return scratch !== undefined && (await readdir(join(temporary, scratch))).length > 0 ? true : undefined;
    });
    const children = (await readdir('/proc'))
      .filter((name) => /^\d+$/.test(name) && statOf(Number(name))?.parent === vmm.pid)
      .map((name) => identify(Number(name)))
      .filter((child) => child !== undefined);
    assert.equal(children.length, 1);
    vmm.child.kill('SIGKILL');
    assert.equal(await vmm.ended(), 'SIGKILL');
    assert.equal((await readdir(temporary)).length, 1);
    await writeFile(pipe, ''); // gcc goes on, and ends by itself
    for (const gcc of children) await untilGone(gcc, 60_000);
    await using next = startVmm(['run', 'guests/examples/hello.c'], { env });
    assert.equal(await next.ended(), 0, next.notes);
    assert.deepEqual(await readdir(temporary), []);
  });
});
