import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { mirrorsFor, parseDeb822Sources, parseOneLineSources, sourceLine } from './mirrors.ts';

const deb822 = `# comment: with a colon
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://vendor.example/debian
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/vendor.gpg
`;

const wanted = { suite: 'bookworm', components: ['main'] };

test('the mirrors of the host are found in deb822 files, vendors left out', () => {
  const lines = mirrorsFor(parseDeb822Sources(deb822), wanted).map((source) => sourceLine(source));
  assert.deepEqual(lines, [
    'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main',
    'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm-updates main',
    'deb http://mirror.example/debian-security/ bookworm-security main',
  ]);
});

test('the mirrors of the host are found in one-line files', () => {
  const text = `
deb http://user:secret@mirror.example/debian bookworm main contrib # here
# deb http://off.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/k/debian-archive.gpg] http://mirror.example/debian-security bookworm-security main
deb [signed-by=/k/vendor.gpg] https://vendor.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
`;
  const sources = mirrorsFor(parseOneLineSources(text), wanted);
  assert.equal(sources.length, 2);
  assert.deepEqual(
    sources.map((source) => sourceLine(source, { inImage: true })),
    [
      'deb http://mirror.example/debian bookworm main',
      'deb http://mirror.example/debian-security bookworm-security main',
    ],
  );
});

test('a host of another release lends its mirror', () => {
  const [first, ...rest] = mirrorsFor(parseDeb822Sources(deb822), { suite: 'trixie', components: ['main'] });
  assert.equal(first?.uri, 'http://mirror.example/debian');
  assert.equal(first?.suite, 'trixie');
  assert.deepEqual(rest, []);
});

test('a host without a Debian mirror gets a sentence and a hint', () => {
  assert.throws(
    () => mirrorsFor([], wanted),
    (error) => isCarrelError(error, 'host_unsupported') && error.hint !== undefined,
  );
});
