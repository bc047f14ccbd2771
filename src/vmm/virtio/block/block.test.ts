import assert from 'node:assert/strict';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import * as fc from 'fast-check';
import { type Buffer as GuestBuffer, type DriverQueue, TestDriver } from '../testing.ts';
import { createBlock } from './block.ts';
import { type BlockStore, fileStore } from './store.ts';

const IN = 0;
const OUT = 1;
const GET_LIFETIME = 10;
const FLUSH = 4;
const GET_ID = 8;
const OK = 0;
const IOERR = 1;
const UNSUPP = 2;

const featureFlush = 1n << 9n;
const sectors = 64;

const directory = mkdtempSync(join(tmpdir(), 'virtio-blk-'));
after(() => rmSync(directory, { recursive: true }));

/** What a disk of so many sectors has in the beginning: each byte tells where it is. */
const pattern = Buffer.from(
  Uint8Array.from({ length: sectors * 512 }, (_, index) => index * 7 + (index >> 9)),
);

interface Disk extends Disposable {
  readonly driver: TestDriver;
  readonly queue: DriverQueue;
  readonly path: string;
  readonly fd: number;
  readonly calls: string[];
  readonly errors: string[];
  /** One request, there and back. */
  request(type: number, sector: bigint | number, data?: readonly GuestBuffer[]): Outcome;
}

interface Outcome {
  readonly status: number | undefined;
  readonly written: number;
}

let disks = 0;

function makeDisk({
  readOnly = false,
  without = 0n,
  extraBytes = 0,
}: { readOnly?: boolean; without?: bigint; extraBytes?: number } = {}): Disk {
  disks += 1;
  const path = join(directory, `disk-${disks}`);
  writeFileSync(path, Buffer.concat([pattern, Buffer.alloc(extraBytes)]));
  const fd = openSync(path, readOnly ? 'r' : 'r+');
  const file = fileStore(fd, { readOnly });
  const calls: string[] = [];
  // the real file, and a list of what was asked of it
  const store: BlockStore = {
    ...file,
    read: (at, into) => (calls.push(`read ${at}`), file.read(at, into)),
    write: (at, from) => (calls.push(`write ${at}`), file.write(at, from)),
    flush: () => (calls.push('flush'), file.flush()),
  };
  const errors: string[] = [];
  const device = createBlock({
    store,
    id: 'serial-1',
    onError: (what, errno) => errors.push(`${what} ${errno}`),
  });
  const driver = new TestDriver({ device });
  driver.negotiate({ without });
  const queue = driver.makeQueue(0, 128);
  driver.ready();
  return {
    driver,
    queue,
    path,
    fd,
    calls,
    errors,
    request(type, sector, data = []) {
      const header = driver.place(headerOf(type, sector));
      const status = driver.place(Uint8Array.of(0xee));
      queue.add([{ at: header, bytes: 16 }, ...data, { at: status, bytes: 1, write: true }]);
      queue.kick();
      const [used] = queue.collect();
      assert.ok(used, driver.mmio.fault?.found);
      return { status: driver.contents(status, 1)[0], written: used.written };
    },
    [Symbol.dispose]: () => closeSync(fd),
  };
}

function headerOf(type: number, sector: bigint | number): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(type);
  header.writeBigUInt64LE(BigInt(sector), 8);
  return header;
}

test('5.2.4: capacity in whole sectors, limits of segments, and the size of a block', () => {
  using disk = makeDisk({ extraBytes: 511 });
  const { mmio } = disk.driver;
  assert.equal(mmio.read(0x100, 4), BigInt(sectors));
  assert.equal(mmio.read(0x104, 4), 0n);
  assert.equal(mmio.read(0x108, 4), 131072n);
  assert.equal(mmio.read(0x10c, 4), 254n);
  assert.equal(mmio.read(0x114, 4), 512n);
  assert.equal(disk.driver.read32(0x008), 2);
});

test('5.2.6: a read brings what is in the file, and says how much it wrote', () => {
  using disk = makeDisk();
  const at = disk.driver.allocate(1024);
  assert.deepEqual(disk.request(IN, 3, [{ at, bytes: 1024, write: true }]), { status: OK, written: 1025 });
  assert.deepEqual(disk.driver.contents(at, 1024), pattern.subarray(3 * 512, 5 * 512));
});

test('5.2.6: a write is in the file when it is done', () => {
  using disk = makeDisk();
  const data = Buffer.alloc(1536, 'carrel');
  const at = disk.driver.place(data);
  assert.deepEqual(disk.request(OUT, 61, [{ at, bytes: 1536 }]), { status: OK, written: 1 });
  assert.deepEqual(readFileSync(disk.path), Buffer.concat([pattern.subarray(0, 61 * 512), data]));
});

test('2.7.4.1: a request may be cut anywhere: a header in single bytes, data and status in one buffer', () => {
  using disk = makeDisk();
  const header = disk.driver.place(headerOf(IN, 1));
  const data = disk.driver.allocate(513);
  disk.queue.add([
    ...Array.from({ length: 16 }, (_, index) => ({ at: header + index, bytes: 1 })),
    { at: data, bytes: 100, write: true },
    { at: data + 100, bytes: 413, write: true },
  ]);
  disk.queue.kick();
  assert.equal(disk.queue.collect()[0]?.written, 513);
  assert.deepEqual(disk.driver.contents(data, 512), pattern.subarray(512, 1024));
  assert.equal(disk.driver.contents(data + 512, 1)[0], OK);
});

test('a request in an indirect table, of hundred pieces', () => {
  using disk = makeDisk();
  const header = disk.driver.place(headerOf(IN, 2));
  const data = disk.driver.allocate(100 * 256);
  const status = disk.driver.allocate(1);
  disk.queue.addIndirect([
    { at: header, bytes: 16 },
    ...Array.from({ length: 100 }, (_, index) => ({
      at: data + (99 - index) * 256,
      bytes: 256,
      write: true,
    })),
    { at: status, bytes: 1, write: true },
  ]);
  disk.queue.kick();
  assert.equal(disk.queue.collect()[0]?.written, 100 * 256 + 1);
  for (let piece = 0; piece < 100; piece += 1) {
    const from = 1024 + piece * 256;
    assert.deepEqual(
      disk.driver.contents(data + (99 - piece) * 256, 256),
      pattern.subarray(from, from + 256),
    );
  }
});

for (const [what, type, sector, bytes] of [
  ['a read of the sector behind the last', IN, sectors, 512],
  ['a read that ends behind the last sector', IN, sectors - 1, 1024],
  ['a read from the last sector that there can be', IN, 2n ** 64n - 1n, 512],
  ['a read whose end is small again', IN, 2n ** 64n - 1n, 1024],
  ['a read whose offset in bytes is small again', IN, 2n ** 55n, 512],
  ['a read of half a sector', IN, 0, 256],
  ['a write behind the last sector', OUT, sectors, 512],
  ['a write of half a sector', OUT, 0, 768],
] as const)
  test(`5.2.6.1: ${what} is IOERR, and the file is not touched`, () => {
    using disk = makeDisk();
    const at = disk.driver.allocate(bytes);
    const { status, written } = disk.request(type, sector, [{ at, bytes, write: type === IN }]);
    assert.equal(status, IOERR);
    // 2.7.8.2: no byte of the data was written, so none can be claimed; a write has only its status
    assert.equal(written, type === IN ? 0 : 1);
    assert.deepEqual(disk.calls, []);
    assert.deepEqual(readFileSync(disk.path), Buffer.from(pattern));
  });

test('5.2.6.2: a disk that is offered as read-only refuses writes and keeps its bytes', () => {
  using disk = makeDisk({ readOnly: true });
  assert.equal(disk.driver.offered & (1n << 5n), 1n << 5n);
  const at = disk.driver.allocate(512);
  assert.equal(disk.request(OUT, 0, [{ at, bytes: 512 }]).status, IOERR);
  assert.equal(disk.request(IN, 0, [{ at, bytes: 512, write: true }]).status, OK);
  assert.deepEqual(disk.calls, ['read 0']);
});

test('5.2.6.2: with FLUSH, the file is synchronized when the driver says so', () => {
  using disk = makeDisk();
  const at = disk.driver.allocate(512);
  disk.request(OUT, 0, [{ at, bytes: 512 }]);
  assert.equal(disk.request(FLUSH, 0).status, OK);
  assert.deepEqual(disk.calls, ['write 0', 'flush']);
});

test('5.2.6.2: a driver without FLUSH has each write on the disk before it is done', () => {
  using disk = makeDisk({ without: featureFlush });
  const at = disk.driver.allocate(512);
  disk.request(OUT, 1, [{ at, bytes: 512 }]);
  assert.equal(disk.request(FLUSH, 0).status, UNSUPP);
  assert.deepEqual(disk.calls, ['write 512', 'flush']);
});

test('5.2.6: the serial number has twenty bytes, filled with zeros', () => {
  using disk = makeDisk();
  const at = disk.driver.place(Buffer.alloc(20, 0xff));
  assert.deepEqual(disk.request(GET_ID, 0, [{ at, bytes: 20, write: true }]), { status: OK, written: 21 });
  assert.deepEqual(disk.driver.contents(at, 20), Buffer.from('serial-1\0\0\0\0\0\0\0\0\0\0\0\0'));
  const short = disk.driver.allocate(6);
  assert.equal(disk.request(GET_ID, 0, [{ at: short, bytes: 6, write: true }]).written, 7);
  assert.equal(disk.driver.contents(short, 6).toString(), 'serial');
});

test('5.2.6.2: a request of an unknown type is UNSUPP', () => {
  using disk = makeDisk();
  const at = disk.driver.allocate(24);
  assert.deepEqual(disk.request(GET_LIFETIME, 0, [{ at, bytes: 24, write: true }]), {
    status: UNSUPP,
    written: 0,
  });
  assert.equal(disk.request(0xffff_ffff, 0).status, UNSUPP);
});

test('a file that has become shorter is IOERR and told to the operator; the disk goes on', () => {
  using disk = makeDisk();
  ftruncateSync(disk.fd, 512);
  const at = disk.driver.allocate(1024);
  assert.equal(disk.request(IN, 0, [{ at, bytes: 1024, write: true }]).status, IOERR);
  assert.equal(disk.request(IN, 0, [{ at, bytes: 512, write: true }]).status, OK);
  assert.deepEqual(disk.errors, ['read EIO']);
});

test('a file that cannot be written is IOERR with its reason', () => {
  disks += 1;
  const path = join(directory, `disk-${disks}`);
  writeFileSync(path, pattern);
  const fd = openSync(path, 'r');
  const errors: string[] = [];
  const device = createBlock({
    store: fileStore(fd),
    onError: (what, errno) => errors.push(`${what} ${errno}`),
  });
  const driver = new TestDriver({ device });
  driver.negotiate();
  const queue = driver.makeQueue(0);
  driver.ready();
  const data = driver.allocate(512);
  const status = driver.allocate(1);
  const header = driver.place(headerOf(OUT, 0));
  queue.add([
    { at: header, bytes: 16 },
    { at: data, bytes: 512 },
    { at: status, bytes: 1, write: true },
  ]);
  queue.kick();
  closeSync(fd);
  assert.equal(driver.contents(status, 1)[0], IOERR);
  assert.deepEqual(errors, ['write EBADF']);
});

for (const [what, buffers] of [
  ['no room for a status', [{ at: 0x1000, bytes: 16 }]],
  [
    'a header that is too short',
    [
      { at: 0x1000, bytes: 15 },
      { at: 0x1000, bytes: 1, write: true },
    ],
  ],
  ['no bytes at all', [{ at: 0x1000, bytes: 0 }]],
] as const)
  test(`5.2.6: a chain with ${what} is no request: the device needs a reset, and works after it`, () => {
    using disk = makeDisk();
    disk.queue.add(buffers);
    disk.queue.kick();
    assert.equal(disk.driver.mmio.fault?.fault, 'request shape');
    assert.equal(disk.queue.usedIndex, 0);
    disk.driver.negotiate();
    const queue = disk.driver.makeQueue(0);
    disk.driver.ready();
    const header = disk.driver.place(headerOf(FLUSH, 0));
    const status = disk.driver.place(Uint8Array.of(0xee));
    queue.add([
      { at: header, bytes: 16 },
      { at: status, bytes: 1, write: true },
    ]);
    queue.kick();
    assert.equal(disk.driver.contents(status, 1)[0], OK);
  });

/** A request of the model: sectors read, or written with one byte all over. */
const step = fc.record({
  write: fc.boolean(),
  sector: fc.integer({ min: 0, max: sectors + 1 }),
  count: fc.integer({ min: 0, max: 8 }),
  fill: fc.integer({ min: 0, max: 255 }),
  cuts: fc.integer({ min: 1, max: 5 }),
  indirect: fc.boolean(),
  /** Tell the device after this one, and look at what it has done. */
  kick: fc.boolean(),
});

test('whatever is read and written, in batches or one by one, is what a disk in memory would have', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      using disk = makeDisk();
      const { driver, queue } = disk;
      const model = Buffer.from(pattern);
      const checks: (() => void)[] = [];
      const settle = (): void => {
        queue.kick();
        assert.equal(queue.collect().length, checks.length);
        for (const check of checks.splice(0)) check();
      };
      for (const { write, sector, count, fill, cuts, indirect, kick } of steps) {
        const bytes = count * 512;
        const at = driver.place(Buffer.alloc(bytes, fill));
        const status = driver.place(Uint8Array.of(0xee));
        const piece = Math.ceil(bytes / cuts);
        const data = Array.from({ length: cuts }, (_, index) => ({
          at: at + Math.min(index * piece, bytes),
          bytes: Math.max(0, Math.min(piece, bytes - index * piece)),
          write: !write,
        }));
        const buffers = [
          { at: driver.place(headerOf(write ? OUT : IN, sector)), bytes: 16 },
          ...data,
          { at: status, bytes: 1, write: true },
        ];
        if (indirect) queue.addIndirect(buffers);
        else queue.add(buffers);
        const fits = sector + count <= sectors;
        if (fits && write) model.fill(fill, sector * 512, sector * 512 + bytes);
        const expected = Buffer.from(model.subarray(sector * 512, sector * 512 + bytes));
        checks.push(() => {
          assert.equal(driver.contents(status, 1)[0], fits ? OK : IOERR);
          if (fits && !write) assert.deepEqual(driver.contents(at, bytes), expected);
        });
        if (kick || checks.length > 10) settle();
      }
      settle();
      assert.deepEqual(readFileSync(disk.path), model);
      driver.ram.assertIntact();
      rmSync(disk.path);
    }),
    { numRuns: 200 },
  );
});
