import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parsePorts } from './forward.ts';

test('ports to forward are written host first, machine last', () => {
  assert.deepEqual(parsePorts('8080:80'), { port: 8080, machinePort: 80 });
  assert.deepEqual(parsePorts('0.0.0.0:8080:80'), { host: '0.0.0.0', port: 8080, machinePort: 80 });
  assert.deepEqual(parsePorts('[::1]:8080:80'), { host: '::1', port: 8080, machinePort: 80 });
  assert.deepEqual(parsePorts('localhost:8080:80'), { port: 8080, machinePort: 80 });
});

test('what is no such pair is refused with an example', () => {
  for (const text of [
    '',
    '8080',
    '8080:',
    ':80',
    '8080:0',
    '70000:80',
    '1.2.3:80:80',
    '1.2.3.999:80:80',
    'a:b',
  ])
    assert.throws(() => parsePorts(text), { code: 'invalid_request' }, text);
});
