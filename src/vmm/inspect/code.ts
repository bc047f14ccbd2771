/** The instructions from an address on, with the names of places. */
import type { Vcpu } from '#kvm/vcpu.ts';
import { AddressSpace } from '../addresses.ts';
import { disassemble } from '../fault/disassemble.ts';
import { fetchBytes } from '../fault/scene.ts';
import { type GuestSymbol, nameOf } from '../image/symbols.ts';
import type { Layout } from '../layout.ts';
import type { Mode } from '../modes/mode.ts';

export interface CodeLine {
  /** As RIP has it. */
  readonly at: bigint;
  /** `main`, `main+0x5`; undefined where no symbol is known. */
  readonly name: string | undefined;
  readonly bytes: string;
  readonly text: string;
}

/** Up to `count` instructions at RIP, or at an address; fewer where memory ends. */
export function codeAt(
  { vcpu, layout }: { readonly vcpu: Vcpu; readonly layout: Layout },
  {
    mode,
    symbols,
    from,
    count,
  }: { mode: Mode; symbols: readonly GuestSymbol[]; from?: bigint; count: number },
): CodeLine[] {
  const special = vcpu.special();
  const space = new AddressSpace(layout, special);
  const { base } = special.segment('cs');
  const lines: CodeLine[] = [];
  let at = from ?? vcpu.registers().rip;
  for (let index = 0; index < count; index += 1) {
    const bytes = fetchBytes(space, base + at);
    if (bytes.length === 0) break;
    const { text, length } = disassemble(bytes, mode.bits, at);
    lines.push({
      at,
      name: nameOf(symbols, base + at),
      bytes: Buffer.from(bytes.subarray(0, length)).toString('hex'),
      text,
    });
    at += BigInt(length);
  }
  return lines;
}
