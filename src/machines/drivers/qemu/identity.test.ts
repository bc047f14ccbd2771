import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { makeIdentity, makeSecrets, secretsOf } from './identity.ts';
import { newPassword } from '../../password.ts';
import { hashPassword } from './password.ts';
import { seedArchive } from './seed.ts';
import { network } from './testing-identity.ts';

const spec = { id: 'm-1', name: 'web', sshKeys: ['ssh-ed25519 AAAA you'], network };

function needs(program: string): string | false {
  return existsSync(program) ? false : `needs ${program}`;
}

function withDirectory(use: (directory: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-identity-'));
  try {
    use(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

test(
  'OpenSSH reads the host key, and finds the public half that we name',
  { skip: needs('/usr/bin/ssh-keygen') },
  () => {
    withDirectory((directory) => {
      const { hostKey } = makeIdentity(spec, makeSecrets());
      const path = join(directory, 'key');
      writeFileSync(path, hostKey.openssh, { mode: 0o600 });
      chmodSync(path, 0o600);
      const said = execFileSync('ssh-keygen', ['-y', '-P', '', '-f', path], { encoding: 'utf8' });
      assert.equal(said.trim(), hostKey.public);
    });
  },
);

test('dropbear reads the same key in its own format', { skip: needs('/usr/bin/dropbearkey') }, () => {
  withDirectory((directory) => {
    const { hostKey } = makeIdentity(spec, makeSecrets());
    const path = join(directory, 'key');
    writeFileSync(path, hostKey.dropbear, { mode: 0o600 });
    const said = execFileSync('dropbearkey', ['-y', '-f', path], { encoding: 'utf8' });
    assert.ok(said.includes(hostKey.public), said);
  });
});

test('the same secrets give the same identity, other ones share nothing', () => {
  const secrets = makeSecrets();
  const [one, same, other] = [secrets, secrets, makeSecrets()].map((each) => makeIdentity(spec, each));
  assert.deepEqual(one, same);
  assert.notEqual(one?.machineId, other?.machineId);
  assert.notEqual(one?.hostKey.public, other?.hostKey.public);
});

test('secrets are made once, and only root can read them', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-identity-'));
  try {
    const path = join(directory, 'identity.json');
    const first = await secretsOf(path);
    assert.deepEqual(await secretsOf(path), first);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    writeFileSync(path, readFileSync(path, 'utf8').slice(0, -3));
    await assert.rejects(secretsOf(path), (error) => isCarrelError(error, 'internal'));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test(
  'cpio finds every file of the seed where the first program of a machine looks for it',
  { skip: needs('/usr/bin/cpio') },
  () => {
    withDirectory((directory) => {
      const identity = makeIdentity(spec, { ...makeSecrets(), passwordHash: '$6$salt$hash' });
      const archive = seedArchive(identity, Buffer.alloc(64, 1));
      const listed = execFileSync('cpio', ['-t', '--quiet'], { input: archive, encoding: 'utf8' })
        .trim()
        .split('\n');
      for (const path of [
        'seed/id',
        'seed/password',
        'seed/random',
        'seed/once/root/.ssh/authorized_keys',
        'seed/once/etc/hostname',
        'seed/always/etc/carrel/network',
      ])
        assert.ok(listed.includes(path), path);
      execFileSync('cpio', ['-i', '-d', '--quiet', '--no-absolute-filenames'], {
        input: archive,
        cwd: directory,
      });
      const read = (path: string): string => readFileSync(join(directory, 'seed', path), 'utf8');
      assert.equal(read('id'), 'm-1\n');
      assert.equal(read('once/etc/machine-id').trim(), identity.machineId);
      assert.equal(read('once/root/.ssh/authorized_keys'), 'ssh-ed25519 AAAA you\n');
      assert.match(read('always/etc/carrel/network'), /^address=10\.9\.8\.7$/m);
      assert.equal(statSync(join(directory, 'seed/once/root')).mode & 0o777, 0o700);
      assert.equal(statSync(join(directory, 'seed/once/etc/ssh/ssh_host_ed25519_key')).mode & 0o777, 0o600);
    });
  },
);

test('without a password the seed has no hash', { skip: needs('/usr/bin/cpio') }, () => {
  const archive = seedArchive(makeIdentity(spec, makeSecrets()), Buffer.alloc(64));
  const listed = execFileSync('cpio', ['-t', '--quiet'], { input: archive, encoding: 'utf8' });
  assert.doesNotMatch(listed, /password/);
});

test(
  'passwords are long and never the same, and crypt(5) knows the hash',
  { skip: needs('/usr/bin/openssl') },
  async () => {
    const password = newPassword();
    assert.match(password, /^([0-9a-z]{4}-){3}[0-9a-z]{4}$/);
    assert.notEqual(password, newPassword());
    const hash = await hashPassword(password);
    const salt = /^\$6\$([^$]+)\$[./0-9A-Za-z]{86}$/.exec(hash)?.[1] ?? '';
    const again = execFileSync('openssl', ['passwd', '-6', '-salt', salt, '-stdin'], {
      input: password,
      encoding: 'utf8',
    });
    assert.equal(again.trim(), hash);
  },
);

test('keys of any bytes are framed so that they can be read back', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (bytes) => {
      const secrets = { ...makeSecrets(), hostKey: Buffer.from(bytes).toString('hex') };
      const { hostKey } = makeIdentity(spec, secrets);
      const lines = hostKey.openssh.trim().split('\n');
      const all = Buffer.from(lines.slice(1, -1).join(''), 'base64');
      assert.equal(all.toString('latin1', 0, 15), 'openssh-key-v1\0');
      assert.ok(all.includes(Buffer.from(bytes)));
      assert.equal(hostKey.dropbear.length, 4 + 11 + 4 + 64);
    }),
    { numRuns: 20 },
  );
});
