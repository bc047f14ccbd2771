import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { commandsOf } from './commands.ts';
import { readOptions, type TypedOptions } from './options.ts';

const nothing: TypedOptions = {
  kernel: undefined,
  initrd: undefined,
  commandLine: undefined,
  loadAddress: undefined,
  starter: undefined,
  memory: undefined,
  vcpus: undefined,
  tap: undefined,
  console: undefined,
  disks: [],
};

test('the keys of the reference VMM and our own options say the same', () => {
  const keyed = readOptions({
    ...nothing,
    kernel: 'path=/boot/k,cmdline=console=ttyS0 quiet,kernel_load_addr=0x200000,starter_file=s',
    memory: 'size_mib=512',
    vcpus: 'num=2',
    tap: 'tap=vmtap0',
    disks: ['path=/a'],
  });
  const plain = readOptions({
    ...nothing,
    kernel: '/boot/k',
    commandLine: 'console=ttyS0 quiet',
    loadAddress: '2097152',
    starter: 's',
    memory: '512M',
    vcpus: '2',
    tap: 'vmtap0',
    disks: ['/a'],
  });
  assert.deepEqual(keyed, plain);
  assert.equal(plain.memory, 512 * 2 ** 20);
});

test('an empty value is the default', () => {
  const { memory, vcpus, commandLine } = readOptions({
    ...nothing,
    kernel: 'path=k,cmdline=',
    memory: 'size_mib=',
    vcpus: 'num=',
  });
  assert.deepEqual([memory, vcpus, commandLine], [undefined, undefined, undefined]);
});

test('mistakes are said in the words of the reference VMM', () => {
  for (const [typed, message] of [
    [{}, 'Invalid input for kernel: Missing required argument: path'],
    [{ kernel: '' }, 'Invalid input for kernel: Missing required argument: path'],
    [{ kernel: 'path=' }, 'Invalid input for kernel: Missing required argument: path'],
    [{ kernel: 'cmdline=x' }, 'Invalid input for kernel: Missing required argument: path'],
    [{ kernel: 'path=k,foo=1' }, 'Invalid input for kernel: Unknown argument: foo'],
    [{ kernel: 'path=k,path=l' }, 'Invalid input for kernel: Duplicate argument: path'],
    [{ kernel: 'path=k,kernel_load_addr=1e9' }, /kernel: kernel_load_addr wants a whole number/],
    [{ kernel: 'k', memory: 'size_mib=lots' }, /memory: size_mib wants/],
    [{ kernel: 'k', vcpus: 'num=-1' }, /vCPUs: num wants/],
    [{ kernel: 'k', vcpus: 'two' }, /--vcpus wants a whole number, not two/],
    [{ kernel: 'k', tap: 'tap=' }, 'Invalid input for network: Missing required argument: tap'],
    [{ kernel: 'k', console: 'vga' }, /--console is serial or virtio, not vga/],
    [{ kernel: 'k', tap: '' }, 'Invalid input for network: Missing required argument: tap'],
    [{ kernel: 'k', disks: ['path='] }, 'Invalid input for block: Missing required argument: path'],
  ] as const)
    assert.throws(
      () => readOptions({ ...nothing, ...typed }),
      (error) =>
        isCarrelError(error, 'invalid_request') &&
        (typeof message === 'string' ? error.message === message : message.test(error.message)),
      JSON.stringify(typed),
    );
});

test('a starter file is a command a line; the last one needs no newline', () => {
  assert.deepEqual(commandsOf('ip link set eth0 up\r\n\n# not this\n  echo a # b\necho last'), [
    'ip link set eth0 up',
    'echo a # b',
    'echo last',
  ]);
  assert.deepEqual(commandsOf(''), []);
});
