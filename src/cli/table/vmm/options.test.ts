import assert from 'node:assert/strict';
import { test } from 'node:test';
import { portMaps } from '#vmm/hypercalls/maps.ts';
import { modeNames } from '#vmm/modes/mode.ts';
import { commands } from '../index.ts';

const choices = (flag: string): (readonly string[] | undefined)[] =>
  commands.flatMap(({ options = [] }) =>
    options.filter(({ flags }) => flags.includes(flag)).map(({ choices }) => choices),
  );

test('the choices in the help are the modes and port maps there are', () => {
  for (const offered of choices('--mode')) assert.deepEqual(offered, [...modeNames]);
  for (const offered of choices('--ports'))
    assert.deepEqual(
      offered,
      portMaps.map(({ name }) => name),
    );
  assert.ok(choices('--ports').length >= 2);
});
