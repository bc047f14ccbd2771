/** Attacks by C code, which shares its process with the harness: constructors, jumps, symbols, and the compiler itself. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { secret, useAttackBed } from './attack-bed.ts';

const { attack, attacked } = useAttackBed();

for (const [name, text, reason] of [
  [
    'a constructor that prints and leaves',
    '#include <stdio.h>\n#include <stdlib.h>\n__attribute__((constructor)) void x(void) { puts("PASS"); exit(0); }\nlong f(int n) { return 0; }',
    /before the function returned/,
  ],
  [
    'a constructor that forges several results',
    '#include <unistd.h>\n__attribute__((constructor)) void x(void) { write(3, "0000000000000001\\n0000000000000002\\n", 34); _exit(0); }\nlong f(int n) { return 0; }',
    /more than one result/,
  ],
  [
    'a forged result before the real one',
    '#include <unistd.h>\nlong f(int n) { write(3, "0000000000000001\\n", 17); return 0; }',
    /more than one result/,
  ],
  [
    'a destructor',
    '#include <unistd.h>\n__attribute__((destructor)) void x(void) { write(3, "PASS\\n", 5); _exit(0); }\nlong f(int n) { return 0; }',
    /wrong value/,
  ],
  [
    'longjmp into nowhere',
    '#include <setjmp.h>\njmp_buf b;\nlong f(int n) { longjmp(b, 1); return 0; }',
    /./,
  ],
  [
    'returning twice',
    '#include <setjmp.h>\nstatic jmp_buf b;\nstatic int seen;\nlong g(void) { if (setjmp(b)) return 7; return 1; }\nlong f(int n) { long v = g(); if (!seen++) longjmp(b, 1); return v; }',
    /./,
  ],
  ['a main of its own', 'int main(void) { return 0; }\nlong f(int n) { return 0; }', /wrong value/],
  [
    'a main by assembly',
    'long f(int n) { return 0; }\n__asm__(".globl main\\nmain: xor %eax, %eax\\nret");',
    /does not compile/,
  ],
  [
    'a _start of its own',
    '#include <unistd.h>\nvoid _start(void) { _exit(0); }\nlong f(int n) { return 0; }',
    /does not compile/,
  ],
  [
    'its own printf, write, fflush and exit',
    'int printf(const char *s, ...) { return 0; }\nlong write(int fd, const void *p, unsigned long n) { return n; }\nint fflush(void *f) { return 0; }\nvoid exit(int s) { for (;;) ; }\nvoid _exit(int s) { for (;;) ; }\nlong f(int n) { return 0; }',
    /wrong value/,
  ],
  [
    'a smashed stack',
    'long f(int n) { volatile long a[1]; for (int i = 0; i < 4096; i++) a[i] = (long)f; return a[0]; }',
    /crashed|wrong value|ended/,
  ],
  [
    'an endless recursion',
    'volatile int k;\nlong f(int n) { char big[4096]; big[n & 4095] = (char)n; k += big[0]; return f(n + 1) + big[1]; }',
    /crashed/,
  ],
  ['killing by signal', '#include <signal.h>\nlong f(int n) { raise(SIGKILL); return 0; }', /./],
  ['an endless include', '#include "/dev/zero"\nlong f(int n) { return 0; }', /does not compile/],
  ['an include of itself', '#include "m.c"\n#include "m.c"\nlong f(int n) { return 0; }', /does not compile/],
  [
    'an array of gigabytes in the file',
    'char big[1ul << 32] = { 1 };\nlong f(int n) { return big[0]; }',
    /does not compile/,
  ],
] as const)
  test(`C: ${name}`, () => attack('c', text, reason));

test('a function of C that only looks at its harness finds no expected value', async () => {
  const check = await attacked(
    'c',
    `#include <stdio.h>
#include <string.h>
extern char __executable_start, _end;
/* built at run time, so that it is not found in itself */
long f(int n) {
  long wanted = ${secret - 20};
  wanted += n;
  char text[32];
  snprintf(text, sizeof text, "%08lx", wanted);
  int found = 0;
  for (char *p = &__executable_start; p + 8 < &_end; p++) if (p != text && !memcmp(p, text, 8)) found++;
  printf("FOUND %d\\n", found);
  return 0;
}
`,
    /wrong value/,
  );
  assert.equal(check.stdout, 'FOUND 0\n');
});
