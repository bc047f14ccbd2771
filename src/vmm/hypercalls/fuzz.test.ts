import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { fuzzRuns } from '#base/fuzz.ts';
import { pageBytes } from '#kvm/memory.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { ExitCounters } from '../counters.ts';
import { describeEnd } from '../end.ts';
import type { Guest } from '../guest.ts';
import { flatImage } from '../image/image.ts';
import { windowBytes } from '../layout.ts';
import { createMachine } from '../machine.ts';
import { entryBit, openEntry } from '../modes/bits.ts';
import { GuestOutput } from '../output.ts';
import { Share } from '../share.ts';
import { VmcallLog } from '../vmcall/log.ts';
import { portMaps } from './maps.ts';

/** Fills what belongs to others: text, so that it is found in all that a guest gets to see or write. */
const canary = Buffer.from('@canary.');

const word = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  fc.bigInt({ min: 0n, max: BigInt(3 * windowBytes) }),
  fc.integer({ min: -2, max: 300 }).map((small) => BigInt.asUintN(64, BigInt(small))),
);
const call = fc.constantFrom(...portMaps.flatMap(({ bindings }) => bindings));

test(
  'whatever a guest hands to a hypercall, it gets a number or its end, and nobody else’s memory',
  { skip: withoutKvm },
  async (context) => {
    const directory = await mkdtemp(join(tmpdir(), 'carrel-fuzz-'));
    context.after(() => rm(directory, { recursive: true }));
    await writeFile(join(directory, 'a'), 'content');
    using machine = createMachine({ mode: 'long', image: flatImage(Uint8Array.of(0xf4)), vcpus: 3 });
    const { memory, vcpus } = machine;
    const middle = vcpus[1];
    assert.ok(middle);
    const others = [memory.bytes.subarray(0, windowBytes), memory.bytes.subarray(2 * windowBytes)];
    const whole = Buffer.alloc(windowBytes, canary);
    for (const each of others) each.set(whole);
    // a guest may point its page tables anywhere: behind its own 2 MiB it sees the next window, and the first one
    const pageDirectory = windowBytes + middle.layout.tables + 2 * pageBytes;
    for (const [index, window] of [2, 0].entries())
      memory.view.setBigUint64(
        pageDirectory + 8 * (1 + index),
        BigInt(window * windowBytes) | openEntry | entryBit.large,
        true,
      );
    // a few strings for it to point at
    memory.bytes.set(Buffer.from('a\0../a\0/etc/hostname\0'), windowBytes);
    const lines: string[] = [];
    const guest: Guest = {
      ...middle,
      mode: 'long',
      imageEnd: 1,
      output: new GuestOutput({
        limit: 2 ** 30,
        onLine: (line) => void lines.push(line),
      }),
      outputLimit: 2 ** 30,
      counters: new ExitCounters(),
      share: new Share(directory),
      disk: undefined,
      vmcall: new VmcallLog(false),
      lastResult: 0,
    };
    context.after(() => guest.share.closeAll());
    fc.assert(
      fc.property(call, fc.array(word, { maxLength: 3 }), ({ call }, words) => {
        const answer = call.run(guest, words);
        if (typeof answer !== 'number') assert.notEqual(describeEnd(answer), '');
        else assert.ok(Number.isInteger(answer), `${call.name}: ${answer}`);
      }),
      { numRuns: fuzzRuns(2000) },
    );
    guest.output.flush();
    const files = await Promise.all(
      (await readdir(directory)).map((name) => readFile(join(directory, name), 'latin1')),
    );
    assert.ok(lines.length > 0);
    for (const text of [...lines, ...files]) assert.ok(!text.includes(canary.toString()));
    for (const each of others) assert.ok(whole.equals(each));
  },
);
