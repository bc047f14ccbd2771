import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { qemuArguments, type QemuFacts } from './argv.ts';

const facts: QemuFacts = {
  name: 'web',
  accelerator: 'tcg',
  tscKhz: null,
  vcpus: 2,
  memoryBytes: 256 * 2 ** 20,
  memory: null,
  boot: { kernel: '/image/kernel', initrd: '/machine/initrd', append: 'console=ttyS0 root=/dev/vda1' },
  disk: [
    { node: 'image', path: '/image/disk.qcow2' },
    { node: 'disk-1', path: '/machine/disk/1.qcow2' },
  ],
  cloudInit: null,
  network: { kind: 'tap', fd: 3 },
  mac: '02:ca:c0:a8:00:02',
  qmpFd: 4,
  agentFd: 5,
  incoming: false,
};

/** The values of an option, in order. */
const valuesOf = (argv: readonly string[], option: string): string[] =>
  argv.flatMap((each, index) => (argv[index - 1] === option ? [each] : []));

test('a machine has no devices but those that are named, and QEMU is confined', () => {
  const argv = qemuArguments(facts);
  assert.ok(argv.includes('-nodefaults') && argv.includes('-no-user-config'));
  assert.deepEqual(valuesOf(argv, '-sandbox'), [
    'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
  ]);
  assert.deepEqual(
    valuesOf(argv, '-device').map((each) => each.split(',')[0]),
    ['virtio-blk-pci', 'virtio-net-pci', 'virtio-rng-pci', 'virtio-serial-pci', 'virtserialport'],
  );
  assert.deepEqual(valuesOf(argv, '-accel'), ['tcg,tb-size=64']);
  assert.deepEqual(valuesOf(qemuArguments({ ...facts, accelerator: 'kvm' }), '-accel'), ['kvm']);
});

/** What an emulated processor changes. */
const timer = (more: Partial<QemuFacts>): unknown[] => {
  const argv = qemuArguments({ ...facts, ...more });
  return [
    /hpet=\w+/.exec(valuesOf(argv, '-machine').join())?.[0],
    /( mitigations=off)?( nolapic_timer)?$/.exec(valuesOf(argv, '-append').join())?.[0],
  ];
};

test('the timer whose frequency must be measured is left out where one emulated processor has another', () => {
  assert.deepEqual(timer({ vcpus: 1 }), ['hpet=on', ' mitigations=off nolapic_timer']);
  assert.deepEqual(timer({ vcpus: 2 }), ['hpet=off', ' mitigations=off']);
  assert.deepEqual(timer({ vcpus: 1, boot: null }), ['hpet=off', '']);
  assert.deepEqual(timer({ vcpus: 1, accelerator: 'kvm' }), ['hpet=off', '']);
});

test('an emulated processor’s counter is not measured: the kernel is told what it counts', () => {
  const told = { ...facts, tscKhz: 2_299_998 };
  for (const vcpus of [1, 2])
    assert.match(valuesOf(qemuArguments({ ...told, vcpus }), '-append').join(), / tsc_early_khz=2299998$/);
  const kvm = qemuArguments({ ...told, accelerator: 'kvm' });
  assert.doesNotMatch(valuesOf(kvm, '-append').join(), /tsc_early/);
});

test('the formats of the disk are stated, only the uppermost layer is written, and headers name nothing', () => {
  const layers = valuesOf(qemuArguments(facts), '-blockdev').map((text): unknown => JSON.parse(text));
  assert.deepEqual(layers, [
    {
      driver: 'qcow2',
      'node-name': 'image',
      'read-only': true,
      discard: 'unmap',
      file: { driver: 'file', filename: '/image/disk.qcow2', 'read-only': true, discard: 'unmap' },
      backing: null,
    },
    {
      driver: 'qcow2',
      'node-name': 'disk-1',
      'read-only': false,
      discard: 'unmap',
      file: { driver: 'file', filename: '/machine/disk/1.qcow2', 'read-only': false, discard: 'unmap' },
      backing: 'image',
    },
  ]);
});

test('the disk for cloud-init is raw, only read, and the last of all devices', () => {
  const argv = qemuArguments({ ...facts, cloudInit: '/machine/cidata.iso' });
  assert.deepEqual(JSON.parse(valuesOf(argv, '-blockdev').at(-1) ?? ''), {
    driver: 'raw',
    'node-name': 'cidata',
    'read-only': true,
    file: { driver: 'file', filename: '/machine/cidata.iso', 'read-only': true },
  });
  const devices = valuesOf(argv, '-device');
  assert.deepEqual(devices.slice(0, -1), valuesOf(qemuArguments(facts), '-device'));
  assert.equal(devices.at(-1), 'virtio-blk-pci,id=cidata0,drive=cidata');
});

test('without a kernel of its own the disk is started by the BIOS', () => {
  const argv = qemuArguments({ ...facts, boot: null });
  assert.ok(!argv.includes('-kernel') && !argv.includes('-append'));
});

test('a template and its clone have the same devices and differ in memory, cable and start only', () => {
  const path = '/template/ram';
  const template = qemuArguments({ ...facts, memory: { path, share: true }, network: { kind: 'hub' } });
  const clone = qemuArguments({ ...facts, memory: { path, share: false }, incoming: true });
  assert.deepEqual(valuesOf(template, '-device'), valuesOf(clone, '-device'));
  assert.deepEqual(valuesOf(template, '-machine'), valuesOf(clone, '-machine'));
  assert.ok(template.some((each) => each.endsWith('mem-path=/template/ram,share=on')));
  assert.ok(clone.some((each) => each.endsWith('mem-path=/template/ram,share=off')));
  assert.deepEqual(valuesOf(clone, '-incoming'), ['defer']);
  assert.deepEqual(valuesOf(template, '-netdev'), ['hubport,id=cable0,hubid=0']);
});

test('no name becomes another option: a comma is doubled, a line end refused', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('a', ',', '=', '-', ' '), minLength: 1 }), (name) => {
      assert.deepEqual(valuesOf(qemuArguments({ ...facts, name }), '-name'), [name.replaceAll(',', ',,')]);
    }),
  );
  assert.throws(
    () => qemuArguments({ ...facts, name: 'a\nb' }),
    (error) => isCarrelError(error, 'invalid_request'),
  );
});
