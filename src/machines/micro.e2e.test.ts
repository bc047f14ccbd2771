/** Machines that run a guest of our own VMM: the verbs of all machines, through service, database, worker and keeper. */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { Actor } from '#base/actor.ts';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { newExec, runRequest } from '#contract/schemas/machines.ts';
import { identify, isAlive, type ProcessIdentity, signalProcess, untilGone } from '#host/processes.ts';
import type { GuestFormat } from '#images/guest.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { compileElf } from '#vmm/image/compile.ts';
import { modes } from '#vmm/modes/table.ts';
import { dangling, takeCensus } from '#test/harness/census.ts';
import { type Bed, exceptNameServers, startBed } from './testing.ts';

const guests = fileURLToPath(new URL('../../guests', import.meta.url));

const unsupported = (what: string) => (error: unknown) =>
  isCarrelError(error, 'driver_unsupported') && error.message.includes(`do not offer ${what}`);

suite('machines of the kind micro', { skip: process.getuid?.() === 0 ? withoutKvm : 'needs root' }, () => {
  let bed: Bed;
  let anna: Actor;
  const imported: string[] = [];
  before(async () => {
    bed = await startBed();
    anna = await bed.user('anna');
  });
  after(async () => {
    await bed[Symbol.asyncDispose]();
    for (const name of imported) await bed.images.remove(name);
  });

  /** Imports a guest under a name of its own; equal content has one name, so each has a text of its own. */
  const guest = async (
    text: string,
    mode: 'long' | 'real' | 'protected' = 'long',
    kind = 'c',
  ): Promise<string> => {
    const directory = await mkdtemp(join(tmpdir(), 'carrel-micro-'));
    try {
      const name = `micro-test-${process.pid}-${imported.length}`;
      const file = join(directory, `guest.${kind}`);
      await writeFile(
        file,
        kind === 'c' ? `static const char mark[] __attribute__((used)) = "${name}";\n${text}` : text,
      );
      const elf = await compileElf(file, modes[mode]);
      const format: GuestFormat = `guest-${mode}`;
      await bed.images.import({ name, format, source: Readable.from([elf]) });
      imported.push(name);
      return name;
    } finally {
      await rm(directory, { recursive: true });
    }
  };
  const make = (image: string, more: Partial<Parameters<Bed['make']>[1]> = {}): Promise<string> =>
    bed.make(anna, { image, driver: 'micro', ...more });
  const ended = (id: string) =>
    until(20_000, 'the machine to end', async () => {
      const machine = await bed.machines.get(id);
      return machine.state === 'running' ? undefined : machine;
    });
  const consoleOf = async (id: string): Promise<string> =>
    Buffer.from((await bed.machines.consoleTranscript(id)).bytes).toString();
  const processOf = async (id: string): Promise<ProcessIdentity> => {
    const { keeper } = await bed.store.db
      .selectFrom('machines')
      .select('keeper')
      .where('id', '=', id)
      .executeTakeFirstOrThrow();
    assert.ok(keeper);
    return keeper;
  };
  const hello = `#include "carrel.h"
int main(void) { print("Hello, world!\\n"); *(volatile long *)0x400 = 42; return 42; }`;
  const spin = '#include "carrel.h"\nint main(void) { print("spinning\\n"); for (;;); }';

  test('a guest runs, halts, and is stopped: console, inspection, and once more', async () => {
    const id = await make(await guest(hello));
    const machine = await ended(id);
    assert.deepEqual([machine.state, machine.failure, machine.driver], ['stopped', null, 'micro']);
    assert.equal(await consoleOf(id), 'Hello, world!\r\n[vcpu 0: halted]\r\n');
    const { vcpus, facts } = await bed.machines.inspect(id);
    assert.equal(vcpus.length, 1);
    assert.deepEqual(vcpus[0]?.exits.byReason, { IO: 1, HLT: 1 });
    assert.equal(vcpus[0]?.registers['rax'], '0x2a');
    assert.deepEqual([facts['memory.bytes'], facts['mode'], facts['tables.count']], ['2097152', 'long', '3']);
    await bed.done(bed.machines.start(anna, id));
    assert.equal((await ended(id)).state, 'stopped');
    await bed.done(bed.machines.remove(anna, id));
  });

  test('two cores are two vCPUs, in long mode; other modes have one', async () => {
    const id = await make(await guest(hello), {
      limits: { cpus: 2, memoryBytes: 64 * 2 ** 20, processes: 64, diskBytes: 32 * 2 ** 20 },
    });
    await ended(id);
    assert.deepEqual(
      (await bed.machines.inspect(id)).vcpus.map(({ output }) => output),
      ['Hello, world!\n', 'Hello, world!\n'],
    );
    await bed.done(bed.machines.remove(anna, id));
    const real = await guest('.code16\n.globl _start\n_start: mov $7, %ax\nhlt', 'real', 'S');
    const other = await make(real);
    assert.equal((await ended(other)).state, 'stopped');
    assert.equal((await bed.machines.inspect(other)).vcpus[0]?.registers['rax'], '0x7');
    await bed.done(bed.machines.remove(anna, other));
    await assert.rejects(
      make(real, { limits: { cpus: 2, memoryBytes: 64 * 2 ** 20, processes: 64, diskBytes: 32 * 2 ** 20 } }),
      (error) =>
        isCarrelError(error, 'invalid_request') && /several vCPUs need long mode/.test(error.message),
    );
  });

  test('a guest that faults is a failed machine, with the reason', async () => {
    const id = await make(await guest('int main(void) { __asm__ volatile("ud2"); return 0; }'));
    const machine = await ended(id);
    assert.equal(machine.state, 'failed');
    assert.match(machine.failure?.message ?? '', /it did not halt: SHUTDOWN: .*never valid/);
    assert.equal((await bed.machines.inspect(id)).vcpus[0]?.end.kind, 'fault');
    await bed.done(bed.machines.remove(anna, id));
  });

  test('one that never ends is seen, paused, and stopped by a kick; what it was is kept', async () => {
    const id = await make(await guest(spin));
    assert.equal((await bed.machines.get(id)).state, 'running');
    await assert.rejects(bed.machines.inspect(id), (error) => isCarrelError(error, 'wrong_state'));
    assert.ok((await bed.machines.stats(id)).cpuMs > 0);
    await bed.done(bed.machines.pause(anna, id));
    assert.equal((await bed.machines.get(id)).state, 'paused');
    await bed.done(bed.machines.resume(anna, id));
    await until(10_000, 'the guest to print', async () =>
      (await consoleOf(id)).includes('spinning') ? true : undefined,
    );
    await bed.done(bed.machines.stop(anna, id, { graceMs: 10_000 }));
    assert.equal((await bed.machines.get(id)).state, 'stopped');
    const { vcpus } = await bed.machines.inspect(id);
    assert.deepEqual([vcpus[0]?.end.kind, vcpus[0]?.output], ['stopped', 'spinning\n']);
    await bed.done(bed.machines.remove(anna, id));
  });

  test('it outlives the daemon, and is found again with the same process; killed, it leaves nothing', async () => {
    const id = await make(await guest(spin));
    const before = await processOf(id);
    await bed.suspend();
    assert.ok(isAlive(before));
    await bed.resume();
    await until(10_000, 'the machine to be adopted', async () =>
      (await bed.machines.get(id)).state === 'running' ? true : undefined,
    );
    assert.deepEqual(await processOf(id), before);
    signalProcess(before, 'SIGKILL');
    await untilGone(before, 10_000);
    const machine = await ended(id);
    assert.equal(machine.state, 'failed');
    assert.match(machine.failure?.message ?? '', /by signal SIGKILL/);
    await bed.done(bed.machines.start(anna, id));
    assert.notDeepEqual(await processOf(id), before);
    await bed.done(bed.machines.remove(anna, id));
  });

  test('what it cannot do is refused by name', async () => {
    const id = await make(await guest(spin));
    await assert.rejects(bed.machines.run(id, runRequest.parse({ argv: ['true'] })), unsupported('run'));
    await assert.rejects(
      bed.machines.createExec(anna, id, newExec.parse({ argv: ['true'] })),
      unsupported('exec'),
    );
    await assert.rejects(bed.machines.readFile(id, '/x'), unsupported('files'));
    await assert.rejects(bed.machines.resetPassword(anna, id), unsupported('password'));
    await bed.done(bed.machines.remove(anna, id));
    await assert.rejects(bed.make(anna, { image: 'busybox', driver: 'micro' }), (error) =>
      isCarrelError(error, 'not_found'),
    );
    const container = await bed.make(anna);
    await assert.rejects(bed.machines.inspect(container), unsupported('inspect'));
    await bed.done(bed.machines.remove(anna, container));
  });

  test('ten machines come and go, and leave no process, mount, control group or file', async () => {
    const image = await guest(hello);
    const left = await takeCensus(bed.dataDirectory);
    for (let round = 0; round < 10; round += 1) {
      const id = await make(image);
      if (round % 2 === 0) await ended(id);
      await bed.done(bed.machines.remove(anna, id));
    }
    assert.deepEqual(exceptNameServers(dangling(left, await takeCensus(bed.dataDirectory))), []);
  });

  test('the process has no rights and sees nothing but itself', async () => {
    const id = await make(await guest(spin));
    const { pid } = await processOf(id);
    const { readFileSync, readdirSync } = await import('node:fs');
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    assert.match(status, /^CapEff:\s*0+$/m);
    assert.match(status, /^NoNewPrivs:\s*1$/m);
    assert.match(status, /^Seccomp:\s*2$/m);
    assert.doesNotMatch(status, /^Uid:\s*0\b/m);
    assert.deepEqual(readdirSync(`/proc/${pid}/root/machine`).toSorted(), ['guest.elf', 'order.json']);
    assert.ok(!readdirSync(`/proc/${pid}/root/dev`).includes('kvm'));
    assert.ok(identify(pid));
    await bed.done(bed.machines.remove(anna, id));
  });

  test('a guest of the kit runs as it does by the command line', async () => {
    const elf = await compileElf(join(guests, 'examples/print.c'), modes.long);
    const name = `micro-test-${process.pid}-${imported.length}`;
    await bed.images.import({ name, format: 'guest-long', source: Readable.from([elf]) });
    imported.push(name);
    const id = await make(name);
    await ended(id);
    const [vcpu] = (await bed.machines.inspect(id)).vcpus;
    assert.match(vcpu?.output ?? '', /exits for it, besides the one that asks: 1\n/);
    await bed.done(bed.machines.remove(anna, id));
  });
});
