import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  addressOf,
  cString,
  errnoName,
  kickSignal,
  syscall,
  syscallErrno,
  syscallNumbers,
  trySyscall,
} from './syscalls.ts';
import { readFileSync } from 'node:fs';

test('a system call gives its result, or the name of the error', () => {
  assert.equal(trySyscall('gettid'), process.pid);
  assert.equal(trySyscall('close', -1), -9);
  assert.throws(
    () => syscall('close', -1),
    (error) => syscallErrno(error) === 'EBADF',
  );
  assert.equal(errnoName(-2), 'ENOENT');
  assert.equal(errnoName(9999), 'errno 9999');
});

test('a view is passed by address, and its address can be asked for', () => {
  const view = new Uint8Array(new SharedArrayBuffer(16), 8, 8);
  const whole = new Uint8Array(view.buffer);
  assert.equal(addressOf(view), addressOf(whole) + 8n);
  const path = cString('/proc/self/comm');
  const fd = syscall('openat', -100, path, 0, 0);
  const bytes = Buffer.alloc(64);
  const length = syscall('read', fd, bytes, bytes.length);
  syscall('close', fd);
  assert.equal(bytes.toString('utf8', 0, length), readFileSync('/proc/self/comm', 'utf8'));
});

test('what is no machine word is refused before the kernel sees it', () => {
  for (const bad of [1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60])
    assert.throws(() => trySyscall('close', bad), TypeError);
  assert.throws(() => cString('a\0b'), /NUL/);
});

test('the kick signal is a real-time signal that does not end the process', () => {
  assert.ok(kickSignal() > 32);
  assert.equal(syscall('tgkill', process.pid, syscall('gettid'), kickSignal()), 0);
});

test('the table agrees with the header of the C library, where there is one', (context) => {
  let header: string;
  try {
    header = readFileSync('/usr/include/x86_64-linux-gnu/asm/unistd_64.h', 'utf8');
  } catch {
    return context.skip('no C headers here');
  }
  for (const [name, number] of Object.entries(syscallNumbers))
    assert.match(header, new RegExp(`^#define __NR_${name} ${number}$`, 'm'));
});
