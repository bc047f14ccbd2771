import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { parse } from 'yaml';
import { cloudInitDisk, writeCloudInitDisk, yamlOf } from './cloudinit.ts';
import { makeIdentity, makeSecrets, type Secrets } from './identity.ts';
import { network } from './testing-identity.ts';

const spec = { id: 'm-1', name: 'web', sshKeys: ['ssh-ed25519 AAAA "you": é'], network };

/** The three files, which lie one after another from the 21st sector on. */
function documents(more: Partial<Secrets> = {}, sshKeys = spec.sshKeys): string[] {
  const disk = cloudInitDisk(makeIdentity({ ...spec, sshKeys }, { ...makeSecrets(), ...more }));
  return disk
    .subarray(21 * 2048)
    .toString()
    .split(/\0+/)
    .filter((each) => each !== '');
}

test('the disk tells cloud-init the facts of the machine, and nothing else', () => {
  const secrets = { ...makeSecrets(), passwordHash: '$6$salt$hash' };
  const { hostKey } = makeIdentity(spec, secrets);
  const [meta = '', user = '', net = '', ...rest] = documents(secrets);
  assert.deepEqual(rest, []);
  assert.deepEqual(parse(meta), { 'instance-id': 'm-1', 'local-hostname': 'web' });
  assert.match(user, /^#cloud-config\n/);
  assert.deepEqual(parse(user), {
    disable_root: false,
    ssh_authorized_keys: spec.sshKeys,
    ssh_keys: { ed25519_private: hostKey.openssh, ed25519_public: `${hostKey.public} root@web\n` },
    manage_etc_hosts: 'localhost',
    users: ['default', { name: 'root', lock_passwd: false, hashed_passwd: '$6$salt$hash' }],
  });
  assert.deepEqual(parse(net), {
    version: 2,
    ethernets: {
      eth0: {
        match: { macaddress: '52:54:00:09:08:07' },
        'set-name': 'eth0',
        addresses: ['10.9.8.7/24'],
        routes: [{ to: '0.0.0.0/0', via: '10.9.8.1' }],
        nameservers: { addresses: ['10.9.8.1'] },
      },
    },
  });
});

test('without a password and without keys there is no word of either', () => {
  const [, user = ''] = documents({}, []);
  const said: unknown = parse(user);
  assert.ok(typeof said === 'object' && said !== null);
  assert.deepEqual(Object.keys(said), ['disable_root', 'ssh_keys', 'manage_etc_hosts']);
});

test('no text becomes anything but itself: one line of ASCII, read by YAML as it was', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 40 }),
    fc.string({
      unit: fc.constantFrom('\n', '#', ': ', '"', "'", '\\', '- ', '\u0085', '\u2028', '😀', '\u007f'),
    }),
  );
  fc.assert(
    fc.property(
      fc.dictionary(
        text.filter((key) => key !== '__proto__'),
        text,
      ),
      (value) => {
        const yaml = yamlOf({ ...value });
        assert.match(yaml, /^[ -~]*\n$/);
        assert.deepEqual(parse(yaml), { ...value });
      },
    ),
  );
});

const python = ((): string | false => {
  try {
    execFileSync('python3', ['-c', 'import yaml'], { stdio: 'ignore' });
    return false;
  } catch {
    return 'needs python3-yaml';
  }
})();

test('the reader of cloud-init, PyYAML, reads the same', { skip: python }, () => {
  const program = 'import sys, json, yaml; print(json.dumps(yaml.safe_load(sys.stdin.buffer.read())))';
  const value = {
    'ssh-ed25519 AAAA é 😀 \u2028 \u0085 \ufffe': ['a: b # c', "it's", '\n---\n', '!!python/none', 'yes'],
  };
  const said = execFileSync('python3', ['-c', program], { input: yamlOf(value), encoding: 'utf8' });
  assert.deepEqual(JSON.parse(said), value);
});

test(
  'the file belongs to the QEMU of the machine, and nobody else can read it',
  { skip: process.getuid?.() !== 0 && 'needs root' },
  async () => {
    const directory = mkdtempSync(join(tmpdir(), 'carrel-cidata-'));
    try {
      const path = join(directory, 'cidata.iso');
      writeFileSync(`${path}.new`, 'of a start that was cut off', { mode: 0o666 });
      const identity = makeIdentity(spec, makeSecrets());
      for (const uid of [70_001, 70_002]) {
        await writeCloudInitDisk(path, identity, { uid });
        const { mode, uid: owner, size } = statSync(path);
        assert.deepEqual([mode & 0o777, owner, size], [0o600, uid, cloudInitDisk(identity).length]);
      }
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  },
);
