import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { PortBus } from './bus.ts';
import { bytewise } from './bytewise.ts';
import { Serial, serialPorts, serialWords } from './serial.ts';

interface Bed {
  readonly serial: Serial;
  readonly sent: number[];
  readonly levels: boolean[];
  readonly words: Int32Array;
}

function bed(words = new Int32Array(serialWords)): Bed {
  const sent: number[] = [];
  const levels: boolean[] = [];
  const serial = new Serial({
    words,
    irq: { set: (level) => levels.push(level) },
    send: (byte) => sent.push(byte),
  });
  return { serial, sent, levels, words };
}

test('Linux finds a 16550A: the probes of its 8250 driver', () => {
  // drivers/tty/serial/8250/8250_port.c, autoconfig() and autoconfig_16550a()
  const { serial } = bed();
  serial.write(1, 0);
  assert.equal(serial.read(1) & 0x0f, 0);
  serial.write(1, 0x0f);
  assert.equal(serial.read(1) & 0x0f, 0x0f);
  serial.write(1, 0x40);
  assert.equal(serial.read(1), 0, 'no bit of a PXA UART');
  serial.write(4, 0x10 | 0x0a);
  assert.equal(serial.read(6) & 0xf0, 0x90, 'the loop leads OUT2 and RTS to DCD and CTS');
  serial.write(4, 0);
  serial.write(2, 1);
  assert.equal(serial.read(2) >> 6, 3, 'FIFOs that work');
  serial.write(3, 0xbf);
  assert.notEqual(serial.read(2), 0, 'no 16650: what it has at offset 2 here is not 0');
  serial.write(3, 0);
  serial.write(7, 0x5a);
  assert.equal(serial.read(7), 0x5a);
  serial.write(3, 0x80);
  serial.write(0, 0x34);
  serial.write(1, 0x12);
  assert.deepEqual([serial.read(0), serial.read(1)], [0x34, 0x12]);
  serial.write(3, 0x03);
  assert.equal(serial.read(0), 0, 'behind the divisor lies the receiver');
});

test('an empty transmitter interrupts once when asked, and again after each byte', () => {
  const { serial, sent, levels } = bed();
  serial.write(4, 0x0b); // DTR, RTS, OUT2
  serial.write(1, 2);
  assert.deepEqual(levels, [true]);
  assert.equal(serial.read(2) & 0x0f, 2);
  assert.deepEqual(levels, [true, false], 'reading the cause took it back');
  assert.equal(serial.read(2) & 0x0f, 1);
  serial.write(0, 0x41);
  assert.deepEqual([sent, levels], [[0x41], [true, false, true]]);
  serial.write(1, 0);
  assert.deepEqual(levels, [true, false, true, false]);
});

test('received bytes interrupt until the last one is read; without OUT2 nobody hears', () => {
  const { serial, levels } = bed();
  serial.write(1, 1);
  assert.equal(serial.receive(Buffer.from('ab')), 2);
  assert.deepEqual(levels, [], 'the gate is closed');
  serial.write(4, 8);
  assert.deepEqual(levels, [true]);
  assert.equal(serial.read(5) & 1, 1);
  assert.equal(serial.read(0), 0x61);
  assert.equal(serial.read(2) & 0x0f, 4);
  assert.equal(serial.read(0), 0x62);
  assert.equal(serial.read(5) & 1, 0);
  assert.deepEqual(levels, [true, false]);
});

test('in a loop, what is sent is received and does not leave; too much of it is an overrun', () => {
  const { serial, sent } = bed();
  serial.write(4, 0x10);
  for (let index = 0; index < 5000; index += 1) serial.write(0, index & 0xff);
  assert.deepEqual(sent, []);
  assert.equal(serial.read(5) & 3, 3);
  assert.equal(serial.read(5) & 2, 0, 'said once');
  assert.equal(serial.read(0), 0);
  assert.equal(serial.read(0), 1);
  assert.equal(serial.read(6) & 0x0f, 0x0b, 'three modem lines have changed');
  assert.equal(serial.read(6) & 0x0f, 0, 'said once');
});

test('whatever is read and written: bytes leave in order, none comes twice, the line is the cause', () => {
  const action = fc.oneof(
    fc.record({ kind: fc.constant('read' as const), offset: fc.nat(7) }),
    fc.record({ kind: fc.constant('write' as const), offset: fc.nat(7), value: fc.nat(255) }),
    fc.record({ kind: fc.constant('receive' as const), bytes: fc.uint8Array({ maxLength: 40 }) }),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 300 }), (actions) => {
      const words = new Int32Array(serialWords);
      // two threads have an object each over the same words: it must not matter which one is asked
      const beds = [bed(words), bed(words)] as const;
      const levels: boolean[] = [];
      const sent: number[] = [];
      const expected: number[] = [];
      const read: number[] = [];
      const typed: number[] = [];
      let lcr = 0;
      let mcr = 0;
      let cleared = false;
      for (const [index, each] of actions.entries()) {
        const { serial, sent: mine, levels: heard } = beds[index & 1] ?? beds[0];
        if (each.kind === 'receive') {
          const taken = serial.receive(each.bytes);
          assert.equal(taken, each.bytes.length, 'there is room for what a person types');
          typed.push(...each.bytes);
        } else if (each.kind === 'read') {
          const waiting = serial.room < 4095 && (lcr & 0x80) === 0 && each.offset === 0;
          const value = serial.read(each.offset);
          assert.ok(value >= 0 && value <= 0xff);
          if (waiting) read.push(value);
        } else {
          if (each.offset === 0 && (lcr & 0x80) === 0) {
            if ((mcr & 0x10) === 0) expected.push(each.value);
            else typed.push(each.value);
          }
          if (each.offset === 2) cleared = true;
          if (each.offset === 3) lcr = each.value;
          if (each.offset === 4) mcr = each.value;
          serial.write(each.offset, each.value);
        }
        sent.push(...mine.splice(0));
        levels.push(...heard.splice(0));
        const noCause = (): boolean =>
          (new Serial({ words: words.slice(), irq: { set: () => undefined }, send: () => undefined }).read(
            2,
          ) &
            1) ===
          1;
        const open = (mcr & 0x18) === 8;
        assert.equal(levels.at(-1) ?? false, open && !noCause());
      }
      assert.deepEqual(sent, expected);
      for (const [index, level] of levels.entries()) assert.equal(level, index % 2 === 0, 'edges alternate');
      if (!cleared) assert.deepEqual(read, typed.slice(0, read.length));
    }),
  );
});

test('a wide access reaches the neighbouring registers, and nothing beyond the last', () => {
  const bus = new PortBus();
  const { serial } = bed();
  bus.add(0x3f8, serialPorts, bytewise(serial));
  serial.write(7, 0x77);
  serial.write(3, 0x1b);
  assert.equal(bus.read(0x3fb, 1), 0x1b);
  assert.equal(bus.read(0x3fe, 2), 0x77b0);
  assert.equal(bus.read(0x3fe, 4), 0xffff_ffff);
});
