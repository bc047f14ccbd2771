import assert from 'node:assert/strict';
import { test } from 'node:test';
import { portMaps } from '#vmm/hypercalls/maps.ts';
import { modeNames } from '#vmm/modes/mode.ts';
import { commands } from '../index.ts';

/** Of guests: other commands have modes of other things. */
const choices = (flag: string): (readonly string[] | undefined)[] =>
  commands
    .filter(({ path }) => path.startsWith('vmm ') || path === 'image import')
    .flatMap(({ options = [] }) =>
      options.filter(({ flags }) => flags.includes(flag)).map(({ choices }) => choices),
    );

test('the choices in the help are the modes and port maps there are', () => {
  assert.ok(choices('--mode').length >= 9);
  for (const offered of choices('--mode')) assert.deepEqual(offered, [...modeNames]);
  for (const offered of choices('--ports'))
    assert.deepEqual(
      offered,
      portMaps.map(({ name }) => name),
    );
  assert.ok(choices('--ports').length >= 2);
});
