/** End to end: online steps in a real machine, through a runner that types at the serial console. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { type OnlineReport, type OnlineRunner, onlineSteps, runOnline } from './disk/online.ts';
import { openImages } from './store.ts';
import { scratch } from './testing.ts';

const missing = ['qemu-system-x86_64', 'mmdebstrap', 'grub-mkimage'].find(
  (program) => !existsSync(join('/usr/bin', program)),
);
const skip =
  process.geteuid?.() !== 0 ? 'needs root' : missing === undefined ? false : `${missing} is not installed`;
const bootMs = 180_000;

const quote = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`;

const byConsole: OnlineRunner = async ({ disk, kernel, initrd, append, steps }) => {
  const argv = [
    '-nodefaults',
    '-no-user-config',
    '-display',
    'none',
    '-machine',
    'q35',
    '-accel',
    'tcg,tb-size=64',
  ];
  argv.push(
    '-cpu',
    'max',
    '-m',
    '512',
    '-kernel',
    kernel,
    '-initrd',
    initrd,
    '-append',
    append,
    '-serial',
    'stdio',
  );
  argv.push(
    '-drive',
    `file=${disk},format=qcow2,if=none,id=d`,
    '-device',
    'virtio-blk-pci,drive=d',
    '-no-reboot',
  );
  const child = spawn('qemu-system-x86_64', argv, { stdio: ['pipe', 'pipe', 'ignore'] });
  const closed = once(child, 'close');
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
  const see = async (what: RegExp, ms: number): Promise<RegExpExecArray> =>
    until(ms, String(what), () => what.exec(text) ?? undefined, { everyMs: 50 });
  const reports: OnlineReport[] = [];
  try {
    await see(/# /, bootMs);
    for (const step of steps) {
      text = '';
      const end = randomBytes(8).toString('hex');
      const began = performance.now();
      // The mark is put together by the shell: its own echo of the line is not taken for the end.
      child.stdin.write(`${step.argv.map(quote).join(' ')}; echo "${end.slice(0, 8)}""${end.slice(8)} $?"\r`);
      const [all = '', status] = await see(new RegExp(`([^]*)${end} (\\d+)`), bootMs).then((match) =>
        match.slice(1),
      );
      reports.push({ status: Number(status), output: all, ms: performance.now() - began });
      if (Number(status) !== 0) break;
    }
    child.stdin.write('sync; poweroff -f\r');
    await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, 20_000))]);
    return reports;
  } finally {
    child.kill('SIGKILL');
    await closed;
  }
};

test(
  'online steps change the disk, leave a transcript, and nothing that is one machine’s',
  { skip, timeout: 900_000 },
  async () => {
    const image = await (await openImages()).build('tiny', { kind: 'disk' });
    await using temporary = await scratch();
    const staged = join(temporary.directory, 'image');
    await mkdir(staged);
    for (const name of ['disk.qcow2', 'kernel', 'initrd'])
      await copyFile(join(image.directory, name), join(staged, name));
    const append = image.disk?.boot?.append ?? '';
    const steps = onlineSteps(
      [
        { do: 'online', argv: ['sh', '-c', 'echo "it’s $((6*7))" > /etc/made-online'], seconds: 30 },
        { do: 'online', argv: ['cat', '/etc/made-online'], seconds: 30 },
      ],
      byConsole,
    );
    await runOnline(byConsole, staged, { steps, append, signal: undefined });
    const said = await readFile(join(staged, 'online.json'), 'utf8');
    assert.match(said, /"status": 0/);
    assert.match(said, /it.*s 42/);
    const raw = join(temporary.directory, 'raw');
    execFileSync('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', join(staged, 'disk.qcow2'), raw]);
    const debugfs = (command: string): string =>
      execFileSync('debugfs', ['-R', command, `${raw}?offset=1048576`], {
        stdio: ['ignore', 'pipe', 'ignore'],
      }).toString();
    assert.match(debugfs('cat /etc/made-online'), /42/);
    assert.equal(debugfs('cat /etc/machine-id'), '');
    assert.doesNotMatch(debugfs('ls /etc/dropbear'), /_host_/);

    await assert.rejects(
      runOnline(byConsole, staged, {
        steps: [{ argv: ['false'], seconds: 10 }, ...steps],
        append,
        signal: undefined,
      }),
      (error) => isCarrelError(error, 'helper_failed') && /false ended with 1/.test(error.message),
    );
  },
);

test('a recipe with online steps and nobody to run them is refused before any work', () => {
  assert.throws(
    () => onlineSteps([{ do: 'online', argv: ['true'], seconds: 1 }], undefined),
    (error) => isCarrelError(error, 'host_unsupported'),
  );
});
