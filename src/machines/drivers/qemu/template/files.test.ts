import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import { makersIn, TemplateStore } from './files.ts';
import { keyPattern, templateKey } from './key.ts';
import { openTemplateMemory } from './memory.ts';

const key = 'a'.repeat(32);
const facts = { key, image: 'f'.repeat(64), ramBytes: 8192, diskBytes: 2 ** 20 };
const notRoot = process.geteuid?.() === 0 ? false : 'files are given to root';

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-template-'));
  t.after(() => rmSync(directory, { recursive: true }));
  return directory;
}

async function made(store: TemplateStore, id = 'm-1'): ReturnType<TemplateStore['publish']> {
  const { disk, ram, state } = await store.begin(id);
  writeFileSync(disk, 'disk');
  writeFileSync(ram, Buffer.alloc(8192, 5));
  writeFileSync(state, 'state');
  return store.publish(id, facts);
}

test('a template is there when it is whole, and nothing before', { skip: notRoot }, async (t) => {
  const directory = scratch(t);
  const store = new TemplateStore(directory);
  assert.equal(await store.find(key), undefined);
  const { disk } = await store.begin('m-1');
  writeFileSync(disk, 'half');
  assert.equal(await store.find(key), undefined);
  assert.deepEqual(await store.keys(), []);
  const template = await made(store);
  assert.deepEqual(await store.keys(), [key]);
  assert.deepEqual(await store.find(key), template);
  assert.equal(statSync(template.ram).mode & 0o777, 0o400);
  assert.equal(statSync(template.disk).mode & 0o777, 0o444);
});

test('what a crash left is swept, what is being made stays', { skip: notRoot }, async (t) => {
  const directory = scratch(t);
  const store = new TemplateStore(directory);
  await made(store);
  await store.begin('m-2');
  await store.begin('m-3');
  const other = join(directory, 'b'.repeat(32));
  await store.begin('m-4');
  rmSync(other, { recursive: true, force: true });
  assert.deepEqual(makersIn(directory).toSorted(), ['m-2', 'm-3', 'm-4']);
  assert.equal(await store.sweep(new Set(['m-3'])), 2);
  assert.deepEqual(readdirSync(directory).toSorted(), [key, 'making-m-3']);
  rmSync(join(directory, key, 'template.json')); // killed between two steps of a removal
  assert.equal(await store.sweep(new Set()), 2);
  assert.deepEqual(readdirSync(directory), []);
});

test('a record that cannot be read is no template', { skip: notRoot }, async (t) => {
  const store = new TemplateStore(scratch(t));
  const template = await made(store);
  for (const text of ['', '{', 'null', '{"format":2}', JSON.stringify({ ...facts, format: 1 })]) {
    writeFileSync(join(template.directory, 'template.json'), text);
    assert.equal(await store.find(key), undefined, text);
  }
});

test(
  'making it again replaces it, removing it twice is no fault, and a name that is no key is refused',
  { skip: notRoot },
  async (t) => {
    const directory = scratch(t);
    const store = new TemplateStore(directory);
    await made(store, 'm-1');
    await made(store, 'm-2');
    assert.deepEqual(readdirSync(directory), [key]);
    await store.remove(key);
    await store.remove(key);
    assert.equal(existsSync(join(directory, key)), false);
    await assert.rejects(store.remove('../machines'), { code: 'internal' });
  },
);

test('its last use is remembered', { skip: notRoot }, async (t) => {
  const store = new TemplateStore(scratch(t));
  await made(store);
  const before = await store.lastUsed(key);
  await store.touch(key);
  const after = await store.lastUsed(key);
  assert.ok(before && after && after >= before);
  await store.remove(key);
  await store.touch(key);
  assert.equal(await store.lastUsed(key), undefined);
});

test('a key is the same for the same facts and another one for any other', async (t) => {
  const program = join(scratch(t), 'qemu');
  writeFileSync(program, 'x');
  const base = { program, argv: ['-m', '256'], image: 'i', processor: 'p', seed: 1 };
  const name = await templateKey(base);
  assert.match(name, keyPattern);
  assert.equal(await templateKey({ ...base }), name);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.string()),
      fc.string(),
      fc.string(),
      fc.integer(),
      async (argv, image, processor, seed) => {
        const facts = { program, argv, image, processor, seed };
        const same = JSON.stringify(facts) === JSON.stringify(base);
        assert.equal((await templateKey(facts)) === name, same);
      },
    ),
  );
  writeFileSync(program, 'upgraded');
  assert.notEqual(await templateKey(base), name);
});

test(
  'memory is loaded once for all who want it, and a file that was cut is refused',
  { skip: notRoot },
  async (t) => {
    const store = new TemplateStore(scratch(t));
    const template = await made(store);
    using memory = openTemplateMemory();
    const seen = await Promise.all([1, 2, 3].map(() => memory.with(template, async (fd) => fd)));
    assert.equal(new Set(seen).size, 1);
    memory.drop(key);
    await assert.rejects(
      memory.with({ ...template, ramBytes: 4096 }, async () => undefined),
      { code: 'internal' },
    );
    // the failure is not remembered, and one that is dropped while it is used closes afterwards
    await memory.with(template, async (fd) => {
      memory.drop(key);
      assert.ok(existsSync(`/proc/self/fd/${fd}`));
    });
  },
);
