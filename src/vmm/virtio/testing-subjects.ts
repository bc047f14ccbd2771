/** For fuzzing: each device, with what is behind it, and how much it has done for its driver. */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { createBlock } from './block/block.ts';
import { fileStore } from './block/store.ts';
import { Console } from './console/console.ts';
import type { VirtioDevice } from './device.ts';
import { Net } from './net/net.ts';
import { bytesIn } from './pieces.ts';

const directory = mkdtempSync(join(tmpdir(), 'virtio-fuzz-'));
export const diskPath = join(directory, 'disk');
export const diskBytes = 32 * 512;
writeFileSync(diskPath, new Uint8Array(diskBytes));
const disk = openSync(diskPath, 'r+');
after(() => {
  closeSync(disk);
  rmSync(directory, { recursive: true });
});

/** What a right driver puts into its table: address, bytes, flags; chains go to the next index. */
export type Template = (queue: number, index: number) => readonly [at: number, bytes: number, flags: number];

/** Queue 0 to receive, queue 1 to transmit: each buffer a chain. */
const twoWays: Template = (queue, index) => [0x4000 + 512 * index, 512, queue === 0 ? 2 : 0];

/** Threes of header, data and status: a read of as much as fits. */
const requests: Template = (_queue, index) =>
  index % 3 === 0 && index < 15
    ? [0x100, 16, 1]
    : index % 3 === 1
      ? [0x4000 + 512 * index, 512, 3]
      : [0x200, 1, 2];

export interface Subject {
  readonly template: Template;
  readonly device: VirtioDevice;
  /** Something happens outside. */
  readonly disturb: (bytes: number) => void;
  /** How much work was done for the driver. */
  readonly served: () => number;
}

export const subjects: Readonly<Record<string, () => Subject>> = {
  block() {
    let served = 0;
    const file = fileStore(disk);
    const count = (problem: string | undefined): string | undefined => {
      // the kernel was handed an address outside of RAM
      assert.notEqual(problem, 'EFAULT');
      served += 1;
      return problem;
    };
    const store = {
      ...file,
      read: (at: number, into: readonly Uint8Array[]) => count(file.read(at, into)),
      write: (at: number, from: readonly Uint8Array[]) => count(file.write(at, from)),
    };
    return {
      template: requests,
      device: createBlock({ store, id: 'fuzz' }),
      disturb: () => undefined,
      served: () => served,
    };
  },
  net() {
    const frames: Uint8Array[] = [];
    let sent = 0;
    const card = new Net({
      mac: '02:00:00:00:00:01',
      port: {
        receive: () => frames.shift(),
        send(frame) {
          assert.ok(bytesIn(frame) <= 65_553);
          for (const piece of frame) piece.slice();
          sent += 1;
          return true;
        },
      },
    });
    return {
      template: twoWays,
      device: card,
      disturb(bytes) {
        frames.push(new Uint8Array(14 + bytes));
        card.receive();
        if (frames.length > 8) frames.length = 0;
      },
      served: () => sent + card.counters.received,
    };
  },
  console() {
    let served = 0;
    const terminal = new Console({ output: (bytes) => (served += bytes.length), inputLimit: 256 });
    return {
      template: twoWays,
      device: terminal,
      disturb(bytes) {
        const waiting = terminal.waiting;
        served += waiting + terminal.type(new Uint8Array(bytes)) - terminal.waiting;
        assert.ok(terminal.waiting <= 256);
        if (bytes % 64 === 0) terminal.resize(bytes, bytes);
      },
      served: () => served,
    };
  },
};
