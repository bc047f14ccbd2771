/** A process with virtual machines that is killed in the middle: nothing of it is left, and the next one runs. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { until, within } from '#base/deadline.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { code, run } from '#vmm/testing.ts';

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
});
