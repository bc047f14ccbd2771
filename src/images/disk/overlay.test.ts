import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import { z } from 'zod';
import { type Argv, launch } from '#host/launch.ts';
import { writeOverlay } from './overlay.ts';

const MiB = 2 ** 20;
const installed = await launch(['qemu-img', '--version'], { timeoutMs: 10_000 }).then(
  ({ status }) => status === 0,
  () => false,
);
const needsQemu = installed ? false : 'qemu-img is not installed';

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-overlay-'));
  t.after(() => rmSync(directory, { recursive: true }));
  return directory;
}

async function tool(argv: Argv): Promise<string> {
  const { status, stdout, stderr } = await launch(argv, { timeoutMs: 30_000 });
  assert.equal(status, 0, `${argv.join(' ')}: ${stderr.toString()}`);
  return stdout.toString();
}

const info = z.object({
  format: z.literal('qcow2'),
  'virtual-size': z.number(),
  'backing-filename': z.string(),
  'backing-filename-format': z.literal('qcow2'),
});

test(
  'QEMU finds a layer without fault, longer than the disk below, and reads that through it',
  { skip: needsQemu },
  async (t) => {
    const directory = scratch(t);
    const base = join(directory, 'base.qcow2');
    const top = join(directory, 'top.qcow2');
    await tool(['qemu-img', 'create', '-q', '-f', 'qcow2', base, '64M']);
    await tool(['qemu-io', '-f', 'qcow2', '-c', 'write -P 0x5a 1M 128k', base]);
    await writeOverlay(top, { backing: 'base.qcow2', bytes: 3 * 2 ** 30 });
    assert.ok(statSync(top).blocks * 512 <= 64 * 1024);
    await tool(['qemu-img', 'check', '-q', '-f', 'qcow2', top]);
    const seen = info.parse(
      JSON.parse(await tool(['qemu-img', 'info', '--output=json', '-f', 'qcow2', top])),
    );
    assert.equal(seen['virtual-size'], 3 * 2 ** 30);
    assert.equal(seen['backing-filename'], 'base.qcow2');
    await tool(['qemu-io', '-f', 'qcow2', '-c', 'read -P 0x5a 1M 128k', '-c', 'read -P 0 2G 64k', top]);
    await tool(['qemu-io', '-f', 'qcow2', '-c', 'write -P 0x11 1M 64k', '-c', 'write -P 0x22 2G 64k', top]);
    await tool(['qemu-io', '-f', 'qcow2', '-c', 'read -P 0x11 1M 64k', '-c', 'read -P 0x5a 1088k 64k', top]);
    await tool(['qemu-img', 'check', '-q', '-f', 'qcow2', top]);
    await tool(['qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 0x5a 1M 64k', base]); // the disk below is as it was
  },
);

test('a layer of any size is without fault', { skip: needsQemu }, async (t) => {
  const directory = scratch(t);
  let number = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 2 ** 33 }),
      fc.stringMatching(/^[a-z/]{1,300}$/),
      async (sectors, name) => {
        const path = join(directory, `${(number += 1)}.qcow2`);
        await writeOverlay(path, { backing: `/${name}`, bytes: sectors * 512 });
        const seen = info.parse(
          JSON.parse(await tool(['qemu-img', 'info', '--output=json', '-f', 'qcow2', path])),
        );
        assert.equal(seen['virtual-size'], sectors * 512);
        assert.equal(seen['backing-filename'], `/${name}`);
      },
    ),
    { numRuns: 12 },
  );
});

test('what is no disk is refused, and an existing file is not touched', async (t) => {
  const path = join(scratch(t), 'top.qcow2');
  for (const bytes of [0, -512, 511, 1.5, Number.NaN, 2 ** 52])
    await assert.rejects(writeOverlay(path, { backing: 'x', bytes }), { code: 'validation_failed' });
  for (const backing of ['', 'a\0b', 'x'.repeat(1024)])
    await assert.rejects(writeOverlay(path, { backing, bytes: MiB }), { code: 'invalid_request' });
  rmSync(path, { force: true });
  await writeOverlay(path, { backing: 'x', bytes: MiB });
  await assert.rejects(writeOverlay(path, { backing: 'y', bytes: MiB }), { code: 'EEXIST' });
});
