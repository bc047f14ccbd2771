/**
 * Guests of the kit made of anything: bytes that are no program, and programs of port accesses, accesses to the disk's
 * registers and to memory that is not there, with any values in the registers. Every run ends and says how, within
 * its limits; nothing of the host is touched beside the disk and the share.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { fuzzRuns } from '#base/fuzz.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import { diskAddress } from './disk.ts';
import { describeEnd } from './end.ts';
import { type PortMap, portMaps } from './hypercalls/maps.ts';
import { flatImage } from './image/image.ts';
import { windowBytes } from './layout.ts';
import { createMachine } from './machine.ts';
import { rangeBytes } from './virtio/registers.ts';

const bytesOf = (number: number | bigint, count: 2 | 4 | 8): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(number));
  return bytes.subarray(0, count);
};

const word = fc.oneof(
  fc.integer({ min: 0, max: 300 }).map(BigInt),
  fc.bigInt({ min: 0n, max: BigInt(2 * windowBytes) }),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);
/** movabs $word, one of %rax to %rdi; not %rsp. */
const load = fc
  .tuple(fc.constantFrom(0, 1, 2, 3, 5, 6, 7), word)
  .map(([register, number]) => Buffer.concat([Buffer.of(0x48, 0xb8 + register), bytesOf(number, 8)]));

/** in or out of 1, 2 or 4 bytes, some of them with rep: mostly where this map has a hypercall. */
const portOf = ({ bindings }: PortMap): fc.Arbitrary<Buffer> =>
  fc
    .tuple(
      fc.oneof(
        {
          weight: 20,
          arbitrary: fc
            .constantFrom(...bindings)
            .map((each) => [each.port, each.direction === 'out'] as const),
        },
        { weight: 1, arbitrary: fc.tuple(fc.integer({ min: 0, max: 0xffff }), fc.boolean()) },
      ),
      fc.constantFrom(0xec, 0xed, 0x6c, 0x6d),
      fc.constantFrom([], [0x66], [0xf3]),
    )
    .map(([[number, isOut], opcode, prefix]) =>
      Buffer.concat([
        Buffer.of(0x66, 0xba), // mov $number, %dx
        bytesOf(number, 2),
        Buffer.of(...prefix, opcode | (isOut ? 2 : 0)),
      ]),
    );

/** Puts the disk's registers at linear 0x200000, as disk_map of guests/virtio.h does: the second entry of the PD. */
const mapDisk = Buffer.concat([
  Buffer.of(0x48, 0xb8), // movabs $entry, %rax
  bytesOf(BigInt(diskAddress) | 0x93n, 8),
  Buffer.of(0x48, 0x89, 0x04, 0x25), // mov %rax, 0x4008
  bytesOf(0x4008, 4),
  Buffer.of(0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8), // mov %cr3, %rax and back
]);
const diskAt = 0x20_0000;

/** mov between %rcx and (%rbx), in any size: mostly the disk's registers. */
const memory = fc
  .tuple(
    fc.oneof(
      {
        weight: 20,
        arbitrary: fc.integer({ min: -8, max: rangeBytes + 8 }).map((at) => BigInt(diskAt + at)),
      },
      { weight: 1, arbitrary: word },
    ),
    fc.constantFrom([0x88], [0x8a], [0x66, 0x89], [0x66, 0x8b], [0x89], [0x8b], [0x48, 0x89], [0x48, 0x8b]),
  )
  .map(([at, mov]) => Buffer.concat([Buffer.of(0x48, 0xbb), bytesOf(at, 8), Buffer.of(...mov, 0x0b)]));

const anything = fc.uint8Array({ minLength: 1, maxLength: 64 }).map((bytes) => Buffer.from(bytes));
const programOf = (map: PortMap): fc.Arbitrary<Buffer> =>
  fc.oneof(
    { weight: 1, arbitrary: anything },
    {
      weight: 3,
      arbitrary: fc
        .array(
          fc.oneof(
            { weight: 12, arbitrary: load },
            { weight: 12, arbitrary: portOf(map) },
            { weight: 9, arbitrary: memory },
            { weight: 1, arbitrary: anything },
          ),
          { maxLength: 40, size: 'max' },
        )
        .map((parts) => Buffer.concat([mapDisk, ...parts, Buffer.of(0xf4)])),
    },
  );

const guest = fc.constantFrom(...portMaps).chain((map) =>
  fc.record({
    code: programOf(map),
    ports: fc.constant(map.name),
    // ports are the same in all; page tables are those of long mode
    mode: fc.constantFrom('long' as const, 'long' as const, 'protected' as const, 'real' as const),
    vmcall: fc.constantFrom('host' as const, 'model' as const),
    trace: fc.boolean(),
  }),
);

test('any guest ends and says how; the host stays as it was', { skip: withoutKvm }, async (context) => {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-guest-fuzz-'));
  context.after(() => rmSync(directory, { recursive: true }));
  const [share, outside, disk] = ['share', 'outside', 'disk'].map((name) => join(directory, name));
  assert.ok(share !== undefined && outside !== undefined && disk !== undefined);
  mkdirSync(share);
  writeFileSync(join(share, 'a'), 'content');
  writeFileSync(outside, 'nobody’s');
  writeFileSync(disk, new Uint8Array(8 * 512));
  const ends = new Map<string, number>();
  /** Accesses that were served: the others are faults. */
  let atDevices = 0;
  const before = holdings();
  await fc.assert(
    fc.asyncProperty(guest, async ({ code, mode, ports, vmcall, trace }) => {
      using machine = createMachine({ mode, image: flatImage(code), vmcall });
      const [result] = await machine.run({
        ports,
        share,
        trace,
        disk: { path: disk },
        limitMs: 50,
        outputLimit: 10_000,
      });
      assert.ok(result);
      assert.notEqual(describeEnd(result.end), '');
      assert.ok(Buffer.byteLength(result.output) <= 3 * 10_000); // a byte that is no UTF-8 becomes three
      atDevices += Math.max(0, (result.exits.byReason['MMIO'] ?? 0) - 1);
      ends.set(result.end.kind, (ends.get(result.end.kind) ?? 0) + 1);
    }),
    { numRuns: fuzzRuns(300) },
  );
  context.diagnostic(
    `${[...ends].map(([kind, count]) => `${kind} ${count}`).join(', ')}; ${atDevices} MMIO exits`,
  );
  assert.ok(atDevices > 0, 'no guest came to the disk');
  assert.ok(ends.size >= 3, 'the guests are all alike');
  assert.equal(readFileSync(outside, 'utf8'), 'nobody’s');
  assert.deepEqual(readdirSync(directory).toSorted(), ['disk', 'outside', 'share']);
  assert.equal(statSync(disk).size, 8 * 512);
  const { fds, mappings } = holdings();
  assert.deepEqual([fds, mappings], [before.fds, before.mappings]);
});
