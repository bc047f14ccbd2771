/** End to end: needs root, a mirror and about a minute, once per cache (CARREL_CACHE). */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openImages } from './store.ts';

const skip =
  process.geteuid?.() !== 0
    ? 'needs root'
    : existsSync('/usr/bin/mmdebstrap')
      ? false
      : 'mmdebstrap is not installed';

test('end to end: debian-12 has its tools, compiles a program, and holds no secrets', { skip }, async () => {
  const images = await openImages();
  const image = await images.build('debian-12');
  const at = (path: string): string => join(image.path, path);
  assert.equal(readFileSync(at('etc/machine-id'), 'utf8'), '');
  assert.deepEqual(
    readdirSync(at('etc/ssh')).filter((name) => name.startsWith('ssh_host_')),
    [],
  );
  for (const path of [
    'var/lib/apt/lists',
    'var/log',
    'usr/share/doc',
    'usr/share/man',
    'dev',
    'etc/ssl/private',
    'tmp',
  ])
    assert.deepEqual(existsSync(at(path)) ? readdirSync(at(path)) : [], [], path);
  assert.ok(!existsSync(at('etc/apt/apt.conf.d/99mmdebstrap')));
  assert.match(readFileSync(at('etc/apt/sources.list'), 'utf8'), /^deb http/);
  assert.doesNotMatch(readFileSync(at('etc/shadow'), 'utf8'), /:\$/);
  for (const tool of ['gcc', 'make', 'strace', 'python3', 'ip', 'ping', 'ps'])
    assert.ok(existsSync(at(join('usr/bin', tool))) || existsSync(at(join('bin', tool))), tool);
  assert.ok(existsSync(at('usr/sbin/sshd')));
  // Written nowhere in the image: it is everybody's.
  const out = execFileSync('unshare', [
    '--mount',
    '--net',
    'chroot',
    image.path,
    'python3',
    '-B',
    '-c',
    'import json; print(6*7)',
  ]);
  assert.equal(out.toString(), '42\n');
  assert.match(execFileSync('chroot', [image.path, 'gcc', '--version']).toString(), /^gcc \(Debian 12/);
  await images.verify('debian-12');
});
