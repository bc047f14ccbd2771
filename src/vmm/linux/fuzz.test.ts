/**
 * Ports and registers, by a guest that does anything: any port, any address without RAM, any size, either direction,
 * any data. First the board by itself, many times over; then a real guest through the whole machine, vCPU thread,
 * dispatcher, doors and device thread included.
 */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite, test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import { fuzzRuns } from '#base/fuzz.ts';
import { pipe } from '#host/fds.ts';
import { trySyscall } from '#host/syscalls.ts';
import { createIrqchip } from '#kvm/interrupts.ts';
import { openKvm } from '#kvm/kvm.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import type { PortSize } from '../devices/device.ts';
import { rangeBytes } from '../virtio/registers.ts';
import { Board, makeBoardWords } from './board.ts';
import { place } from './layout.ts';
import { createLinuxMachine, type LinuxResult } from './machine.ts';

const canary = 0xc5;

/** Ports with something behind them, and their neighbours; all others now and then. */
const port = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .tuple(
        fc.constantFrom(0x20, 0x40, 0x60, 0x70, 0x80, 0xa0, 0xf4, 0x2f8, 0x3f8, 0xcf8),
        fc.integer({ min: -2, max: 9 }),
      )
      .map(([base, offset]) => base + offset),
  },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
  { weight: 1, arbitrary: fc.constantFrom(0xfffc, 0xfffd, 0xfffe, 0xffff) },
);
const size = fc.constantFrom<PortSize>(1, 2, 4);
const value = fc.oneof(
  fc.integer({ min: 0, max: 255 }),
  fc.integer({ min: 0, max: 0xffff_ffff }),
  fc.constantFrom(0xfe, 0x06, 0x80, 0x0f, 0x83),
);

const boardStep = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('write' as const), port, size, value }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('read' as const), port, size }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('type' as const), bytes: fc.uint8Array() }) },
);

test(
  'the board: any access to any port is answered in its size, or ends the machine, and stays in its words',
  { skip: withoutKvm },
  () => {
    using kvm = openKvm();
    using vm = kvm.createVm();
    createIrqchip(vm.fd);
    const [read, write] = pipe({ nonBlocking: true });
    using ends = new DisposableStack();
    ends.use(read);
    ends.use(write);
    const said = new Uint8Array(65_536);
    const own = makeBoardWords().byteLength;
    const met = new Set<string>();
    fc.assert(
      fc.property(fc.array(boardStep, { maxLength: 80, size: 'max' }), (steps) => {
        // canaries behind the words, as a second board would lie there
        const words = new SharedArrayBuffer(own + 4096);
        const behind = new Uint8Array(words, own).fill(canary);
        const board = new Board({ words, vm: vm.fd, output: write.fd });
        for (const step of steps) {
          if (step.do === 'type') assert.ok(board.receive(step.bytes) <= step.bytes.length);
          else if (step.do === 'read') {
            const answer = board.read(step.port, step.size);
            assert.ok(Number.isInteger(answer) && answer >= 0 && answer < 2 ** (8 * step.size), `${answer}`);
          } else {
            const end = board.write(step.port, step.size, step.value, () => false);
            if (end) met.add(end.kind === 'reset' ? end.by : end.kind);
          }
          trySyscall('read', read.fd, said, said.length);
        }
        assert.ok(behind.every((byte) => byte === canary));
        assert.equal(new Int32Array(words)[0], 0, 'the lock was given back');
      }),
      { numRuns: fuzzRuns(1500) },
    );
    assert.deepEqual([...met].toSorted(), ['exit', 'keyboard controller', 'port 0xcf9']);
  },
);

/** What comes last: a write to the port of the debug exit, which carries this. */
const status = 0x2a;
const ramBytes = 16 * 2 ** 20;
const codeAt = 0x10_0000;
const bufferAt = 0x40_0000;
const bufferBytes = 4096;
/** Nobody has business here. */
const untouched = { from: 0x80_0000, to: ramBytes };

const address = fc.oneof(
  // registers of the two devices, their neighbours, accesses across an end
  {
    weight: 6,
    arbitrary: fc
      .tuple(fc.nat(2), fc.integer({ min: -8, max: rangeBytes + 8 }))
      .map(([device, offset]) => place.virtio + device * 0x1000 + offset),
  },
  {
    weight: 2,
    arbitrary: fc.integer({ min: 0, max: rangeBytes / 4 }).map((word) => place.virtio + 4 * word),
  },
  // behind RAM, and below the interrupt controllers, which are the kernel's
  { weight: 2, arbitrary: fc.integer({ min: ramBytes, max: place.ioApic - 16 }) },
  { weight: 1, arbitrary: fc.integer({ min: place.localApic + 0x1000, max: 0xffff_fff0 }) },
);
/** Ports that do not end the machine: it is to come to its last instruction. */
const harmless = port
  .filter((number) => ![0x61, 0x62, 0x63, 0x64].includes(number))
  .filter((number) => number < 0xf1 || number > 0xf4)
  .filter((number) => number < 0xcf6 || number > 0xcf9);

const guestStep = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      on: fc.constant('port' as const),
      port: harmless,
      size,
      value,
      out: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      on: fc.constant('string' as const),
      port: harmless,
      size,
      count: fc.integer({ min: 0, max: 40 }),
      out: fc.boolean(),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      on: fc.constant('memory' as const),
      address,
      size: fc.constantFrom<1 | 2 | 4 | 8>(1, 2, 4, 8),
      value: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      out: fc.boolean(),
    }),
  },
);
type GuestStep = typeof guestStep extends fc.Arbitrary<infer Value> ? Value : never;

const bytesOf = (number: number | bigint, count: 2 | 4 | 8): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(number));
  return bytes.subarray(0, count);
};

/** A step as machine code; AT&T names of what it is made of. */
function assemble(step: GuestStep): Buffer {
  const wide = step.size === 2 ? [0x66] : [];
  const byte = Number(step.size > 1); // bit 0 of these opcodes: more than a byte
  if (step.on === 'memory') {
    const rex = step.size === 8 ? [0x48] : [];
    const mov = (step.out ? 0x88 : 0x8a) | byte;
    return Buffer.concat([
      Buffer.of(0x48, 0xb8), // movabs $value, %rax
      bytesOf(step.value, 8),
      Buffer.of(0x48, 0xbb), // movabs $address, %rbx
      bytesOf(step.address, 8),
      Buffer.of(...wide, ...rex, mov, 0x03), // mov %rax, (%rbx) or back
    ]);
  }
  const dx = Buffer.concat([Buffer.of(0x66, 0xba), bytesOf(step.port, 2)]); // mov $port, %dx
  if (step.on === 'port') {
    const io = (step.out ? 0xee : 0xec) | byte;
    return Buffer.concat([dx, Buffer.of(0xb8), bytesOf(step.value, 4), Buffer.of(...wide, io)]);
  }
  const [pointer, io] = step.out ? [0xbe, 0x6e | byte] : [0xbf, 0x6c | byte];
  return Buffer.concat([
    dx,
    Buffer.of(0xb9), // mov $count, %ecx
    bytesOf(step.count, 4),
    Buffer.of(pointer), // mov $buffer, %esi or %edi
    bytesOf(bufferAt, 4),
    Buffer.of(0xf3, ...wide, io), // rep outs, rep ins
  ]);
}

const ending = Buffer.of(0xb0, status, 0xe6, 0xf4, 0xf4); // mov $status, %al; out %al, $0xf4; hlt

/** Runs the steps as a kernel at its first instruction, in long mode, with a disk and a console behind virtio. */
async function runGuest(
  context: TestContext,
  steps: readonly GuestStep[],
  disk: number,
): Promise<LinuxResult> {
  using ends = new DisposableStack();
  const [toGuest, fromGuest] = [pipe({ nonBlocking: true }), pipe({ nonBlocking: true })];
  for (const end of [...toGuest, ...fromGuest]) ends.use(end);
  const code = Buffer.concat([...steps.map(assemble), ending]);
  assert.ok(codeAt + code.length < bufferAt);
  using machine = createLinuxMachine({
    kernel: {
      kind: 'vmlinux',
      version: undefined,
      parts: [{ at: codeAt, bytes: code }],
      entry: codeAt,
      needs: [{ at: codeAt, length: bufferAt + bufferBytes - codeAt }],
      header: new Uint8Array(),
      initrdMax: ramBytes,
      commandLineMax: 2047,
    },
    memory: ramBytes,
    devices: [
      { kind: 'block', fd: disk, readOnly: false },
      { kind: 'console', output: fromGuest[1].fd, input: toGuest[0].fd },
    ],
  });
  machine.output.resume();
  const quiet = machine.ram.slice(BigInt(untouched.from), untouched.to - untouched.from);
  assert.ok(quiet);
  quiet.fill(canary);
  const result = await machine.run({ limitMs: 120_000, signal: context.signal });
  assert.ok(
    Buffer.from(quiet).every((byte) => byte === canary),
    'RAM that nobody named was written',
  );
  return result;
}

suite('a guest that does anything', { skip: withoutKvm }, () => {
  test('comes to its last instruction, whatever it does to ports and devices, and leaves nothing', async (context) => {
    const directory = mkdtempSync(join(tmpdir(), 'carrel-board-fuzz-'));
    context.after(() => rmSync(directory, { recursive: true }));
    const path = join(directory, 'disk');
    const content = Buffer.alloc(8 * 512, canary);
    writeFileSync(path, content);
    const disk = openSync(path, 'r+');
    context.after(() => closeSync(disk));
    const before = holdings().fds;
    let served = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(guestStep, { minLength: 50, maxLength: 300, size: 'max' }), async (steps) => {
        const { end, vcpus } = await runGuest(context, steps, disk);
        assert.deepEqual(end, { kind: 'exit', status });
        const { exits } = vcpus[0] ?? assert.fail('no vCPU');
        served += (exits.byReason['IO'] ?? 0) + (exits.byReason['MMIO'] ?? 0);
      }),
      { numRuns: fuzzRuns(15) },
    );
    context.diagnostic(`${served} exits served`);
    assert.ok(served > 500);
    assert.deepEqual(readFileSync(path), content);
    assert.equal(holdings().fds, before);
  });
});
