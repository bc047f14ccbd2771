import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { createClient } from './client.ts';

const params = { lab: 'l-000000000000' };

test('an upload that is too large is refused before it is sent', async () => {
  const client = createClient({ base: 'http://x', fetch: async () => assert.fail('it was sent') });
  await assert.rejects(
    client.submit({ params, bytes: new Uint8Array(17 * 2 ** 20) }),
    (error) => isCarrelError(error, 'too_large') && /17 MiB are more than the 16 MiB/.test(error.message),
  );
});

test('an upload that was cut off says how much is taken, and does not doubt that the cloud is up', async () => {
  const cause = Object.assign(new Error('write EPIPE'), { code: 'EPIPE' });
  const fetch = async (): Promise<never> => {
    throw new TypeError('fetch failed', { cause });
  };
  await assert.rejects(
    createClient({ base: 'http://x', fetch }).submit({ params, bytes: new Uint8Array(1) }),
    (error) => isCarrelError(error, 'unavailable') && error.hint === 'at most 16 MiB are taken',
  );
});

test('a problem of the server becomes the error that it meant', async () => {
  const problem = {
    type: 'about:blank',
    title: 'x',
    status: 409,
    code: 'name_taken',
    detail: 'machine "a" exists',
    hint: 'choose another',
    requestId: 'r',
  };
  const fetch = async (): Promise<Response> => Response.json(problem, { status: 409 });
  await assert.rejects(
    createClient({ base: 'http://x', fetch }).getMe({ params: {} }),
    (error) => isCarrelError(error, 'name_taken') && error.hint === 'choose another',
  );
});

const halfAnAccount = async (): Promise<Response> => Response.json({ id: 'u-000000000000', name: 'ada' });

test('an answer of another shape is told with what differs, not shown as a dump', async () => {
  await assert.rejects(
    createClient({ base: 'http://x', fetch: halfAnAccount }).getMe({ params: {} }),
    (error) =>
      isCarrelError(error, 'internal') &&
      /^http:\/\/x answers GET \/v1\/me .*: admin: /.test(error.message) &&
      error.hint !== undefined,
  );
});
