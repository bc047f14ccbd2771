import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { withoutKvm } from '#kvm/testing.ts';
import type { GuestImage } from '../image/image.ts';
import { createMachine } from '../machine.ts';
import type { ModeName } from '../modes/mode.ts';
import { code } from '../testing.ts';
import type { FactValue } from './facts/fact.ts';
import { findFact, takeFacts } from './facts.ts';

async function factsOf(
  mode: ModeName,
  image: GuestImage,
  ...names: readonly string[]
): Promise<readonly (FactValue | undefined)[]> {
  using machine = createMachine({ mode, image });
  const before = takeFacts(machine, names);
  const [result] = await machine.run();
  const after = takeFacts(machine, names, result);
  return names.map((name) => before.get(name) ?? after.get(name));
}

/** mov $42 to an address, as wide as the mode's registers; hlt. */
const stores: Readonly<Record<'real' | 'protected' | 'long', (at: number) => GuestImage>> = {
  real: (at) => code(0xc7, 0x06, at & 0xff, at >> 8, 42, 0, 0xf4),
  protected: (at) => code(0xc7, 0x05, at & 0xff, (at >> 8) & 0xff, at >> 16, 0, 42, 0, 0, 0, 0xf4),
  long: (at) => code(0x48, 0xc7, 4, 0x25, at & 0xff, (at >> 8) & 0xff, at >> 16, 0, 42, 0, 0, 0, 0xf4),
};

suite('facts on a machine', { skip: withoutKvm }, () => {
  for (const mode of ['real', 'protected', 'long'] as const)
    test(`a word is found wherever a guest keeps data, and read there (${mode})`, async () => {
      for (const at of mode === 'real' ? [0x400, 0x6000] : [0x400, 0x6000, 0x10_0000])
        assert.deepEqual(
          await factsOf(mode, stores[mode](at), 'find:42', `word:${at}`, 'find:0x2b'),
          [BigInt(at), 42n, 'nowhere'],
          `at ${at}`,
        );
    });

  test('what lies on the stack is not found', async () => {
    // push $42; pop %rax; hlt
    assert.deepEqual(await factsOf('long', code(0x6a, 42, 0x58, 0xf4), 'find:42', 'end:rax'), [
      'nowhere',
      42n,
    ]);
  });

  test('a guest that uses no port has none, and no data of one', async () => {
    const names = ['port', 'port.direction', 'port.data', 'exits:IO', 'exits.total'];
    assert.deepEqual(await factsOf('long', code(0xf4), ...names), ['none', 'none', 'none', 0n, 1n]);
    const image = code(0xe6, 0xe9, 0xf4); // out %al, $0xe9; hlt
    assert.deepEqual(await factsOf('long', image, ...names), [0xe9n, 'out', 4096n, 1n, 2n]);
  });
});

test('a name that is no fact, or has no such argument, is none', () => {
  for (const name of ['nothing', 'mode:1', 'walk', 'walk:x', 'start:xyz', 'exits:NOPE', 'table.at:PMLX'])
    assert.equal(findFact(name), undefined, name);
  for (const name of ['mode', 'walk:0x400', 'start:rip', 'exits:IO', 'table.at:PML4', 'exits.port:233'])
    assert.ok(findFact(name), name);
});
