/**
 * The main program around a C function. Arguments come as lines of hexadecimal digits on standard input, the
 * result leaves as one line on descriptor 3, both by bare system calls: a submission that defines its own
 * `write`, `read` or `printf`, as systems courses ask for, does not disturb it.
 *
 *     int, long     16 digits of the two's complement      double    16 digits of its bits
 *     char *        two digits for each byte               NULL      the letter n
 */
import { CarrelError } from '#base/errors.ts';
import type { CType, Signature } from '../format/signature.ts';
import type { Value } from '../format/values.ts';

const support = `#undef main
typedef unsigned long word;
int fflush(void *);

static long carrel_syscall(long nr, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}
static void carrel_write(const char *at, long left) {
  while (left > 0) {
    long done = carrel_syscall(1, 3, (long)at, left);
    if (done <= 0) carrel_syscall(231, 1, 0, 0);
    at += done;
    left -= done;
  }
}
static char carrel_input[1 << 20];
static char carrel_output[1 << 18];
static char *carrel_at = carrel_input;

static void carrel_read(void) {
  long used = 0, done;
  while ((done = carrel_syscall(0, 0, (long)(carrel_input + used), (long)sizeof carrel_input - 1 - used)) > 0) used += done;
  carrel_input[used] = 0;
}
static word carrel_digit(char c) { return c <= '9' ? (word)(c - '0') : (word)(c - 'a' + 10); }
static word carrel_word(void) {
  word value = 0;
  while (*carrel_at && *carrel_at != '\\n') value = value << 4 | carrel_digit(*carrel_at++);
  if (*carrel_at) carrel_at++;
  return value;
}
static double carrel_double(void) {
  word bits = carrel_word();
  double value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
static char *carrel_string(void) {
  char *start = carrel_at, *to = carrel_at;
  while (*carrel_at && *carrel_at != '\\n') {
    *to++ = (char)(carrel_digit(carrel_at[0]) << 4 | carrel_digit(carrel_at[1]));
    carrel_at += 2;
  }
  if (*carrel_at) carrel_at++;
  *to = 0;
  return start;
}
static void carrel_byte(char *to, unsigned char byte) {
  to[0] = "0123456789abcdef"[byte >> 4];
  to[1] = "0123456789abcdef"[byte & 15];
}
static void carrel_put_word(word value) {
  for (int i = 0; i < 8; i++) carrel_byte(carrel_output + 2 * i, (unsigned char)(value >> (56 - 8 * i)));
  carrel_output[16] = '\\n';
  carrel_write(carrel_output, 17);
}
static void carrel_put_double(double value) {
  word bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  carrel_put_word(bits);
}
static void carrel_put_string(const char *value) {
  long length = 0;
  if (!value) {
    carrel_write("n\\n", 2);
    return;
  }
  for (; value[length] && 2 * length + 3 < (long)sizeof carrel_output; length++)
    carrel_byte(carrel_output + 2 * length, (unsigned char)value[length]);
  carrel_output[2 * length] = '\\n';
  carrel_write(carrel_output, 2 * length + 1);
}
`;

const takes: Readonly<Record<CType, string>> = {
  int: '(int)carrel_word()',
  long: '(long)carrel_word()',
  double: 'carrel_double()',
  'char *': 'carrel_string()',
};

const gives: Readonly<Record<CType, (value: string) => string>> = {
  int: (value) => `carrel_put_word((word)(long)${value})`,
  long: (value) => `carrel_put_word((word)${value})`,
  double: (value) => `carrel_put_double(${value})`,
  'char *': (value) => `carrel_put_string(${value})`,
};

/** The program. The end skips exit handlers: what the function returned is known by then. */
export function cHarness({ name, result, parameters }: Signature): string {
  const list = parameters.length === 0 ? 'void' : parameters.join(', ');
  const takings = parameters.map((type, index) => `  ${type} a${index} = ${takes[type]};\n`).join('');
  const call = `${name}(${parameters.map((_, index) => `a${index}`).join(', ')})`;
  return `${support}
${result} ${name}(${list});
int main(void) {
  carrel_read();
${takings}  ${result} value = ${call};
  ${gives[result]('value')};
  fflush(0);
  carrel_syscall(231, 0, 0, 0);
  return 0;
}
`;
}

const hexWord = (value: bigint): string => BigInt.asUintN(64, value).toString(16).padStart(16, '0');

function encode(type: CType, value: Value): string {
  if (type === 'char *' && typeof value === 'string') return Buffer.from(value).toString('hex');
  if (type === 'double' && (typeof value === 'number' || typeof value === 'bigint')) {
    const bits = Buffer.alloc(8);
    bits.writeDoubleBE(Number(value));
    return bits.toString('hex');
  }
  if (typeof value === 'number' || typeof value === 'bigint') return hexWord(BigInt(value));
  throw new CarrelError('internal', `an argument is no ${type}`);
}

/** Arguments as the program reads them. */
export function encodeArguments({ parameters }: Signature, args: readonly Value[]): string {
  return parameters.map((type, index) => `${encode(type, args[index] ?? null)}\n`).join('');
}

/** The line the program writes, as a value. Throws if it is none. */
export function decodeResult(type: CType, line: string): Value {
  if (type === 'char *') {
    if (line === 'n') return null;
    if (!/^(?:[0-9a-f]{2})*$/.test(line)) throw new SyntaxError('no bytes in hexadecimal digits');
    return Buffer.from(line, 'hex').toString('utf8');
  }
  if (!/^[0-9a-f]{16}$/.test(line)) throw new SyntaxError('no 16 hexadecimal digits');
  if (type === 'double') return Buffer.from(line, 'hex').readDoubleBE();
  const whole = BigInt.asIntN(64, BigInt(`0x${line}`));
  return Number.isSafeInteger(Number(whole)) ? Number(whole) : whole;
}
