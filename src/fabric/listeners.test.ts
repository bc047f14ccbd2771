import assert from 'node:assert/strict';
import { createServer, isIPv6 } from 'node:net';
import { test } from 'node:test';
import * as fc from 'fast-check';
import {
  formatEndpoint,
  inheritedListeners,
  ipv6Bytes,
  isLoopback,
  listenVariable,
  openListener,
  parseListen,
} from './listeners.ts';

test('an endpoint survives being written and read', () => {
  const host = fc.oneof(fc.ipV4(), fc.ipV6().filter(isIPv6));
  fc.assert(
    fc.property(host, fc.integer({ min: 0, max: 65535 }), (host, port) => {
      assert.deepEqual(parseListen(formatEndpoint({ host, port })), { host, port });
    }),
  );
});

test('a port alone is on the loopback', () => {
  assert.deepEqual(parseListen('7070'), { host: '127.0.0.1', port: 7070 });
  assert.deepEqual(parseListen('localhost:80'), { host: '127.0.0.1', port: 80 });
});

test('what is no address to listen on is refused', () => {
  for (const bad of [
    '',
    ':',
    'a:1',
    '1.2.3:80',
    '1.2.3.4',
    '::1:80',
    '[::1]',
    '[1.2.3.4]:80',
    '70000',
    '1.2.3.4:-1',
    '80\n',
    '0x50',
  ])
    assert.throws(() => parseListen(bad), { code: 'validation_failed' }, bad);
});

test('IPv6 addresses are sixteen bytes, whichever way they are written', () => {
  fc.assert(fc.property(fc.ipV6().filter(isIPv6), (text) => ipv6Bytes(text).length === 16));
  assert.deepEqual(ipv6Bytes('::'), Array(16).fill(0));
  assert.deepEqual(ipv6Bytes('2001:db8::1'), [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
  assert.deepEqual(ipv6Bytes('::ffff:192.0.2.1').slice(10), [255, 255, 192, 0, 2, 1]);
});

test('the loopback is recognised', () => {
  for (const host of ['127.0.0.1', '127.9.9.9', '::1', '0:0:0:0:0:0:0:1']) assert.ok(isLoopback(host), host);
  for (const host of ['0.0.0.0', '::', '128.0.0.1', 'localhost', '::ffff:127.0.0.1'])
    assert.ok(!isLoopback(host), host);
});

test('a listener listens, says on which port, and two cannot have the same', async () => {
  for (const host of ['127.0.0.1', '::1']) {
    const { socket, port } = openListener({ host, port: 0 });
    assert.ok(port > 0);
    assert.throws(() => openListener({ host, port }), { code: 'unavailable', message: /in use/ });
    const server = createServer((connection) => connection.end());
    await new Promise<void>((resolve) => {
      server.listen({ fd: socket.release() }, resolve);
    });
    const address = server.address();
    assert.equal(typeof address === 'object' && address?.port, port);
    server.close();
  }
  assert.throws(() => openListener({ host: '192.0.2.77', port: 0 }), { code: 'validation_failed' });
});

test('the daemon reads what it inherited, and nothing without a doorman', () => {
  const listener = { fd: 3, name: 'http', host: '127.0.0.1', port: 7070 };
  assert.deepEqual(inheritedListeners({ [listenVariable]: JSON.stringify([listener]) }), [listener]);
  assert.deepEqual(inheritedListeners({}), []);
  assert.throws(() => inheritedListeners({ [listenVariable]: '[{"fd":1}]' }));
});
