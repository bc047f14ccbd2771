/** A guest that takes what it can get: it gets its own, and nobody else notices. */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { keptPaths, recordBytes } from '#isolate/kept.ts';
import { layerPath, loadState } from './disk/files.ts';
import { makeVmBed, skip } from './testing.ts';

const bootMs = 120_000;
const MiB = 2 ** 20;

test(
  'a guest that fills its disk, its memory and its console stays within what it was given',
  { skip },
  async (t) => {
    await using bed = await makeVmBed();
    const spec = bed.spec();
    await bed.driver.prepare(spec);
    const machine = await bed.driver.start(spec);
    await machine.ready({ limitMs: bootMs });
    const sh = async (script: string): Promise<string> => {
      const { stdout, stderr } = await machine.run(
        runRequest.parse({ argv: ['/bin/sh', '-c', script], cwd: '/', limitMs: 120_000 }),
      );
      return Buffer.from(stdout, 'base64').toString() + Buffer.from(stderr, 'base64').toString();
    };

    await t.test('the disk', async () => {
      assert.match(await sh('dd if=/dev/zero of=/big bs=1M; sync'), /No space left/);
      const { diskBytes } = await machine.stats();
      const most = spec.limits.diskBytes + 2 * MiB; // and the tables of qcow2
      assert.ok(
        (diskBytes ?? 0) > spec.limits.diskBytes / 2 && (diskBytes ?? 0) < most,
        `${diskBytes} bytes`,
      );
      const state = await loadState(spec.directory);
      assert.ok(statSync(layerPath(spec.directory, state?.active ?? 0)).size < most);
      await sh('rm /big');
    });

    await t.test('the console', async () => {
      await sh('yes flood > /dev/ttyS0 & sleep 4; kill $!');
      const console = await machine.console();
      const { total } = await until(10_000, 'the flood', () => {
        const read = console.read(0, 1);
        return read.total > 10_000 ? read : undefined;
      });
      assert.ok(total > 0 && console.read(Math.max(0, total - 100)).bytes.length > 0);
      assert.ok(statSync(keptPaths(spec.directory).console).size <= 2 * recordBytes + 4096);
      console.close();
    });

    await t.test('the memory', async () => {
      const group = await machine.stats();
      await sh('python3 -c "b = bytearray(400 << 20)"');
      assert.equal(await sh('echo alive'), 'alive\n');
      const { peakMemoryBytes, oomKills } = await machine.stats();
      assert.ok((peakMemoryBytes ?? 0) <= spec.limits.memoryBytes + 192 * MiB);
      assert.equal(oomKills, group.oomKills, 'the guest runs out of memory, not QEMU');
    });

    await machine.stop({ graceMs: 0 });
    machine.release();
  },
);
