/**
 * The hypervisor's acceptance cases O18 to O29, on the real /dev/kvm: one table of cases, through the library, the command
 * line and a machine of the cloud.
 */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { driver } from './driver-runner.ts';
import { commandLine, type GuestRun, type Hypervisor, library, type VcpuOutcome } from './runner.ts';

const main = (body: string): { c: string } => ({ c: `int main(void) { ${body} }` });

/** Runs a guest with one vCPU. */
async function one(hypervisor: Hypervisor, run: GuestRun): Promise<VcpuOutcome> {
  const { vcpus } = await hypervisor.run(run);
  assert.equal(vcpus.length, 1);
  const [vcpu] = vcpus;
  assert.ok(vcpu);
  return vcpu;
}

const cases: Readonly<Record<string, (hypervisor: Hypervisor) => Promise<void>>> = {
  async 'O18: fourteen bytes are fourteen exits, and hlt is the fifteenth, in three modes'(hypervisor) {
    for (const mode of ['long', 'protected', 'real'] as const) {
      const { vcpus, at400 } = await hypervisor.run({ guest: 'examples/hello.c', mode });
      assert.deepEqual(
        vcpus.map(({ output, end, kind, exits, byReason, rax }) => ({
          output,
          end,
          kind,
          exits,
          byReason,
          rax,
        })),
        [
          {
            output: 'Hello, world!\n',
            end: 'halted',
            kind: 'halted',
            exits: 15,
            byReason: { IO: 14, HLT: 1 },
            rax: 42n,
          },
        ],
        mode,
      );
      assert.equal(at400, 42);
    }
  },

  async 'O19: three instructions in real mode are one exit'(hypervisor) {
    const asm = '.code16\nmov $42, %ax\nmov %ax, 0x400\nhlt\n';
    const { vcpus, at400 } = await hypervisor.run({ guest: { asm }, mode: 'real' });
    assert.deepEqual([vcpus[0]?.exits, vcpus[0]?.byReason, vcpus[0]?.rax, at400], [1, { HLT: 1 }, 42n, 42]);
  },

  async 'O20: long mode begins with the registers and tables of the assignment'(hypervisor) {
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
  },

  async 'O21: addresses are translated up to the end of memory, and not beyond'(hypervisor) {
    assert.equal(await hypervisor.walk(0x400n), 0x400n);
    assert.equal(await hypervisor.walk(0x1fffffn), 0x1fffffn);
    assert.equal(await hypervisor.walk(0x200000n), 'not mapped: PD[1] is not present');
  },

  async 'O22: printing forty characters is one exit'(hypervisor) {
    const text = 'a string of forty characters, just about';
    const { output, rax } = await one(hypervisor, {
      guest: main(`uint32_t before = exits(); print("${text}"); return exits() - before - 1;`),
    });
    assert.deepEqual([output, rax], [text, 1n]);
  },

  async 'O23: exits() counts itself'(hypervisor) {
    const { output, rax } = await one(hypervisor, {
      guest: main('for (int i = 0; i < 7; i++) print("x"); return exits();'),
    });
    assert.deepEqual([output, rax], ['xxxxxxx', 8n]);
  },

  async 'O24: what one run writes into the share the next one reads'(hypervisor) {
    const share = await hypervisor.share();
    const guest = main(
      'char b[33]; if (open("c.txt") != 0) return 1; int n = read(b, 32); if (write("test\\n", 5) != 5) return 2; close(); b[n] = 0; print(b); return 100 + n;',
    );
    const first = await one(hypervisor, { guest, share });
    assert.deepEqual([first.rax, first.output], [100n, '']);
    assert.equal(await share.read('c.txt'), 'test\n');
    const second = await one(hypervisor, { guest, share });
    assert.deepEqual([second.rax, second.output], [105n, 'test\n']);
  },

  async 'O25: files used out of order are errors, and the guest goes on'(hypervisor) {
    const { output, kind } = await one(hypervisor, {
      share: await hypervisor.share(),
      guest: main(
        'char b[4]; close(); print_number(-read(b, 4)); open("a"); print_number(-open("b")); print_number(-write((char *)0x300000, 4)); return 0;',
      ),
    });
    assert.deepEqual([output, kind], ['22\n114\n14\n', 'halted']);
  },

  async 'O26: a pointer to nowhere ends the vCPU with a reason, and the next run works'(hypervisor) {
    for (const address of ['0x80000000', '0x200000']) {
      const { kind, end } = await one(hypervisor, {
        guest: main(`print((char *)${address}); return 0;`),
      });
      assert.equal(kind, 'bad pointer');
      assert.match(end, new RegExp(`print: ${address}, not mapped: P`));
    }
    assert.equal((await one(hypervisor, { guest: 'examples/hello.c' })).kind, 'halted');
  },

  async 'O27: a guest that never leaves is ended by the limit of five seconds'(hypervisor) {
    // a loaded host may be late once; a limit that is wrong is wrong each time
    for (let attempt = 1; ; attempt += 1) {
      const { kind, end, exits, ms } = await one(hypervisor, { guest: 'faults/spin.c', limitMs: 5000 });
      assert.deepEqual([kind, end, exits], ['time limit', 'time limit: 5 s', 0]);
      assert.ok(ms >= 4000, `ended after ${ms} ms`);
      if (ms <= 6000) return;
      assert.ok(attempt < 5, `${attempt} times later than 6 s, at last after ${ms} ms`);
    }
  },

  async 'O28: two vCPUs print two whole lines, in 20 runs out of 20'(hypervisor) {
    for (let round = 0; round < 20; round += 1) {
      const { vcpus } = await hypervisor.run({ guest: 'examples/hello.c', vcpus: 2 });
      assert.deepEqual(
        vcpus.map(({ output, exits, kind }) => [output, exits, kind]),
        Array.from({ length: 2 }, () => ['Hello, world!\n', 15, 'halted']),
        `round ${round}`,
      );
    }
  },

  async 'O29: an unknown port is named, with its direction'(hypervisor) {
    const out = await one(hypervisor, { guest: 'faults/port.c' });
    assert.equal(out.end, 'unknown port 0x77 (119), direction out, 1 byte');
    const into = await one(hypervisor, { guest: main('return inl(0x78);') });
    assert.equal(into.end, 'unknown port 0x78 (120), direction in, 4 bytes');
  },
};

// the driver's bed keeps the process in a network namespace of its own: last
for (const door of [library, commandLine, driver])
  suite(`through the ${door.name}`, { skip: door.skip }, () => {
    let hypervisor: Hypervisor;
    before(async () => {
      hypervisor = await door.open();
    });
    after(() => hypervisor[Symbol.asyncDispose]());
    for (const [name, check] of Object.entries(cases)) test(name, () => check(hypervisor));
  });
