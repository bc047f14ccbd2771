import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { until } from '#base/deadline.ts';
import { answer, ring } from '#host/eventfd.ts';
import { pipe } from '#host/fds.ts';
import { launch } from '#host/launch.ts';
import { syscall, trySyscall } from '#host/syscalls.ts';
import { GuardedRam } from '../testing-ram.ts';
import { Driver } from '../testing.ts';
import { openDoors } from './door.ts';
import type { DeviceSpec, Remark } from './order.ts';
import { startDevices } from './thread.ts';

const directory = mkdtempSync(join(tmpdir(), 'virtio-thread-'));
after(() => rmSync(directory, { recursive: true }));

const limitMs = 120_000;

/** Devices in their thread, and a driver for each in ours, through the doors of vCPU 0. */
function start(devices: readonly DeviceSpec[], vcpus = 1) {
  const ram = new GuardedRam(2 ** 20);
  const remarks: Remark[] = [];
  // in two pieces, as RAM below and above the hole is
  const { buffer, offset, length } = ram.handle;
  const half = length / 2;
  const thread = startDevices({
    ram: [
      { at: 0, handle: { buffer, offset, length: half } },
      { at: half, handle: { buffer, offset: offset + half, length: half } },
    ],
    devices,
    vcpus,
    onRemark: (remark) => remarks.push(remark),
  });
  const drivers = openDoors(thread.doors, 0).map((door) => new Driver(door, ram));
  return { thread, ram, remarks, drivers };
}

const descriptors = (): number => readdirSync('/proc/self/fd').length;

const bells = async (fd: number, what: string): Promise<number> =>
  await until(limitMs, what, () => answer(fd) || undefined);

function makeDisk(bytes: Uint8Array): { path: string; fd: number } {
  const path = join(directory, 'disk');
  writeFileSync(path, bytes);
  return { path, fd: openSync(path, 'r+') };
}

function header(driver: Driver, type: number, sector: number): number {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32LE(type);
  bytes.writeUInt32LE(sector, 8);
  return driver.place(bytes);
}

test('a disk in a thread: registers through a door, notifications and interrupts through eventfds', async () => {
  const { path, fd } = makeDisk(Buffer.alloc(8192, 'disk'));
  await using running = start([{ kind: 'block', fd, readOnly: false, id: 'one' }]).thread;
  const { thread, drivers, ram } = start([{ kind: 'block', fd, readOnly: false, id: 'two' }]);
  await using _thread = thread;
  assert.notEqual(running.placed[0]?.irq, thread.placed[0]?.irq);
  const [driver] = drivers;
  const irq = thread.placed[0]?.irq ?? -1;
  assert.ok(driver);
  assert.equal(driver.mmio.name, 'virtio-blk 0');
  driver.negotiate();
  const queue = driver.makeQueue(0);
  driver.ready();
  assert.equal(driver.mmio.read(0x100, 4), 16n);
  for (let round = 0; round < 50; round += 1) {
    const data = Buffer.alloc(512, round);
    const out = driver.place(data);
    const into = driver.allocate(512);
    const status = driver.place(Uint8Array.of(9, 9));
    queue.add([
      { at: header(driver, 1, round % 16), bytes: 16 },
      { at: out, bytes: 512 },
      { at: status, bytes: 1, write: true },
    ]);
    queue.add([
      { at: header(driver, 0, round % 16), bytes: 16 },
      { at: into, bytes: 512, write: true },
      { at: status + 1, bytes: 1, write: true },
    ]);
    queue.interruptAfter = queue.availIndex - 1;
    queue.kick();
    assert.equal(await bells(irq, 'an interrupt'), 1);
    assert.equal(driver.read32(0x060), 1);
    driver.acknowledge();
    assert.equal(driver.read32(0x060), 0);
    assert.deepEqual(driver.contents(status, 2), Buffer.from([0, 0]));
    assert.deepEqual(driver.contents(into, 512), data);
    assert.equal(queue.collect().length, 2);
  }
  assert.deepEqual(readFileSync(path).subarray(0, 512), Buffer.alloc(512, 48));
  ram.assertIntact();
  await thread.stop();
  await running.stop();
  closeSync(fd);
});

test('what a driver does wrong is told by name, and the next one that rings too soon does no harm', async () => {
  const { fd } = makeDisk(new Uint8Array(512));
  const { thread, drivers, remarks } = start([{ kind: 'block', fd, readOnly: true }]);
  await using _thread = thread;
  const [driver] = drivers;
  const [bell = -1] = thread.placed[0]?.doorbells ?? [];
  assert.ok(driver);
  ring(bell);
  driver.negotiate();
  const queue = driver.makeQueue(0);
  driver.ready();
  queue.publish(500);
  queue.notify();
  await until(limitMs, 'a remark', () => (remarks.length > 0 ? true : undefined));
  assert.equal(driver.status & 64, 64);
  assert.equal(remarks[0]?.device, 'virtio-blk 0');
  assert.match(remarks[0]?.text ?? '', /^virtio-blk 0 needs a reset: available index/);
  await thread.stop();
  closeSync(fd);
});

test('two vCPUs read registers at the same time, each by its own mailbox', async () => {
  const { fd } = makeDisk(new Uint8Array(512));
  const { thread, drivers } = start(
    [
      { kind: 'block', fd, readOnly: true },
      { kind: 'block', fd, readOnly: true },
    ],
    2,
  );
  await using _thread = thread;
  const other = new Worker(
    `import { workerData } from 'node:worker_threads';
     const { openDoors } = await import(workerData.door);
     const [, second] = openDoors(workerData.doors, 1);
     let wrong = 0;
     for (let round = 0; round < 500; round += 1) {
       second.write(0x014, 4, BigInt(round % 2));
       if (second.read(0x010, 4) !== (round % 2 === 1 ? 1n : BigInt(0x30000000 | 0x266))) wrong += 1;
     }
     process.exit(wrong > 0 ? 1 : 0);`,
    {
      eval: true,
      execArgv: ['--input-type=module'],
      workerData: { doors: thread.doors, door: join(import.meta.dirname, 'door.ts') },
    },
  );
  const ended = new Promise<number>((resolve, reject) => {
    other.once('exit', resolve);
    other.once('error', reject);
  });
  const [first] = drivers;
  assert.ok(first);
  for (let round = 0; round < 500; round += 1) {
    assert.equal(first.read32(0x000), 0x74726976);
    assert.equal(first.offered, 0x1_3000_0266n);
  }
  assert.equal(await ended, 0);
  await thread.stop();
  closeSync(fd);
});

/** The ends of two pipes that a console is given, and ours of them. */
function makeLine() {
  const [outputRead, outputWrite] = pipe({ nonBlocking: true });
  const [inputRead, inputWrite] = pipe({ nonBlocking: true });
  const buffer = new Uint8Array(65_536);
  return {
    spec: { kind: 'console', output: outputWrite.fd, input: inputRead.fd } as const,
    type: (text: string) => void syscall('write', inputWrite.fd, Buffer.from(text), text.length),
    read(): Buffer {
      const result = trySyscall('read', outputRead.fd, buffer, buffer.length);
      return Buffer.from(buffer.subarray(0, Math.max(0, result)));
    },
    close() {
      for (const end of [outputRead, outputWrite, inputRead, inputWrite]) end.close();
    },
  };
}

test('a terminal in a thread: a reader that does not keep up slows the guest down, and no byte is lost', async () => {
  const line = makeLine();
  const { thread, drivers } = start([line.spec]);
  await using _thread = thread;
  const [driver] = drivers;
  assert.ok(driver);
  driver.negotiate();
  const receive = driver.makeQueue(0);
  const transmit = driver.makeQueue(1, 64);
  driver.ready();
  const chunk = 32_768;
  const at = driver.place(Uint8Array.from({ length: chunk }, (_, index) => index % 251));
  for (let count = 0; count < 16; count += 1) transmit.add([{ at, bytes: chunk }]);
  transmit.kick();
  // nobody reads: the pipe takes 64 KiB, the station as much and one chain, and the rest stays with the guest
  await until(limitMs, 'the first chains', () => (transmit.usedIndex >= 4 ? true : undefined));
  driver.read32(0x070); // served after all that was before it
  assert.ok(transmit.usedIndex <= 6, String(transmit.usedIndex));
  const parts: Buffer[] = [];
  await until(limitMs, 'all that was printed', () => {
    parts.push(line.read());
    return parts.reduce((sum, { length }) => sum + length, 0) === 16 * chunk ? true : undefined;
  });
  assert.ok(Buffer.concat(parts).every((byte, index) => byte === (index % chunk) % 251));
  assert.equal(transmit.collect().length, 16);

  const into = driver.allocate(16);
  receive.add([{ at: into, bytes: 16, write: true }]);
  receive.kick();
  line.type('hello\n');
  await until(limitMs, 'what was typed', () => (receive.usedIndex === 1 ? true : undefined));
  assert.equal(driver.contents(into, 6).toString(), 'hello\n');
  await thread.stop();
  line.close();
});

test('a thread of devices that has ended leaves no descriptor', async () => {
  const { fd } = makeDisk(new Uint8Array(512));
  const once = async (): Promise<void> => {
    const { thread, drivers } = start([{ kind: 'block', fd, readOnly: true }]);
    assert.equal(drivers[0]?.read32(0x004), 2);
    await thread.stop();
    await thread.stop();
  };
  await once();
  const before = descriptors();
  for (let round = 0; round < 3; round += 1) await once();
  assert.equal(descriptors(), before);
  closeSync(fd);
});

test('a process may exit while its devices wait', async () => {
  const program = `
    import { startDevices } from '${import.meta.dirname}/thread.ts';
    import { openDoors } from '${import.meta.dirname}/door.ts';
    import { GuestMemory } from '#kvm/memory.ts';
    import { openSync } from 'node:fs';
    const { handle } = GuestMemory.allocate(4096);
    const fd = openSync('${join(directory, 'disk')}', 'r');
    const devices = startDevices({ ram: [{ at: 0, handle }], vcpus: 1, devices: [{ kind: 'block', fd, readOnly: true }] });
    if (openDoors(devices.doors, 0)[0].read(4, 4) === 2n) process.exit(7);`;
  makeDisk(new Uint8Array(512));
  const { status } = await launch([process.execPath, '--input-type=module-typescript', '-e', program], {
    cwd: join(import.meta.dirname, '../../../..'),
    timeoutMs: 60_000,
  });
  assert.equal(status, 7);
});
