import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { identityOf, loadSecrets, newSecrets } from './identity.ts';
import { seedArchive, writeSeededInitrd } from './seed.ts';

const spec = {
  id: 'm-0123456789ab',
  name: 'web',
  network: {
    name: 'default',
    address: '192.168.0.7',
    prefix: 16,
    gateway: '192.168.0.1',
    mac: '02:ca:c0:a8:00:07',
    bytesPerSecond: null,
  },
  sshKeys: ['ssh-ed25519 AAAA one', "ssh-ed25519 BBBB '; touch /root/pwned; '"],
};
const hasSsh = ['/usr/bin/ssh-keygen', '/usr/bin/dropbearkey'].every((path) => existsSync(path));

function temporary(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'carrel-identity-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

test('no two machines share what is secret, and one machine keeps it', async () => {
  using directory = temporary();
  const first = await loadSecrets(directory.path);
  assert.deepEqual(await loadSecrets(directory.path), first);
  assert.equal(statSync(join(directory.path, 'identity.json')).mode & 0o777, 0o600);
  const other = newSecrets();
  assert.notEqual(other.machineId, first.machineId);
  assert.notDeepEqual(other.hostKey, first.hostKey);
  writeFileSync(join(directory.path, 'identity.json'), '{"format":1');
  await assert.rejects(loadSecrets(directory.path), (error) => isCarrelError(error, 'internal'));
});

test(
  'the host key is one that OpenSSH and Dropbear read, and it is the same',
  { skip: hasSsh ? false : 'needs ssh-keygen and dropbearkey' },
  () => {
    using directory = temporary();
    for (const { path, mode, data } of identityOf(spec, newSecrets()).once) {
      if (data === null) continue;
      const place = join(directory.path, path);
      mkdirSync(dirname(place), { recursive: true });
      writeFileSync(place, data, { mode });
    }
    const at = (name: string): string => join(directory.path, name);
    const run = (program: string, ...args: string[]): string =>
      execFileSync(program, args, { encoding: 'utf8' });
    const stated = readFileSync(at('etc/ssh/ssh_host_ed25519_key.pub'), 'utf8').split(' ')[1] ?? '';
    assert.ok(run('ssh-keygen', '-y', '-f', at('etc/ssh/ssh_host_ed25519_key')).includes(stated));
    assert.ok(run('dropbearkey', '-y', '-f', at('etc/dropbear/dropbear_ed25519_host_key')).includes(stated));
  },
);

test(
  'the seed is an archive that cpio unpacks, with every fact as it is',
  { skip: existsSync('/bin/busybox') ? false : 'needs busybox' },
  async () => {
    using directory = temporary();
    const identity = identityOf(spec, newSecrets());
    const image = join(directory.path, 'image');
    writeFileSync(image, '');
    const initrd = join(directory.path, 'initrd');
    await writeSeededInitrd(image, initrd, { identity, uid: process.getuid?.() ?? 0 });
    assert.equal(statSync(initrd).mode & 0o777, 0o600);
    const out = join(directory.path, 'out');
    mkdirSync(out);
    execFileSync('/bin/busybox', ['cpio', '-i', '-d', '--quiet'], { cwd: out, input: readFileSync(initrd) });
    const read = (path: string): string => readFileSync(join(out, 'seed', path), 'utf8');
    assert.equal(read('id'), 'm-0123456789ab\n');
    assert.equal(read('password'), '*\n');
    assert.equal(read('once/etc/hostname'), 'web\n');
    assert.equal(read('once/root/.ssh/authorized_keys'), `${spec.sshKeys.join('\n')}\n`);
    assert.equal(statSync(join(out, 'seed/once/root/.ssh')).mode & 0o777, 0o700);
    assert.equal(
      read('always/etc/carrel/network'),
      'mac=02:ca:c0:a8:00:07\naddress=192.168.0.7\nprefix=16\ngateway=192.168.0.1\ndns=192.168.0.1\n',
    );
    assert.equal(readFileSync(join(out, 'seed/random')).length, 512);
    assert.notDeepEqual(
      seedArchive(identity),
      seedArchive(identity),
      'each boot begins with other random numbers',
    );
  },
);
