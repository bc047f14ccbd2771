import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { kit } from '../image/compile.ts';
import { findPortMap, portKey, portMaps } from './maps.ts';

test('every map has each port once in each direction, and byte output on 0xE9', () => {
  for (const { name, bindings } of portMaps) {
    const calls = findPortMap(name);
    assert.equal(calls?.size, bindings.length, name);
    assert.equal(calls?.get(portKey(0xe9, true))?.call.name, 'byte', name);
  }
  assert.equal(findPortMap('no such map'), undefined);
});

test('the ports in the guests’ header are those of the map', async () => {
  const header = await readFile(join(kit, 'ports.h'), 'utf8');
  const written = [...header.matchAll(/^#define PORT_(\w+)\s+0x([0-9A-F]+)\s+\/\* (in|out)\b/gm)].map(
    ([, name = '', port = '', direction = '']) =>
      `${name.toLowerCase()} ${direction} ${Number.parseInt(port, 16)}`,
  );
  const bindings = portMaps.find(({ name }) => name === 'carrel')?.bindings ?? [];
  assert.deepEqual(
    written.sort(),
    bindings.map(({ call, direction, port }) => `${call.name} ${direction} ${port}`).sort(),
  );
});
