/** End to end: steps of a recipe in the machine itself, booted from the disk that is being made. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { until, within } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { launchOk } from '#host/launch.ts';
import { onlineSteps, readOnlineRecord, runOnline } from '#images/disk/online.ts';
import { builderUid } from '../ids.ts';
import { createOnlineRunner } from './online.ts';
import { makeVmBed, skip, type VmBed } from './testing.ts';

let bed: VmBed;
let scratch: string;
before(async () => {
  if (skip) return;
  bed = await makeVmBed();
  scratch = await mkdtemp(join(tmpdir(), 'carrel-online-'));
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
  if (scratch) await rm(scratch, { recursive: true, force: true });
});

/** A disk as a build has it before it becomes an image. */
async function stage(name: string): Promise<string> {
  const staged = join(scratch, name);
  await mkdir(staged);
  for (const file of ['disk.qcow2', 'kernel', 'initrd'])
    await copyFile(join(bed.image.directory, file), join(staged, file));
  return staged;
}

const appendOf = (): string => bed.image.disk?.boot?.append ?? '';

/** Reads the file system of a disk that nobody uses. */
async function debugfs(staged: string): Promise<(command: string) => Promise<string>> {
  const raw = join(staged, 'raw');
  await launchOk(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', join(staged, 'disk.qcow2'), raw]);
  return async (command) =>
    (await launchOk(['debugfs', '-R', command, `${raw}?offset=1048576`])).stdout.toString();
}

/** Machines in which a disk is made. */
function builders(): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      const group = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
      return new RegExp(`^Uid:\\t${builderUid}\\t`, 'm').test(status) && group.includes(bed.host.instance);
    } catch {
      return false; // it has just ended
    }
  });
}

for (const agent of [true, false])
  test(
    `steps ${agent ? 'through the agent' : 'typed at the console'} change the disk, and leave a transcript and nothing that is one machine’s`,
    { skip, timeout: 900_000 },
    async () => {
      const staged = await stage(agent ? 'agent' : 'console');
      const runner = createOnlineRunner(bed.host);
      const steps = onlineSteps(
        [
          { do: 'online', argv: ['sh', '-c', 'echo "it’s $((6*7))" > /etc/made-online'], seconds: 60 },
          { do: 'online', argv: ['sh', '-c', 'cat /etc/made-online; echo wrong >&2'], seconds: 60 },
          { do: 'online', argv: ['sh', '-c', 'ip -4 addr show; ls /sys/class/net'], seconds: 60 },
        ],
        runner,
      );
      const said: string[] = [];
      await runOnline(runner, staged, {
        steps,
        append: appendOf(),
        agent,
        onReport: ({ end }) => said.push(end),
        signal: undefined,
      });
      assert.deepEqual(said, ['ended with 0', 'ended with 0', 'ended with 0']);
      const [, second, third] = await readOnlineRecord(staged);
      assert.equal(second?.output.replaceAll('\r', ''), 'it’s 42\nwrong\n');
      assert.doesNotMatch(third?.output ?? '', /inet (?!127)/, 'no network');

      const look = await debugfs(staged);
      assert.match(await look('cat /etc/made-online'), /42/);
      assert.equal(await look('cat /etc/machine-id'), '');
      assert.doesNotMatch(await look('ls /etc/dropbear'), /_host_/);
      assert.doesNotMatch(await look('features'), /needs_recovery/, 'it was switched off in order');
      assert.equal(statSync(join(staged, 'disk.qcow2')).uid, 0);
      assert.deepEqual([...(await bed.driver.traces())], []);
      assert.deepEqual(builders(), []);
    },
  );

test(
  'a step that fails or takes too long ends the build, and leaves nothing',
  { skip, timeout: 900_000 },
  async () => {
    const staged = await stage('failing');
    const rest = { append: appendOf(), agent: true, signal: undefined };
    const runner = createOnlineRunner(bed.host);
    const failing = [
      { argv: ['sh', '-c', 'echo because; exit 4'], seconds: 60 },
      { argv: ['true'], seconds: 60 },
    ];
    await assert.rejects(
      runOnline(runner, staged, { ...rest, steps: failing }),
      (error) =>
        isCarrelError(error, 'validation_failed') &&
        /exit 4 ended with 4/.test(error.message) &&
        error.details?.['output'] === 'because\n',
    );
    await assert.rejects(
      runOnline(runner, staged, { ...rest, steps: [{ argv: ['sleep', '600'], seconds: 1 }] }),
      /sleep 600 was ended after 1 s/,
    );
    const cancel = new AbortController();
    const cancelled = runOnline(runner, staged, {
      ...rest,
      steps: [
        { argv: ['true'], seconds: 60 },
        { argv: ['sleep', '600'], seconds: 600 },
      ],
      onReport: () => cancel.abort(new Error('called off')),
      signal: cancel.signal,
    });
    await assert.rejects(cancelled, /called off/);
    assert.deepEqual([...(await bed.driver.traces())], []);
    assert.deepEqual(builders(), []);
  },
);

test(
  'when the builder is killed its machine dies, and the next daemon sweeps the rest',
  { skip, timeout: 600_000 },
  async () => {
    const staged = await stage('killed');
    const { directory, instance } = bed.host;
    const child = spawn(
      process.execPath,
      [
        join(import.meta.dirname, 'building.ts'),
        JSON.stringify({
          directory,
          instance,
          socket: join(directory, '..', 'builder.sock'),
          image: {
            disk: join(staged, 'disk.qcow2'),
            kernel: join(staged, 'kernel'),
            initrd: join(staged, 'initrd'),
            append: `${appendOf()} carrel.online`,
          },
        }),
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const exit = once(child, 'exit');
    const [line] = await within(
      200_000,
      'the first step',
      Promise.race([
        once(createInterface({ input: child.stdout }), 'line'),
        exit.then(() => assert.fail('the builder ended by itself')),
      ]),
    );
    assert.equal(line, 'at work');
    assert.equal(builders().length, 1);
    assert.deepEqual([...(await bed.driver.traces())], [], 'nobody else sweeps what is being made');
    child.kill('SIGKILL');
    await exit;
    await until(20_000, 'its machine to die', () => (builders().length === 0 ? true : undefined));
    const left = [...(await bed.driver.traces())];
    assert.equal(left.length, 1);
    for (const id of left) await bed.driver.sweep(id);
    assert.deepEqual([...(await bed.driver.traces())], []);
    assert.deepEqual(readdirSync(directory), []);
  },
);
