import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { errorAnswer, jsonAnswer, page, pythonJson } from './answers.ts';
import { machineNameOf } from './names.ts';
import { understand, type Understood } from './understand.ts';

const json = 'application/json';

function post(path: string, body: unknown, contentType: string | undefined = json): Understood {
  const bytes = body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body));
  return understand({ method: 'POST', path, contentType, body: bytes });
}

function get(path: string, method = 'GET'): Understood {
  return understand({ method, path, contentType: undefined, body: new Uint8Array() });
}

/** The text of an answer that was given without asking anybody. */
function said(understood: Understood): string {
  assert.ok('answer' in understood, JSON.stringify(understood));
  return understood.answer.body.toString();
}

const status = (understood: Understood): number => ('answer' in understood ? understood.answer.status : 0);
const error = (message: string): string => `${pythonJson({ status: 'error', error_msg: message })}\n`;

const whole = { name: 'my_vm', image: 'ubuntu_22.04', network: 'default', mem_size: '2G', disk_size: '10G' };

test('the greeting, and JSON as Flask writes it', () => {
  assert.equal(said(get('/')), 'Welcome to OS Cloud!\n');
  assert.equal(jsonAnswer({ status: 'ok', id: 1 }).body, '{"id":1,"status":"ok"}\n');
  assert.equal(jsonAnswer([]).body, '[]\n');
  assert.equal(errorAnswer('vm "é" <x>').body, '{"error_msg":"vm \\"\\u00e9\\" <x>","status":"error"}\n');
  assert.equal(
    pythonJson({ b: { z: 1, a: [null, true] }, a: '\u{1f600}\n' }),
    '{"a":"\\ud83d\\ude00\\n","b":{"a":[null,true],"z":1}}',
  );
});

test('what is missing is named in the order of the original, also when it is there and empty', () => {
  const given: Record<string, unknown> = {};
  for (const [field, value] of Object.entries(whole)) {
    for (const empty of [undefined, null, '', 0, false, [], {}])
      assert.equal(said(post('/vm_create', { ...given, [field]: empty })), error(`VM ${field} not provided`));
    given[field] = value;
  }
  assert.deepEqual(post('/vm_create', given), {
    ask: {
      kind: 'create',
      wanted: {
        name: 'my_vm',
        image: 'ubuntu_22.04',
        network: 'default',
        memoryBytes: 2_147_483_648,
        diskBytes: 10_737_418_240,
        sshKey: null,
      },
    },
  });
});

test('sizes that are none are refused as JSON, the memory first; numbers count bytes', () => {
  assert.equal(
    said(post('/vm_create', { ...whole, mem_size: 'lots', disk_size: 'xx' })),
    error('Invalid mem_size: lots'),
  );
  assert.equal(said(post('/vm_create', { ...whole, disk_size: 'xx' })), error('Invalid disk_size: xx'));
  assert.equal(said(post('/vm_create', { ...whole, disk_size: ['1G'] })), error('Invalid disk_size: ["1G"]'));
  const understood = post('/vm_create', { ...whole, mem_size: 1_073_741_824 });
  assert.ok('ask' in understood && understood.ask.kind === 'create');
  assert.equal(understood.ask.wanted.memoryBytes, 1_073_741_824);
});

test('text that no database can hold is no request', () => {
  for (const field of ['name', 'image', 'network'])
    assert.match(said(post('/vm_create', { ...whole, [field]: 'a\0b' })), /400 Bad Request/);
});

const key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPqnZBhIHVoTu3WDRUXMxn3ZUr2MpQlGdlHSJKIUxEr ada@laptop';

test('a key is one checked line; anything that a shell could take for more is refused', () => {
  const understood = post('/vm_create', { ...whole, ssh_key: `${key}\n` });
  assert.ok('ask' in understood && understood.ask.kind === 'create', JSON.stringify(understood));
  assert.equal(understood.ask.wanted.sshKey, key);
  for (const bad of ["'; touch /root/pwned; echo '", `${key}\n${key}`, `command="sh" ${key}`, 'x', 7, ['a']])
    assert.match(said(post('/vm_create', { ...whole, ssh_key: bad })), /Invalid ssh_key/);
});

test('ids: missing, 0, unknown; also as text', () => {
  for (const path of ['/vm_info', '/vm_start', '/vm_stop']) {
    for (const body of [{}, { id: 0 }, { id: null }, { id: '' }])
      assert.equal(said(post(path, body)), error('VM id not provided'));
    assert.deepEqual(post(path, { id: 7 }), { ask: { kind: path.slice(4), id: { text: '7', number: 7 } } });
    assert.deepEqual(post(path, { id: '7' }), { ask: { kind: path.slice(4), id: { text: '7', number: 7 } } });
    for (const id of ['abc', -1, 1.5, 1e12, true, [1], { a: 1 }, "7' or '1'='1"]) {
      const understood = post(path, { id });
      assert.ok('ask' in understood && 'id' in understood.ask);
      assert.equal(understood.ask.id.number, undefined, JSON.stringify(id));
    }
  }
});

test('wrong method, path, type and body are answered with the pages of the original', () => {
  assert.equal(status(get('/vm_create')), 405);
  assert.deepEqual(get('/vm_create'), { answer: page(405, { allow: 'POST, OPTIONS' }) });
  assert.equal(status(post('/vm_list', {})), 405);
  assert.equal(status(get('/nothing')), 404);
  assert.equal(status(get('/vm_list/')), 404);
  assert.equal(status(get('/vm_create', 'OPTIONS')), 200);
  for (const type of [undefined, 'text/plain', 'application/x-www-form-urlencoded', 'application/jsonx'])
    assert.equal(
      status(understand({ method: 'POST', path: '/vm_info', contentType: type, body: Buffer.from('{}') })),
      415,
    );
  assert.equal(status(post('/vm_info', { id: 0 }, 'application/json; charset=utf-8')), 200);
  for (const text of ['', '{', 'x', '{"id":1}}'])
    assert.equal(status(post('/vm_info', Buffer.from(text))), 400, text);
  assert.equal(
    said(get('/nothing')),
    '<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.</p>\n',
  );
});

test('a body that is no object is an error object, not a mistake of the server', () => {
  for (const body of [[], [1], 'text', 7, null, true])
    assert.equal(said(post('/vm_create', body)), error('the body is not a JSON object'));
});

test('no body at all makes it throw', () => {
  const value = fc.jsonValue({ maxDepth: 3 });
  const fields = fc.record(
    {
      name: value,
      image: value,
      network: value,
      mem_size: value,
      disk_size: value,
      ssh_key: value,
      id: value,
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(
      fc.constantFrom('/vm_create', '/vm_info', '/vm_stop', '/vm_start', '/vm_list', '/'),
      fc.oneof(value, fields),
      (path, body) => void post(path, body),
    ),
  );
});

test('any display name becomes a name that every other part of Carrel takes', () => {
  assert.equal(machineNameOf('my_vm'), 'my-vm');
  assert.equal(machineNameOf('Été à la plage!'), 'ete-a-la-plage');
  assert.equal(machineNameOf('***'), 'vm');
  assert.equal(machineNameOf('my_vm', '00ff00'), 'my-vm-00ff00');
  fc.assert(
    fc.property(
      fc.string({ maxLength: 300, unit: 'binary' }),
      fc.constantFrom('', 'abc123'),
      (text, suffix) => {
        assert.match(machineNameOf(text, suffix), /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/);
      },
    ),
  );
});
