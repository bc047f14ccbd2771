import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import { commands, groups } from './table/index.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));

test('what a hint, a sentence or a document tells people to type is a command', () => {
  const known = new Set(commands.map(({ path }) => path));
  const names = groups.flatMap(({ name, alias }) => [name, ...(alias === undefined ? [] : [alias])]);
  const full = new Map(groups.flatMap(({ name, alias }) => (alias === undefined ? [] : [[alias, name]])));
  const withDefault = new Set(
    commands.flatMap(({ path, byDefault }) => (byDefault ? [path.split(' ')[0]] : [])),
  );
  const said = new RegExp(`carrel (${names.join('|')}) ([a-z-]+)`, 'g');
  const files = globSync(['src/**/*.ts', 'docs/*.md', 'labs/**/*.md', 'README.md', 'CHANGELOG.md'], {
    cwd: root,
  }).filter((path) => !path.endsWith('.test.ts'));
  const wrong: string[] = [];
  let seen = 0;
  for (const file of files)
    for (const [text, group = '', verb = ''] of readFileSync(`${root}${file}`, 'utf8').matchAll(said)) {
      seen += 1;
      const name = full.get(group) ?? group;
      if (!known.has(`${name} ${verb}`) && !withDefault.has(name)) wrong.push(`${file}: ${text}`);
    }
  assert.deepEqual(wrong, []);
  assert.ok(seen > 100, `only ${seen} were found: does the search still work?`);
});
