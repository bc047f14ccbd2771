import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { faultOfKey, sshKeys } from './schemas/keys.ts';
import { newMachine } from './schemas/machines.ts';

/** A string with its length before it (RFC 4251, 5). */
function text(bytes: Uint8Array | string): Buffer {
  const body = Buffer.from(bytes);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([length, body]);
}

const types = ['ssh-ed25519', 'ssh-rsa', 'ecdsa-sha2-nistp256', 'sk-ssh-ed25519@openssh.com'];
/** A key of so many strings behind its type. */
const keyOf = (maxLength: number): fc.Arbitrary<string> =>
  fc
    .record({
      type: fc.constantFrom(...types),
      parts: fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength }),
      comment: fc.option(fc.stringMatching(/^[!-~][ -~]{0,60}$/)),
    })
    .map(({ type, parts, comment }) => {
      const blob = Buffer.concat([text(type), ...parts.map(text)]).toString('base64');
      return comment === null ? `${type} ${blob}` : `${type} ${blob} ${comment}`;
    });
const key = keyOf(3);

/** Made with ssh-keygen -t ed25519. */
const real =
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqhWh0ZubiBX0t+NPwjri10x1lryTabc0YY6Rs+F3IR ada@example.org';

test('a key that ssh-keygen made is one', () => {
  assert.equal(faultOfKey(real), undefined);
});

test('whatever has the shape of a key is taken, with any comment', () => {
  fc.assert(fc.property(key, (line) => faultOfKey(line) === undefined));
});

test('a key that is cut off, or has something before it, is refused', () => {
  fc.assert(
    // of three strings, two could be left whole
    fc.property(keyOf(1), fc.nat(), fc.string({ minLength: 1 }), (line, at, before) => {
      const [type = '', blob = ''] = line.split(' ');
      const cut = blob.slice(0, at % blob.length);
      assert.notEqual(faultOfKey(`${type} ${cut}`), undefined);
      assert.notEqual(faultOfKey(before + line), undefined);
    }),
  );
});

test('no text passes that could be a second line, or a command', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (line) => {
      if (faultOfKey(line) === undefined)
        assert.match(line, /^(ssh|ecdsa|sk)-[\w@.-]+ [A-Za-z0-9+/]+=* ?\P{Cc}*$/u);
    }),
  );
  for (const [line, why] of [
    ["'; touch /root/pwned; '", /begins with its type/],
    ['', /begins with its type/],
    [`command="id" ${real}`, /begins with its type/],
    [`${real}\nssh-ed25519 AAAA`, /one line/],
    [`${real}\r`, /one line/],
    [`${real}\0`, /one line/],
    [real.replace('ssh-ed25519 ', 'ssh-rsa '), /another type/],
    [real.replace('ssh-ed25519 ', 'ssh-dss '), /begins with its type/],
    [`${real} ${'x'.repeat(5000)}`, /at most/],
    ['ssh-ed25519 AAAA====', /base64/],
    ['ssh-ed25519 $(id)', /base64/],
  ] as const)
    assert.match(faultOfKey(line) ?? '', why, line);
});

const machine = (keys: string[]) => newMachine.safeParse({ name: 'web', sshKeys: keys });

test('a new machine says which of its keys is wrong, and has at most sixteen', () => {
  assert.ok(machine([real]).success);
  const refused = machine([real, "'; touch /root/pwned; '"]);
  assert.deepEqual(refused.error?.issues[0]?.path, ['sshKeys', 1]);
  assert.match(refused.error?.issues[0]?.message ?? '', /not a public key/);
  assert.ok(sshKeys.safeParse(Array.from({ length: 16 }, () => real)).success);
  assert.ok(!sshKeys.safeParse(Array.from({ length: 17 }, () => real)).success);
});
