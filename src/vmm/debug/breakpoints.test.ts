import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { withoutKvm } from '#kvm/testing.ts';
import type { VcpuResult } from '../machine.ts';
import { code, run as runGuest } from '../testing.ts';
import { type Breakpoint, describeHit, type Hit } from './breakpoint.ts';
import { methodFor } from './choose.ts';
import { parseBreakpoint } from './parse.ts';

const nop = 0x90;
const hlt = 0xf4;
const at = (text: string, kind: Breakpoint['kind'] = 'execute'): Breakpoint =>
  parseBreakpoint(text, kind, []);
/** mov 0x500, %eax; mov %eax, 0x504; movl $7, 0x500; hlt: reads, writes elsewhere, writes. */
const touching = Buffer.from('8b04250005000089042504050000c704250005000007000000f4', 'hex');

const run = async (bytes: Iterable<number>, options: Parameters<typeof runGuest>[1]): Promise<VcpuResult> =>
  await runGuest(code(...bytes), options);

function hitsOf({ end }: VcpuResult): readonly Hit[] {
  assert.ok(end.kind === 'breakpoint', end.kind);
  return end.hits;
}

suite('breakpoints on the real KVM', { skip: withoutKvm }, () => {
  for (const mode of ['real', 'protected', 'long'] as const)
    test(`the guest stands before the instruction, which has not happened (${mode})`, async () => {
      const result = await run([nop, 0xb0, 7, nop, hlt], { mode, breakpoints: [at('3')] });
      const [hit] = hitsOf(result);
      const method = methodFor([at('3')]);
      assert.deepEqual([hit?.rip, hit?.method, result.registers.rax], [3n, method, 7n]);
      assert.equal(result.exits.total, 0);
    });

  test('one that is never met changes nothing, nor how exits are counted', async () => {
    const { end, exits } = await run([0xe6, 0xe9, hlt], { breakpoints: [at('0x100')] });
    assert.deepEqual([end.kind, exits.byReason], ['halted', { IO: 1, HLT: 1 }]);
  });

  test('a write is told apart from a read and from a neighbour, with what was there before', async () => {
    const [hit] = hitsOf(await run(touching, { breakpoints: [at('0x500', 'write')] }));
    assert.deepEqual([hit?.rip, hit?.was, hit?.is], [25n, '00000000', '07000000']);
    const [access] = hitsOf(await run(touching, { breakpoints: [at('0x500', 'access')] }));
    assert.deepEqual([access?.rip, access?.was, access?.is], [7n, '00000000', '00000000']);
  });

  test('a write that changes nothing is a write', async () => {
    // movb $0, 0x500; hlt
    const [hit] = hitsOf(
      await run([0xc6, 0x04, 0x25, 0, 5, 0, 0, 0, hlt], { breakpoints: [at('0x500:1', 'write')] }),
    );
    assert.deepEqual([hit?.rip, hit?.was, hit?.is], [8n, '00', '00']);
  });

  test('what a hypercall writes is noticed where it is found by single steps', async () => {
    // mov $0x600, %edi; mov $64, %esi; in $PORT_EXITS_BY_TYPE, %eax; hlt
    const calling = [0xbf, 0, 6, 0, 0, 0xbe, 64, 0, 0, 0, 0xe5, 0xee, hlt];
    const five = ['0x600', '0x700', '0x704', '0x708', '0x70c'].map((text) => at(text, 'write'));
    const hits = hitsOf(await run(calling, { breakpoints: five }));
    assert.deepEqual(
      hits.map(({ breakpoint, method }) => [breakpoint.label, method]),
      [['0x600', 'single step']],
    );
  });

  test('more than four are found, by single steps', async () => {
    const breakpoints = ['9', '8', '7', '6', '2'].map((text) => at(text));
    const [hit] = hitsOf(await run([nop, nop, nop, hlt], { breakpoints }));
    assert.deepEqual([hit?.rip, hit?.method], [2n, 'single step']);
  });
});

suite('breakpoints as people write them', () => {
  const symbols = [
    { name: 'main', at: 0x10, size: 20 },
    { name: 'counter', at: 0x48, size: 8 },
  ];

  test('an address, a symbol, an offset; a variable is watched in its own size', () => {
    assert.deepEqual(parseBreakpoint('main+0x4', 'execute', symbols), {
      kind: 'execute',
      address: 0x14n,
      bytes: 1,
      label: 'main+0x4',
    });
    assert.equal(parseBreakpoint('counter', 'write', symbols).bytes, 8);
    assert.equal(parseBreakpoint('counter+4', 'write', symbols).bytes, 4);
    assert.equal(parseBreakpoint('0x401', 'access', symbols).bytes, 1);
    assert.equal(parseBreakpoint('1024:2', 'access', symbols).bytes, 2);
  });

  test('what no processor watches is refused, and what could be meant is named', () => {
    const cases: readonly (readonly [string, Breakpoint['kind'], RegExp])[] = [
      ['nowhere', 'execute', /neither an address nor a symbol/],
      ['main+1+2', 'execute', /neither an address nor a symbol/],
      ['main:4', 'execute', /cannot be watched/],
      ['0x400:3', 'write', /cannot be watched/],
      ['0x400:4:4', 'write', /cannot be watched/],
      ['0x401:4', 'write', /no multiple of 4/],
    ];
    for (const [text, kind, reason] of cases)
      assert.throws(() => parseBreakpoint(text, kind, symbols), reason);
    assert.throws(() => parseBreakpoint('x', 'write', symbols), { hint: 'its symbols: main, counter' });
  });

  test('a hit is a sentence', () => {
    const breakpoint = parseBreakpoint('counter', 'write', symbols);
    const hit = { breakpoint, method: 'single step', rip: 1n, was: '00', is: '2a' } as const;
    assert.equal(describeHit(hit), 'counter (0x48) written: 00 -> 2a');
  });
});
