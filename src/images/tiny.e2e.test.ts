/**
 * End to end: the image `tiny`, by hand. It is built once per cache (CARREL_CACHE), which needs root and a mirror, and
 * booted as the lab does it, and as the driver does it; processors are emulated.
 */
import assert from 'node:assert/strict';
import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { cpioArchive } from './disk/cpio.ts';
import { writeOverlay } from './disk/overlay.ts';
import type { Image } from './layout.ts';
import { openImages } from './store.ts';
import { scratch } from './testing.ts';

const needed = ['qemu-system-x86_64', 'qemu-img', 'mmdebstrap', 'grub-mkimage'];
const missing = needed.find((program) => !existsSync(join('/usr/bin', program)));
const skip =
  process.geteuid?.() !== 0 ? 'needs root' : missing === undefined ? false : `${missing} is not installed`;

/** A loaded machine that emulates another one. */
const bootMs = 180_000;

class Serial implements AsyncDisposable {
  readonly #child: ChildProcessWithoutNullStreams;
  #text = '';

  constructor(argv: readonly string[]) {
    this.#child = spawn('qemu-system-x86_64', argv);
    this.#child.stdin.on('error', () => undefined);
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream.on(
        'data',
        (chunk: Buffer) => (this.#text = (this.#text + chunk.toString('latin1')).slice(-100_000)),
      );
  }

  type(text: string): void {
    this.#child.stdin.write(text);
  }

  async see(what: RegExp): Promise<string> {
    try {
      return await until(bootMs, String(what), () => what.exec(this.#text)?.[0], { everyMs: 50 });
    } catch (error) {
      throw new Error(`${String(what)} did not come; the console says: ${this.#text.slice(-2000)}`, {
        cause: error,
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const closed = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await closed;
  }
}

let image: Promise<Image> | undefined;
const tiny = async (): Promise<Image> =>
  (image ??= openImages().then((images) => images.build('tiny', { kind: 'disk' })));

test(
  'tiny is small, holds no secrets, and is what it was made to be',
  { skip, timeout: 600_000 },
  async () => {
    const { path, kernel, initrd, disk, bytes, hash } = await tiny();
    assert.ok(bytes < 200 * 2 ** 20, String(bytes));
    assert.ok(disk?.agent === true && disk.boot !== null);
    assert.ok(kernel !== undefined && readFileSync(kernel).readUInt32BE(0) === 0x7f454c46);
    assert.ok(initrd !== undefined);
    execFileSync('qemu-img', ['check', '-q', '-f', 'qcow2', path]);
    await using temporary = await scratch();
    const raw = join(temporary.directory, 'raw');
    execFileSync('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', path, raw]);
    const debugfs = (command: string): string =>
      execFileSync('debugfs', ['-R', command, `${raw}?offset=1048576`], {
        stdio: ['ignore', 'pipe', 'pipe'],
      }).toString();
    assert.match(debugfs('cat /etc/shadow'), /^root:!:/);
    assert.equal(debugfs('cat /etc/machine-id'), '');
    assert.equal(debugfs('cat /etc/hostname'), '');
    assert.doesNotMatch(debugfs('ls /root/.ssh'), /authorized_keys/);
    for (const place of ['/etc/ssh', '/etc/dropbear']) assert.doesNotMatch(debugfs(`ls ${place}`), /_host_/);
    assert.match(debugfs('cat /boot/grub/grub.cfg'), /linux \/boot\/vmlinuz rw console=ttyS0/);
    await (await openImages()).verify(hash);
  },
);

test('by hand: -hda and -nographic lead to a login on the console', { skip, timeout: 600_000 }, async () => {
  await using temporary = await scratch();
  const disk = join(temporary.directory, 'disk.qcow2');
  await writeOverlay(disk, { backing: (await tiny()).path, bytes: 2 ** 30 });
  // Formats may be guessed here as the lab does it: it is our own file.
  await using serial = new Serial(['-m', '512', '-hda', disk, '-nographic']);
  await serial.see(/login: $/);
  serial.type('\r');
  await serial.see(/login: [^]*login: $/);
});

test('directly: its own kernel, and an identity that is given once', { skip, timeout: 600_000 }, async () => {
  const { kernel, initrd, disk: made, ...rest } = await tiny();
  assert.ok(kernel !== undefined && initrd !== undefined && made?.boot);
  await using temporary = await scratch();
  const disk = join(temporary.directory, 'disk.qcow2');
  await writeOverlay(disk, { backing: rest.path, bytes: 2 ** 29 });
  const seeded = join(temporary.directory, 'initrd');
  const boot = async (hostname: string): Promise<Serial> => {
    // The password is "carrel": crypt(5), SHA-512 with the salt "salt".
    const hash = execFileSync('openssl', ['passwd', '-6', '-salt', 'salt', 'carrel']).toString().trim();
    const seed = cpioArchive([
      { path: 'seed/id', kind: 'file', data: 'm-1\n' },
      { path: 'seed/password', kind: 'file', mode: 0o600, data: `${hash}\n` },
      { path: 'seed/once/etc/hostname', kind: 'file', data: `${hostname}\n` },
      {
        path: 'seed/always/etc/carrel/network',
        kind: 'file',
        data: 'address=192.0.2.9\nprefix=24\ndns=192.0.2.1\n',
      },
      { path: 'seed/random', kind: 'file', data: 'x'.repeat(64) },
    ]);
    await writeFile(seeded, Buffer.concat([await readFile(initrd), seed]));
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
      seeded,
      '-append',
      made.boot?.append ?? '',
    );
    argv.push('-drive', `file=${disk},format=qcow2,if=none,id=d`, '-device', 'virtio-blk-pci,drive=d');
    argv.push(
      '-netdev',
      'hubport,id=n,hubid=0',
      '-device',
      'virtio-net-pci,netdev=n,romfile=',
      '-serial',
      'stdio',
    );
    return new Serial(argv);
  };
  {
    await using serial = await boot('first');
    await serial.see(/first login: $/);
    serial.type('root\r');
    await serial.see(/Password: $/);
    serial.type('carrel\r');
    await serial.see(/root@first:~# /);
    serial.type('ip -4 -o addr show eth0; cat /etc/resolv.conf; python3 -c "import json; print(6*7)"\r');
    await serial.see(/192\.0\.2\.9\/24/);
    await serial.see(/nameserver 192\.0\.2\.1/);
    await serial.see(/\n42\r/);
    serial.type(
      'netstat -tln; ps | grep -c "[d]ropbear"; echo mine > /root/mine; sync; echo done-$((40+2))\r',
    );
    await serial.see(/:22 /);
    await serial.see(/done-42/);
  }
  // The same machine: its host name is not given a second time, and what it had written is there.
  await using again = await boot('second');
  await again.see(/first login: $/);
  again.type('root\r');
  await again.see(/Password: $/);
  again.type('carrel\r');
  await again.see(/root@first:~# /);
  again.type('cat /root/mine; df -m / | tail -1\r');
  await again.see(/\nmine\r/);
});
