/** virtio-blk, driven by a guest on the real /dev/kvm: registers by MMIO exits, rings in the guest's own memory. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { withoutKvm } from '#kvm/testing.ts';
import { launch } from '#host/launch.ts';
import { loadGuest } from '#vmm/image/compile.ts';
import { createMachine, type VcpuResult } from '#vmm/machine.ts';
import type { ModeName } from '#vmm/modes/mode.ts';
import { modes } from '#vmm/modes/table.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const example = join(root, 'guests/examples/virtio-blk.c');
const sectors = 64;

suite('a guest with a disk', { skip: withoutKvm }, () => {
  const directory = mkdtempSync(join(tmpdir(), 'virtio-guest-'));
  const image = join(directory, 'disk.img');
  after(() => rmSync(directory, { recursive: true }));

  /** An image whose first sector is a line of text; the others are numbered. */
  function makeImage(): Buffer {
    const bytes = Buffer.alloc(sectors * 512);
    for (let sector = 1; sector < sectors; sector += 1) bytes.fill(sector, sector * 512, (sector + 1) * 512);
    bytes.write('Hello from the disk\n');
    writeFileSync(image, bytes);
    return bytes;
  }

  interface Case {
    readonly guest: string;
    readonly mode?: ModeName;
    readonly readOnly?: boolean;
    readonly vcpus?: number;
  }

  async function run({ guest, mode = 'long', readOnly = false, vcpus = 1 }: Case): Promise<VcpuResult> {
    using machine = createMachine({ mode, image: await loadGuest(guest, modes[mode]), vcpus });
    const [result] = await machine.run({ disk: { path: image, readOnly } });
    assert.ok(result);
    return result;
  }

  /** A guest of a test's own: `body` after the disk is open. */
  function guestOf(body: string): string {
    const path = join(directory, 'guest.c');
    writeFileSync(
      path,
      `#include "carrel.h"\n#include "virtio.h"\nstatic char sector[512];\nint main(void) { if (disk_open() < 0) return -1; ${body} }\n`,
    );
    return path;
  }

  for (const mode of ['long', 'protected'] as const)
    test(`it reads and writes sectors (${mode})`, async () => {
      const before = makeImage();
      const { output, end, exits, registers, remarks } = await run({ guest: example, mode });
      assert.equal(end.kind, 'halted');
      assert.equal(output, 'Hello from the disk\n');
      assert.equal(Number(registers.rax), sectors / 2);
      assert.deepEqual(remarks, []);
      const half = before.subarray(0, (sectors / 2) * 512);
      assert.deepEqual(readFileSync(image), Buffer.concat([half, half]));
      // one exit for a request: the notification; those of opening the disk do not depend on its size
      const requests = 1 + sectors + 1;
      const opening = (exits.byReason['MMIO'] ?? 0) - requests;
      assert.ok(opening > 20 && opening < 40, String(opening));
    });

  test('through the command line, with the disk’s bytes as its outcome', async () => {
    const before = makeImage();
    const line = [join(root, 'carrel'), 'vmm', 'run', example, '--disk', image, '--json'] as const;
    const { status, stdout, stderr } = await launch(line, {
      env: { ...process.env, CARREL_SKIP_SETUP: '1' },
    });
    assert.equal(status, 0, stderr.toString());
    assert.match(stdout.toString(), /Hello from the disk/);
    assert.deepEqual(
      readFileSync(image).subarray((sectors / 2) * 512),
      before.subarray(0, (sectors / 2) * 512),
    );
  });

  test('a sector behind the end is an error of the request, and the disk goes on', async () => {
    makeImage();
    const guest = guestOf(
      `return disk_read(${sectors}, sector, 1) * 10 + disk_read(${sectors - 1}, sector, 1);`,
    );
    const { registers, remarks } = await run({ guest });
    assert.equal(Number(registers.rax), 10);
    assert.deepEqual(remarks, []);
  });

  test('a disk that is read-only refuses to be written and keeps its bytes', async () => {
    const before = makeImage();
    const { registers } = await run({ guest: guestOf('return disk_write(0, sector, 1);'), readOnly: true });
    assert.equal(Number(registers.rax), 1);
    assert.deepEqual(readFileSync(image), before);
  });

  test('a buffer outside of memory: the device needs a reset, says why, and the guest can go on', async () => {
    makeImage();
    const guest = guestOf(
      'int first = disk_read(0, (void *)0x200000, 1); if (disk_open() < 0) return -2; return first == -1 ? disk_read(0, sector, 1) : -3;',
    );
    const { registers, remarks } = await run({ guest });
    assert.equal(Number(registers.rax), 0);
    assert.deepEqual(remarks, [
      'virtio-blk needs a reset: buffer outside memory: queue 0, chain 0: 0x200000, 512 bytes; a buffer is not in the machine’s memory (2.7.5)',
    ]);
  });

  test('an address where no device is ends the guest as it does without a disk', async () => {
    makeImage();
    const { end } = await run({ guest: guestOf('return *(volatile int *)(disk_base + 0x1000);') });
    assert.equal(end.kind, 'fault');
    assert.match(end.kind === 'fault' ? end.fault.exit : '', /MMIO/);
  });

  test('a guest that asks for ever is stopped by its limit', async () => {
    makeImage();
    const guest = guestOf('for (;;) disk_read(0, sector, 1);');
    using machine = createMachine({ mode: 'long', image: await loadGuest(guest, modes.long) });
    const [result] = await machine.run({ disk: { path: image }, limitMs: 200 });
    assert.equal(result?.end.kind, 'time limit');
  });

  test('what is no disk, or somebody’s already, or not for so many, is refused before the run', async () => {
    makeImage();
    const loaded = await loadGuest(guestOf('return 0;'), modes.long);
    using machine = createMachine({ mode: 'long', image: loaded });
    using two = createMachine({ mode: 'long', image: loaded, vcpus: 2 });
    await assert.rejects(
      machine.run({ disk: { path: join(directory, 'missing') } }),
      /missing cannot be opened: ENOENT/,
    );
    await assert.rejects(
      machine.run({ disk: { path: directory, readOnly: true } }),
      /regular file or a block device/,
    );
    await assert.rejects(two.run({ disk: { path: image } }), /a disk is for one vCPU/);
    await using first = machine.open(0, { disk: { path: image } }, { onLine: () => undefined });
    assert.ok(first);
    using other = createMachine({ mode: 'long', image: loaded });
    await assert.rejects(other.run({ disk: { path: image } }), /in use by another machine/);
  });
});
