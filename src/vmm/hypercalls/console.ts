/** Output: a byte, a number, a string. One exit each, however long. */
import { BadAddress } from '../addresses.ts';
import type { End } from '../end.ts';
import { addressSpaceOf, type Guest } from '../guest.ts';
import { type Hypercall, int, pointer } from './hypercall.ts';

const overLimit = ({ outputLimit }: Guest): End => ({ kind: 'output limit', bytes: outputLimit });

export const byte: Hypercall = {
  name: 'byte',
  prototype: 'void outb(uint16_t port, uint8_t byte)',
  doc: 'prints one byte',
  run: (guest, [value]) => (guest.output.byte(int(value) & 0xff) ? 0 : overLimit(guest)),
};

export const number: Hypercall = {
  name: 'number',
  prototype: 'void print_number(uint32_t number)',
  doc: 'prints a number in decimal, and a newline',
  run: (guest, [value]) => {
    const text = Buffer.from(`${int(value) >>> 0}\n`);
    return guest.output.write(text) ? 0 : overLimit(guest);
  },
};

export const print: Hypercall = {
  name: 'print',
  prototype: 'void print(const char *string)',
  doc: 'prints a string that ends with a NUL byte',
  run: (guest, [word]) => {
    const at = pointer(word);
    const text = addressSpaceOf(guest).readString(at);
    if (text instanceof BadAddress) return { kind: 'bad pointer', call: 'print', address: at, why: text.why };
    return guest.output.write(text) ? 0 : overLimit(guest);
  },
};
