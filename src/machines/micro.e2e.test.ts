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
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { newExec, type RunRequest, runRequest } from '#contract/schemas/machines.ts';
import { identify, isAlive, type ProcessIdentity, signalProcess, untilGone } from '#host/processes.ts';
import type { GuestFormat } from '#images/guest.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { compileElf } from '#vmm/image/compile.ts';
import { modes } from '#vmm/modes/table.ts';
import { dangling, takeCensus } from '#test/harness/census.ts';
import { type Bed, exceptNameServers, request, startBed } from './testing.ts';

const guests = fileURLToPath(new URL('../../guests', import.meta.url));

const unsupported = (what: string) => (error: unknown) =>
  isCarrelError(error, 'driver_unsupported') && error.message.includes(`do not offer ${what}`);

suite('machines of the kind micro', { skip: process.getuid?.() === 0 ? withoutKvm : 'needs root' }, () => {
  let bed: Bed;
  let anna: Actor;
  const imported: string[] = [];
  before(async () => {
    bed = await startBed();
    await bed.images.ensure('debian-12');
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
    await assert.rejects(
      bed.machines.createExec(anna, id, newExec.parse({ argv: ['true'] })),
      unsupported('exec'),
    );
    await assert.rejects(bed.machines.resetPassword(anna, id), unsupported('password'));
    await bed.done(bed.machines.remove(anna, id));
    await assert.rejects(
      bed.make(anna, { image: 'busybox', driver: 'micro' }),
      (error) => isCarrelError(error, 'validation_failed') && /has no \/usr\/bin\/gcc/.test(error.message),
    );
    await assert.rejects(
      bed.machines.create(
        anna,
        request({ image: 'debian-12', driver: 'micro', starter: { lines: ['true'], limitSeconds: 10 } }),
      ),
      unsupported('exec'),
    );
    const container = await bed.make(anna);
    await assert.rejects(bed.machines.inspect(container), unsupported('inspect'));
    await bed.done(bed.machines.remove(anna, container));
  });

  /** A machine without a guest of its own, for those that are put into it. */
  const workplace = (more: Partial<Parameters<Bed['make']>[1]> = {}): Promise<string> =>
    bed.make(anna, { image: 'debian-12', driver: 'micro', ...more });
  const put = (id: string, path: string, text: string | Uint8Array) =>
    bed.machines.writeFile(id, path, Buffer.from(text));
  const got = async (id: string, path: string): Promise<string> =>
    Buffer.from((await bed.machines.readFile(id, path)).bytes).toString();
  const runIt = async (id: string, argv: readonly string[], more: Partial<RunRequest> = {}) => {
    const { stdout, stderr, ...rest } = await bed.machines.run(id, {
      ...runRequest.parse({ argv }),
      ...more,
    });
    return {
      ...rest,
      stdout: Buffer.from(stdout, 'base64').toString(),
      stderr: Buffer.from(stderr, 'base64').toString(),
    };
  };

  /** It runs, also by its row, and its guest has come so far. */
  const spins = (id: string) =>
    until(30_000, 'the guest to print', async () => {
      const { state, activity } = await bed.machines.get(id);
      return state === 'running' && activity === null && (await consoleOf(id)).includes('spinning')
        ? true
        : undefined;
    });

  test('a student puts sources into a machine, runs them, and finds what they have written', async () => {
    const id = await workplace();
    assert.equal((await bed.machines.get(id)).state, 'stopped');
    await assert.rejects(bed.done(bed.machines.start(anna, id)), /has nothing to run yet/);
    await put(id, 'say.h', '#define TEXT "by hand\\n"\n');
    await put(
      id,
      '/notes.c',
      `#include "carrel.h"
#include "say.h"
int other(void);
int main(void) { if (open("out.txt") != 0) return 1; write(TEXT, 8); close(); print("written\\n"); return other(); }`,
    );
    await put(id, 'other.c', 'int other(void) { return 7; }');
    const { end, stdout, stderr } = await runIt(id, ['notes.c', 'other.c', '--fact', 'walk.why:0x200000']);
    assert.deepEqual(end, { kind: 'exited', status: 0 });
    assert.equal(stdout, 'written\n');
    assert.match(stderr, /^vcpu 0: halted; 5 exits \(4 IO, 1 HLT\) in .*, RAX 0x7, RIP 0x/);
    assert.equal(await got(id, 'out.txt'), 'by hand\n');
    const { vcpus, facts } = await bed.machines.inspect(id);
    assert.equal(vcpus[0]?.exits.total, 5);
    assert.equal(facts['walk.why:0x200000'], 'not mapped: PD[1] is not present');
    assert.equal((await bed.machines.get(id)).state, 'stopped');
    // a start is the same once more
    await bed.done(bed.machines.start(anna, id));
    await ended(id);
    assert.equal(await consoleOf(id), 'written\r\n[vcpu 0: halted]\r\n');
    await bed.done(bed.machines.remove(anna, id));
  });

  test('an ELF program and machine code are run as they are, by the ports of another map', async () => {
    const id = await workplace();
    const elf = await compileElf(join(guests, 'examples/hello.c'), modes.long);
    await put(id, 'hello.elf', elf);
    assert.equal(
      (await runIt(id, ['hello.elf', '--vcpus=2'])).stdout,
      '[vcpu 0] Hello, world!\n[vcpu 1] Hello, world!\n',
    );
    await put(id, 'halt.bin', Uint8Array.of(0xf4));
    const { stderr } = await runIt(id, ['halt.bin', '--mode', 'real', '--ports', 'cs695']);
    assert.match(stderr, /halted; 1 exit \(1 HLT\)/);
    await bed.done(bed.machines.remove(anna, id));
  });

  test('what cannot be run is refused with the reason, and the machine stays as it was', async () => {
    const id = await workplace();
    await put(id, 'wrong.c', 'int main(void) { return nothing; }');
    const refusals: readonly [readonly string[], RegExp][] = [
      [['missing.c'], /there is no file missing\.c/],
      [['wrong.c'], /wrong\.c does not compile for/],
      [['wrong.c', '--mode', 'virtual'], /there is no mode virtual/],
      [['wrong.c', '--ports', 'none'], /there is no port map none/],
      [['wrong.c', '--vcpus', '17'], /1 to 16 vCPUs/],
      [['wrong.c', '--vcpus', '2', '--mode', 'real'], /several vCPUs need long mode/],
      [['wrong.c', '--shell'], /Unknown option/],
      [['wrong.c', '--fact', 'weather'], /there is no fact weather/],
      [['--mode', 'long'], /no guest is named/],
      [['notes.txt'], /is no guest/],
    ];
    for (const [argv, message] of refusals)
      await assert.rejects(runIt(id, argv), (error) => error instanceof Error && message.test(error.message));
    await assert.rejects(runIt(id, ['wrong.c'], { env: { A: 'b' } }), /a guest has no environment/);
    const machine = await bed.machines.get(id);
    assert.deepEqual([machine.state, machine.failure], ['stopped', null]);
    await bed.done(bed.machines.remove(anna, id));
  });

  test('the compiler sees the kit and the sources, and nothing of the host or of the machine', async () => {
    const id = await workplace();
    for (const [text, message] of [
      [`#include "${bed.dataDirectory}/machines/${id}/order.json"`, /No such file/],
      ['#include "/etc/shadow"', /Permission denied|No such file/],
      ['#include <stdio.h>', /No such file/],
    ] as const) {
      await put(id, 'peek.c', `${text}\nint main(void) { return 0; }`);
      await assert.rejects(
        runIt(id, ['peek.c']),
        (error) => error instanceof CarrelError && message.test(error.hint ?? ''),
      );
    }
    // a compiler that never ends is ended, and leaves nothing
    await put(id, 'endless.c', '#include "/dev/zero"\nint main(void) { return 0; }');
    await assert.rejects(runIt(id, ['endless.c']), /does not compile for/);
    await bed.done(bed.machines.remove(anna, id));
  });

  test('one guest at a time; stopped by somebody else, a run is answered', async () => {
    const id = await workplace();
    await put(id, 'spin.c', spin);
    const first = runIt(id, ['spin.c']);
    await spins(id);
    await assert.rejects(runIt(id, ['spin.c']), /a guest of it is running/);
    await bed.done(bed.machines.stop(anna, id, { graceMs: 10_000 }));
    const { end, stdout, stderr } = await first;
    assert.deepEqual([end, stdout], [{ kind: 'killed', reason: 'cancelled' }, 'spinning\n']);
    assert.match(stderr, /stopped from outside/);
    // whoever asks may go away
    const abort = new AbortController();
    const gone = bed.machines.run(id, runRequest.parse({ argv: ['spin.c'] }), { signal: abort.signal });
    await spins(id);
    abort.abort();
    assert.deepEqual((await gone).end, { kind: 'killed', reason: 'cancelled' });
    assert.equal((await bed.machines.get(id)).state, 'stopped');
    await bed.done(bed.machines.remove(anna, id));
  });

  test('limits of a run: time, output, and the room for files', async () => {
    const MiB = 2 ** 20;
    const id = await workplace({
      limits: { cpus: 1, memoryBytes: 64 * MiB, processes: 64, diskBytes: 8 * MiB },
    });
    await put(id, 'spin.c', spin);
    const late = await runIt(id, ['spin.c'], { limitMs: 500 });
    assert.deepEqual([late.end, late.stdout], [{ kind: 'killed', reason: 'wall' }, 'spinning\n']);
    assert.match(late.stderr, /time limit: 500 ms/);
    assert.match((await bed.machines.get(id)).failure?.message ?? '', /time limit/);
    await put(
      id,
      'flood.c',
      '#include "carrel.h"\nint main(void) { for (;;) print("0123456789012345678901234567890123456789"); }',
    );
    const flood = await runIt(id, ['flood.c', '--vcpus', '2'], { outputBytes: 65_536 });
    assert.deepEqual(flood.end, { kind: 'killed', reason: 'output' });
    assert.ok(flood.stdout.length < 2 * 65_536);
    await put(
      id,
      'fill.c',
      `#include "carrel.h"
static char page[65536];
int main(void) { open("big"); for (int i = 0; i < 1000; i++) if (write(page, sizeof page) < 0) return i; return -1; }`,
    );
    assert.equal((await runIt(id, ['fill.c'])).end.kind, 'exited');
    const blocks = Number((await bed.machines.inspect(id)).vcpus[0]?.registers['rax']);
    assert.ok(blocks > 100 && blocks <= 128, `${blocks} of 128`);
    await assert.rejects(put(id, 'more', new Uint8Array(MiB)), (error) => isCarrelError(error, 'disk_full'));
    await put(id, 'big', '');
    await put(id, 'more', new Uint8Array(MiB));
    await assert.rejects(put(id, 'huge', new Uint8Array(17 * MiB)), (error) =>
      isCarrelError(error, 'too_large'),
    );
    for (const path of ['../order.json', '/etc/../run.json'])
      await assert.rejects(got(id, path), (error) => isCarrelError(error, 'not_found'));
    await bed.done(bed.machines.remove(anna, id));
  });

  test('files are there in every state, and a run outlives the daemon', async () => {
    const id = await workplace();
    await put(
      id,
      'slow.c',
      '#include "carrel.h"\nint main(void) { open("a"); write("1", 1); close(); print("begun\\n"); for (volatile long i = 0;; i++); }',
    );
    const lost = bed.machines.run(id, runRequest.parse({ argv: ['slow.c'] })).catch(() => undefined);
    await until(30_000, 'the guest to write', async () =>
      (await consoleOf(id).catch(() => '')).includes('begun') ? true : undefined,
    );
    assert.equal(await got(id, 'a'), '1');
    const before = await processOf(id);
    await bed.suspend();
    await lost;
    await bed.resume();
    await until(10_000, 'the machine to be adopted', async () =>
      (await bed.machines.get(id)).state === 'running' ? true : undefined,
    );
    assert.deepEqual(await processOf(id), before);
    await bed.done(bed.machines.stop(anna, id, { graceMs: 10_000 }));
    assert.equal((await bed.machines.inspect(id)).vcpus[0]?.output, 'begun\n');
    await bed.done(bed.machines.remove(anna, id));
  });

  test('killed before it could report, a run is answered, and the machine says why', async () => {
    const id = await workplace();
    await put(id, 'spin.c', spin);
    const run = runIt(id, ['spin.c']);
    await until(30_000, 'the guest to run', async () =>
      (await bed.machines.get(id)).state === 'running' ? true : undefined,
    );
    signalProcess(await processOf(id), 'SIGKILL');
    const { end, stderr } = await run;
    assert.deepEqual(end, { kind: 'signaled', signal: 'SIGKILL' });
    assert.match(stderr, /without a report/);
    assert.equal((await bed.machines.get(id)).state, 'failed');
    await assert.rejects(bed.machines.inspect(id), /ended before it could say how it went/);
    await put(id, 'halt.c', 'int main(void) { return 0; }');
    assert.equal((await runIt(id, ['halt.c'])).end.kind, 'exited');
    assert.equal((await bed.machines.get(id)).state, 'stopped');
    await bed.done(bed.machines.remove(anna, id));
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
    assert.deepEqual(readdirSync(`/proc/${pid}/root/machine`).toSorted(), [
      'guest.elf',
      'order.json',
      'share',
    ]);
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
