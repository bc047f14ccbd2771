import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { withoutKvm } from '#kvm/testing.ts';
import { compileGuest, kit } from '../image/compile.ts';
import { modes } from '../modes/table.ts';
import { code } from '../testing.ts';
import { answer } from './answers.ts';
import { sourceLine } from './source.ts';

suite('the questions a.1 to a.7, answered by the machine', { skip: withoutKvm }, () => {
  for (const name of ['long', 'protected'] as const)
    test(`hello in ${modes[name].title}`, async () => {
      const image = await compileGuest(join(kit, 'examples', 'hello.c'), modes[name]);
      const { memory, vcpus } = await answer({ mode: name, image });
      const [vcpu] = vcpus;
      assert.ok(vcpu);
      assert.equal(memory.bytes, 0x20_0000);
      assert.ok(memory.mapping && memory.mapping.from <= memory.hostVirtual);
      assert.deepEqual([vcpu.run.mapping?.shared, vcpu.run.bytes % 4096], [true, 0]);
      assert.match(vcpu.run.mapping?.path ?? '', /kvm-vcpu/);
      const { paging, registers, code: listing } = vcpu.before;
      assert.deepEqual(
        [registers.rip, listing[0]?.name, paging.tablePages],
        [0n, '_start', name === 'long' ? 3 : 0],
      );
      assert.deepEqual(
        paging.ranges.map(({ linear, physical, bytes }) => [linear, physical, bytes]),
        [[0n, 0n, 0x20_0000n]],
      );
      assert.deepEqual(
        vcpu.walks.map(({ linear, result }) => [linear, result.mapped]),
        [
          [0n, true],
          [0x1f_ffffn, true],
          // without paging every address is one, with memory or not
          [0x20_0000n, name === 'protected'],
        ],
      );
      assert.deepEqual(vcpu.result.exits.ports, [{ port: 0xe9, direction: 'out', count: 14 }]);
      assert.equal(vcpu.data && vcpu.data.hostVirtual - vcpu.run.hostVirtual, BigInt(vcpu.data?.offset ?? 0));
      const words = vcpu.written.words.filter(({ where }) => where === 'memory');
      assert.deepEqual(
        words.map(({ linear, was, is }) => [linear, was, is]),
        [[0x400n, 0n, 42n]],
      );
      assert.match(vcpu.writer?.instruction?.text ?? '', /^mov[lq] \$0x2a,0x400$/);
      assert.match(vcpu.writer?.instruction?.name ?? '', /^main/);
    });

  test('in real mode, where the stack is in the same 64 KiB, the 42 is found and told from the stack', async () => {
    const image = await compileGuest(join(kit, 'examples', 'real.S'), modes.real);
    const [vcpu] = (await answer({ mode: 'real', image })).vcpus;
    assert.deepEqual(
      vcpu?.written.words.map(({ linear, is, where, name }) => [linear, is, where, name]),
      [[0x400n, 42n, 'memory', undefined]],
    );
    assert.match(vcpu?.writer?.instruction?.text ?? '', /^mov %ax,0x400$/);
  });

  test('where the data of a port lay is not said of an exit that has written over it', async () => {
    // out %al, $0xe9, and then hlt, or a store to where no memory is
    const halts = await answer({ mode: 'protected', image: code(0xe6, 0xe9, 0xf4) });
    assert.equal(halts.vcpus[0]?.data?.offset, 4096);
    const stores = await answer({
      mode: 'protected',
      image: code(0xe6, 0xe9, 0xc6, 0x05, 0, 0, 0x40, 0, 1, 0xf4),
    });
    assert.deepEqual([stores.vcpus[0]?.result.end.kind, stores.vcpus[0]?.data], ['fault', undefined]);
  });

  test('each vCPU has answers of its own, and words are named by their variable', async () => {
    const { vcpus } = await answer({
      mode: 'long',
      image: code(0xc6, 0x04, 0x25, 0, 5, 0, 0, 9, 0xf4),
      vcpus: 2,
    });
    assert.deepEqual(
      vcpus.map(({ before, written }) => [
        before.base,
        written.words.map(({ linear, physical }) => [linear, physical]),
      ]),
      [
        [0, [[0x500n, 0x500n]]],
        [0x20_0000, [[0x500n, 0x20_0500n]]],
      ],
    );
  });

  test('a guest that faults, writes nothing and uses no port has answers too', async () => {
    const { vcpus } = await answer({ mode: 'long', image: code(0x0f, 0x0b) });
    const [vcpu] = vcpus;
    assert.deepEqual(
      [vcpu?.result.end.kind, vcpu?.data, vcpu?.written.words, vcpu?.writer],
      ['fault', undefined, [], undefined],
    );
  });
});

test('places in our source are found by their text', () => {
  const [line] = /:\d+$/.exec(sourceLine('src/vmm/inspect/source.ts', 'export function sourceLine')) ?? [];
  assert.ok(line);
  assert.equal(
    sourceLine('src/vmm/inspect/source.ts', 'no such text'.toUpperCase()),
    'src/vmm/inspect/source.ts',
  );
});
