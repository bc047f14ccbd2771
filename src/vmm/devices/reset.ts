/** The three ways in which a guest without ACPI ends its machine, each of them a write to a port. */
import type { ByteDevice } from './bytewise.ts';

/** How the guest ended its machine; `exit` carries the byte that it wrote. */
export type PortEnd =
  | { readonly kind: 'reset'; readonly by: 'keyboard controller' | 'port 0xcf9' }
  | { readonly kind: 'exit'; readonly status: number };

/** Pulse output line 0: the reset line of the processor (8042 data sheet; arch/x86/kernel/reboot.c). */
const PULSE_RESET = 0xfe;
/** Port 0xcf9: bit 2 resets when it rises (any Intel south bridge: "reset control register"). */
const RESET_CPU = 4;

/** Ports 0x60 to 0x64: a keyboard controller without keyboard, always ready, with nothing to say. */
export function keyboardController(end: (how: PortEnd) => void): ByteDevice {
  return {
    name: 'keyboard controller',
    read: () => 0,
    write(offset, value) {
      if (offset === 4 && value === PULSE_RESET) end({ kind: 'reset', by: 'keyboard controller' });
    },
  };
}

/** Port 0xcf9. */
export function resetControl(end: (how: PortEnd) => void): ByteDevice {
  return {
    name: 'reset control',
    read: () => 0,
    write(_, value) {
      if ((value & RESET_CPU) !== 0) end({ kind: 'reset', by: 'port 0xcf9' });
    },
  };
}

/** Port 0xf4: ends the machine with the byte as its status, for guests that test something. */
export function debugExit(end: (how: PortEnd) => void): ByteDevice {
  return {
    name: 'debug exit',
    read: () => 0,
    write: (_, value) => end({ kind: 'exit', status: value }),
  };
}
