/** Disks of virtual machines with the real QEMU and the image `tiny`: what their headers say, snapshots, copies. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { layerPath, loadState } from './disk/files.ts';
import { vmPaths } from './spec.ts';
import { isCode, pullPlug, shellIn } from './testing-guest.ts';
import { bootMs, makeVmBed, skip, type VmBed } from './testing.ts';

let bed: VmBed;
before(async () => {
  if (!skip) bed = await makeVmBed();
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

const inodes = (directory: string): number[] =>
  readdirSync(vmPaths(directory).disk).map((name) => statSync(join(vmPaths(directory).disk, name)).ino);

test('a disk whose header names files of the host leads to none of them', { skip }, async () => {
  const spec = bed.spec();
  await bed.driver.prepare(spec);
  const rebase = 'rebase -u -f qcow2 -F raw -b /etc/shadow'.split(' ');
  execFileSync('qemu-img', rebase.concat(layerPath(spec.directory, 1)));
  const copy = bed.spec({ source: { id: spec.id, directory: spec.directory, snapshot: null } });
  await bed.driver.prepare(copy);
  for (const each of [spec, copy]) {
    const machine = await bed.driver.start(each);
    await machine.ready({ limitMs: bootMs });
    assert.equal(
      await shellIn(machine, 'hostname'),
      `${each.name}\n`,
      'it lies on its image, as the state says',
    );
    await pullPlug(bed, each, machine);
  }
  // one that keeps its data elsewhere: there is no elsewhere in the jail
  const secret = join(bed.host.directory, 'secret');
  const active = layerPath(copy.directory, (await loadState(copy.directory))?.active ?? 0);
  const { uid } = statSync(active);
  rmSync(active);
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', `data_file=${secret}`, active, '512M']);
  chownSync(active, uid, uid);
  chmodSync(secret, 0o666);
  await assert.rejects(bed.driver.start(copy), (error) => {
    assert.ok(isCarrelError(error, 'helper_failed'), String(error));
    assert.match(error.message, /secret.*No such file/s);
    return true;
  });
  for (const each of [spec, copy]) await bed.driver.remove(each);
  rmSync(secret);
});

test('snapshots: taken while it runs, put back, copied, and forgotten', { skip }, async (t) => {
  const spec = bed.spec();
  const machine = await bed.boot(spec);
  await shellIn(machine, 'echo one > /root/state; sync');

  await t.test('a snapshot of a running machine is made once, however often it is asked for', async () => {
    const { bytes } = await bed.driver.snapshot(spec, 's-one', machine);
    assert.ok(bytes > 0);
    const state = await loadState(spec.directory);
    assert.deepEqual(await bed.driver.snapshot(spec, 's-one', machine), { bytes });
    assert.deepEqual(await loadState(spec.directory), state);
    await shellIn(machine, 'echo two > /root/state');
    await bed.driver.snapshot(spec, 's-two', machine);
    await shellIn(machine, 'echo three > /root/state'); // its kernel would keep that for some seconds
  });

  await t.test(
    'a copy of a running machine has what was written until then, and is somebody else',
    async () => {
      const copy = bed.spec({ source: { id: spec.id, directory: spec.directory, snapshot: null } });
      const copied = await bed.boot(copy);
      assert.equal(await shellIn(copied, 'cat /root/state; hostname'), `three\n${copy.name}\n`);
      assert.equal(await shellIn(machine, 'echo goes on'), 'goes on\n');
      await shellIn(copied, 'echo other > /root/state; sync');
      assert.equal(await shellIn(machine, 'cat /root/state'), 'three\n');
      const theirs = new Set(inodes(spec.directory));
      assert.ok(
        theirs.size > 0 && !inodes(copy.directory).some((each) => theirs.has(each)),
        'no file is shared',
      );
      await pullPlug(bed, copy, copied);
      await bed.driver.remove(copy);
    },
  );

  await t.test('a disk in use is not put back', async () => {
    await assert.rejects(bed.driver.restore(spec, 's-one'), isCode('wrong_state'));
  });

  await t.test('it is as it was, with its snapshots', async () => {
    await pullPlug(bed, spec, machine);
    await bed.driver.restore(spec, 's-one');
    await bed.driver.restore(spec, 's-one');
    const again = await bed.boot(spec);
    assert.equal(await shellIn(again, 'cat /root/state; hostname'), `one\n${spec.name}\n`);
    await pullPlug(bed, spec, again);
    await assert.rejects(bed.driver.restore(spec, 's-none'), isCode('not_found'));
    await bed.driver.snapshot(spec, 's-three', undefined);
    const copy = bed.spec({ source: { id: spec.id, directory: spec.directory, snapshot: 's-two' } });
    const copied = await bed.boot(copy);
    assert.equal(await shellIn(copied, 'cat /root/state'), 'two\n');
    await pullPlug(bed, copy, copied);
    await bed.driver.remove(copy);
  });

  await t.test('what nobody needs any more goes', async () => {
    for (const snapshot of ['s-one', 's-two', 's-three', 's-none'])
      await bed.driver.dropSnapshot(spec, snapshot, undefined);
    const state = await loadState(spec.directory);
    assert.deepEqual(state?.snapshots, {});
    assert.deepEqual(
      readdirSync(vmPaths(spec.directory).disk).sort(),
      Object.keys(state?.layers ?? {})
        .map((layer) => `${layer}.qcow2`)
        .sort(),
    );
    await bed.driver.remove(spec);
  });
});
