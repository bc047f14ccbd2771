import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { launchOk } from '#host/launch.ts';
import { modes } from '../modes/table.ts';
import { compileGuest } from './compile.ts';
import { nameOf, readSymbols } from './symbols.ts';

test('functions, variables and labels of a guest are known by name, in 32 and 64 bits', async (context) => {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-symbols-'));
  context.after(() => rm(directory, { recursive: true }));
  const source = join(directory, 'guest.c');
  await writeFile(source, 'volatile long counter = 7; int main(void) { return counter; }\n');
  for (const mode of [modes.long, modes.protected]) {
    const { symbols } = await compileGuest(source, mode);
    const counter = symbols.find(({ name }) => name === 'counter');
    assert.equal(counter?.size, mode.bits / 8);
    assert.deepEqual(
      symbols.map(({ at }) => at),
      symbols.map(({ at }) => at).toSorted((a, b) => a - b),
    );
    const main = symbols.find(({ name }) => name === 'main');
    assert.ok(main);
    assert.equal(nameOf(symbols, BigInt(main.at + 1)), 'main+0x1');
    assert.ok(symbols.some(({ name, at }) => name === '_start' && at === 0));
  }
});

test('behind the end of a function there is no name', () => {
  const symbols = [{ name: 'main', at: 0x10, size: 4 }];
  assert.equal(nameOf(symbols, 0x13n), 'main+0x3');
  assert.equal(nameOf(symbols, 0x14n), undefined);
  assert.equal(nameOf(symbols, 0xfn), undefined);
});

test('a file with any bytes changed has symbols within the window, or none', async (context) => {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-symbols-'));
  context.after(() => rm(directory, { recursive: true }));
  const source = join(directory, 'guest.S');
  await writeFile(source, '.globl _start\n_start: hlt\nlast: hlt\n');
  const object = join(directory, 'guest.o');
  await launchOk(['gcc', '-c', '-o', object, source]);
  const good = await readFile(object);
  assert.deepEqual(
    readSymbols(good).map(({ name, at }) => [name, at]),
    [
      ['_start', 0],
      ['last', 1],
    ],
  );
  const change = fc.tuple(fc.nat(good.length - 1), fc.nat(255));
  fc.assert(
    fc.property(fc.array(change, { maxLength: 8 }), fc.nat(good.length), (changes, length) => {
      const copy = Uint8Array.from(good);
      for (const [index, value] of changes) copy[index] = value;
      const file = copy.subarray(0, Math.max(5, length));
      assert.ok(readSymbols(file).every(({ name, at }) => name.length > 0 && at < 0x20_0000));
    }),
    { numRuns: 500 },
  );
});
