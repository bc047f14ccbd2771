/** What can be told of a lab's image before anybody works at it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openImages } from '#images/store.ts';
import { refuseImpossible } from './image.ts';

const images = await openImages();
const program = process.execPath; // one that is there

const lab = (image: string, driver?: 'container' | 'qemu') => ({
  image,
  run: driver === undefined ? ('sandbox' as const) : ('machine' as const),
  machine: { driver: driver ?? ('container' as const), limits: {}, ready: 1 },
});

test('labs of images of the right kind are taken', async () => {
  await refuseImpossible(images, lab('busybox'), { qemu: '/nonexistent' });
  await refuseImpossible(images, lab('busybox', 'container'), { qemu: '/nonexistent' });
  await refuseImpossible(images, lab('tiny', 'qemu'), { qemu: program });
});

test('a lab whose image is of the wrong kind, or not known, is refused with what would do', async () => {
  await assert.rejects(refuseImpossible(images, lab('busybox', 'qemu'), { qemu: program }), {
    code: 'lab_invalid',
    message: /image busybox is no disk, and a virtual machine needs one, such as tiny/,
  });
  await assert.rejects(refuseImpossible(images, lab('tiny')), {
    code: 'lab_invalid',
    message: /image tiny is the disk of a virtual machine: say "run: machine"/,
  });
  await assert.rejects(refuseImpossible(images, lab('no-such-image', 'qemu'), { qemu: program }), {
    code: 'lab_invalid',
    message: /there is no image no-such-image here/,
    hint: /carrel image ls/,
  });
});

test('a lab of virtual machines is refused where there is no QEMU, with what to install', async () => {
  await assert.rejects(refuseImpossible(images, lab('tiny', 'qemu'), { qemu: '/nonexistent' }), {
    code: 'host_unsupported',
    message: 'QEMU is not installed on this host',
    hint: /install the package qemu-system-x86/,
  });
});
