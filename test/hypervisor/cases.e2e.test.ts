/** The hypervisor's acceptance cases O18 to O29, on the real /dev/kvm, through the library and the command line. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { withoutKvm } from '#kvm/testing.ts';
import { commandLine, library, type VcpuOutcome } from './runner.ts';

const main = (body: string): { c: string } => ({ c: `int main(void) { ${body} }` });

for (const [door, hypervisor] of Object.entries({ library, 'command line': commandLine }))
  suite(`through the ${door}`, { skip: withoutKvm }, () => {
    let directory = '';
    before(async () => {
      directory = await mkdtemp(join(tmpdir(), 'carrel-hypervisor-'));
    });
    after(() => rm(directory, { recursive: true }));

    /** Runs a guest with one vCPU. */
    async function one(run: Parameters<typeof hypervisor.run>[1]): Promise<VcpuOutcome> {
      const { vcpus } = await hypervisor.run(directory, run);
      assert.equal(vcpus.length, 1);
      const [vcpu] = vcpus;
      assert.ok(vcpu);
      return vcpu;
    }
    for (const mode of ['long', 'protected', 'real'] as const)
      test(`O18: fourteen bytes are fourteen exits, and hlt is the fifteenth (${mode})`, async () => {
        const { vcpus, at400 } = await hypervisor.run(directory, { guest: 'examples/hello.c', mode });
        assert.deepEqual(vcpus, [
          {
            output: 'Hello, world!\n',
            end: 'halted',
            kind: 'halted',
            exits: 15,
            byReason: { IO: 14, HLT: 1 },
            rax: 42n,
          },
        ]);
        assert.equal(at400, 42);
      });

    test('O19: three instructions in real mode are one exit', async () => {
      const asm = '.code16\nmov $42, %ax\nmov %ax, 0x400\nhlt\n';
      const { vcpus, at400 } = await hypervisor.run(directory, { guest: { asm }, mode: 'real' });
      assert.deepEqual([vcpus[0]?.exits, vcpus[0]?.byReason, vcpus[0]?.rax, at400], [1, { HLT: 1 }, 42n, 42]);
    });

    test('O20: long mode begins with the registers and tables of the assignment', async () => {
      const { registers, memoryBytes, entries } = await hypervisor.begin();
      const { cr0, cr3, cr4, efer, rip, rsp, rflags } = registers;
      assert.deepEqual(
        { cr0, cr3, cr4, efer, rip, rsp, rflags },
        {
          cr0: 0x80050033n,
          cr3: 0x2000n,
          cr4: 0x20n,
          efer: 0x500n,
          rip: 0n,
          rsp: 0x200000n,
          rflags: 2n,
        },
      );
      assert.deepEqual(entries, [0x3007n, 0x4007n, 0x87n]);
      assert.equal(memoryBytes, 0x200000);
    });

    test('O21: addresses are translated up to the end of memory, and not beyond', async () => {
      assert.equal(await hypervisor.walk(0x400n), 0x400n);
      assert.equal(await hypervisor.walk(0x1fffffn), 0x1fffffn);
      assert.equal(await hypervisor.walk(0x200000n), 'not mapped: PD[1] is not present');
    });

    test('O22: printing forty characters is one exit', async () => {
      const text = 'a string of forty characters, just about';
      const { output, rax } = await one({
        guest: main(`uint32_t before = exits(); print("${text}"); return exits() - before - 1;`),
      });
      assert.deepEqual([output, rax], [text, 1n]);
    });

    test('O23: exits() counts itself', async () => {
      const { output, rax } = await one({
        guest: main('for (int i = 0; i < 7; i++) print("x"); return exits();'),
      });
      assert.deepEqual([output, rax], ['xxxxxxx', 8n]);
    });

    test('O24: what one run writes into the share the next one reads', async () => {
      const share = await mkdtemp(join(directory, 'share-'));
      const guest = main(
        'char b[32]; if (open("c.txt") != 0) return 1; int n = read(b, 32); if (write("test\\n", 5) != 5) return 2; close(); b[n] = 0; print(b); return 100 + n;',
      );
      const first = await one({ guest, share });
      assert.deepEqual([first.rax, first.output], [100n, '']);
      assert.equal(await readFile(join(share, 'c.txt'), 'utf8'), 'test\n');
      const second = await one({ guest, share });
      assert.deepEqual([second.rax, second.output], [105n, 'test\n']);
    });

    test('O25: files used out of order are errors, and the guest goes on', async () => {
      const share = await mkdtemp(join(directory, 'share-'));
      const { output, kind } = await one({
        share,
        guest: main(
          'char b[4]; close(); print_number(-read(b, 4)); open("a"); print_number(-open("b")); print_number(-write((char *)0x300000, 4)); return 0;',
        ),
      });
      assert.deepEqual([output, kind], ['22\n114\n14\n', 'halted']);
    });

    test('O26: a pointer to nowhere ends the vCPU with a reason, and the next run works', async () => {
      for (const address of ['0x80000000', '0x200000']) {
        const { kind, end } = await one({ guest: main(`print((char *)${address}); return 0;`) });
        assert.equal(kind, 'bad pointer');
        assert.match(end, new RegExp(`print: ${address}, not mapped: P`));
      }
      assert.equal((await one({ guest: 'examples/hello.c' })).kind, 'halted');
    });

    test('O27: a guest that never leaves is ended by the limit', async () => {
      const { kind, end, exits } = await one({ guest: 'faults/spin.c', limitMs: 700 });
      assert.deepEqual([kind, end, exits], ['time limit', 'time limit: 700 ms', 0]);
    });

    test('O28: two vCPUs print two whole lines, every time', async () => {
      const rounds = door === 'library' ? 20 : 2;
      for (let round = 0; round < rounds; round += 1) {
        const { vcpus } = await hypervisor.run(directory, { guest: 'examples/hello.c', vcpus: 2 });
        assert.deepEqual(
          vcpus.map(({ output, exits, kind }) => [output, exits, kind]),
          Array.from({ length: 2 }, () => ['Hello, world!\n', 15, 'halted']),
        );
      }
    });

    test('O29: an unknown port is named, with its direction', async () => {
      const out = await one({ guest: 'faults/port.c' });
      assert.equal(out.end, 'unknown port 0x77 (119), direction out, 1 byte');
      const into = await one({ guest: main('return inl(0x78);') });
      assert.equal(into.end, 'unknown port 0x78 (120), direction in, 4 bytes');
    });
  });
