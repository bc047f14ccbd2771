/** Addresses and breakpoints as people write them: `0x400`, `main`, `main+0x10`, `counter:8`. */
import { CarrelError } from '#base/errors.ts';
import type { DebugKind } from '#kvm/debug.ts';
import type { GuestSymbol } from '../image/symbols.ts';
import type { Breakpoint } from './breakpoint.ts';

const number = /^(?:0x[0-9a-f]{1,16}|\d{1,19})$/i;

/** An address or a size: decimal, or hexadecimal with 0x. */
export function parseAddress(text: string): bigint {
  if (!number.test(text))
    throw new CarrelError('invalid_request', `${text} is no address`, { hint: 'write 0x400, or 1024' });
  return BigInt(text);
}

interface Place {
  readonly address: bigint;
  /** The symbol that was named alone. */
  readonly symbol: GuestSymbol | undefined;
}

function findPlace(text: string, symbols: readonly GuestSymbol[]): Place {
  if (number.test(text)) return { address: BigInt(text), symbol: undefined };
  const [name = '', offset, ...more] = text.split('+');
  const symbol = symbols.find((each) => each.name === name);
  if (!symbol || more.length > 0) {
    const names = symbols.slice(0, 12).map((each) => each.name);
    throw new CarrelError('invalid_request', `${text} is neither an address nor a symbol of the guest`, {
      hint:
        names.length === 0
          ? 'the guest has no symbols: write an address, 0x400 or 1024'
          : `its symbols: ${names.join(', ')}${symbols.length > names.length ? ', ...' : ''}`,
    });
  }
  const address = BigInt(symbol.at) + (offset === undefined ? 0n : parseAddress(offset));
  return { address, symbol: offset === undefined ? symbol : undefined };
}

/** An address, or a symbol with or without an offset. */
export function parsePlace(text: string, symbols: readonly GuestSymbol[]): bigint {
  return findPlace(text, symbols).address;
}

const isWidth = (bytes: number): bytes is Breakpoint['bytes'] => [1, 2, 4, 8].includes(bytes);

/** A variable's own size, else four bytes where they are aligned. */
function usualWidth({ address, symbol }: Place): number {
  if (symbol && isWidth(symbol.size)) return symbol.size;
  return address % 4n === 0n ? 4 : 1;
}

/** `PLACE`, and of watchpoints `PLACE:BYTES`. */
export function parseBreakpoint(text: string, kind: DebugKind, symbols: readonly GuestSymbol[]): Breakpoint {
  const [where = '', width, ...more] = text.split(':');
  const place = findPlace(where, symbols);
  const bytes =
    kind === 'execute' ? 1 : width === undefined ? usualWidth(place) : Number(parseAddress(width));
  if (more.length > 0 || (kind === 'execute' && width !== undefined) || !isWidth(bytes))
    throw new CarrelError('invalid_request', `${text} cannot be watched`, {
      hint: 'a processor watches 1, 2, 4 or 8 bytes: write 0x400:8; an instruction has no width',
    });
  if (place.address % BigInt(bytes) !== 0n)
    throw new CarrelError('invalid_request', `${text}: the address is no multiple of ${bytes}`, {
      hint: 'a processor watches bytes that lie aligned: take fewer, or two watchpoints',
    });
  return { kind, address: place.address, bytes, label: where };
}
