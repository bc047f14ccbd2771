import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hashSecret, newSecret, secretOf, secretOfProtocols } from './secret.ts';

test('a secret has 256 bits, no two are equal, and only its hash is needed to know it again', () => {
  const secrets = Array.from({ length: 1000 }, newSecret);
  assert.equal(new Set(secrets).size, 1000);
  for (const secret of secrets) assert.match(secret, /^carrel_[a-z2-7]{52}$/);
  const [secret = ''] = secrets;
  assert.equal(hashSecret(secret).length, 32);
  assert.deepEqual(hashSecret(secret), hashSecret(secret));
});

test('a secret is taken from the Authorization header or a subprotocol, in its exact form only', () => {
  const secret = newSecret();
  assert.equal(secretOf(`Bearer ${secret}`), secret);
  assert.equal(secretOf(`bearer  ${secret}`), secret);
  for (const bad of [
    undefined,
    '',
    secret,
    `Basic ${secret}`,
    `Bearer ${secret}x`,
    `Bearer ${secret} y`,
    'Bearer ',
  ])
    assert.equal(secretOf(bad), undefined);
  assert.equal(secretOfProtocols(`carrel.v1, carrel.bearer.${secret}`), secret);
  assert.equal(secretOfProtocols(`carrel.v1, ${secret}`), undefined);
  assert.equal(secretOfProtocols(undefined), undefined);
});
