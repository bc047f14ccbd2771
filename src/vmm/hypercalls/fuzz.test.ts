import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { fuzzRuns } from '#base/fuzz.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { ExitCounters } from '../counters.ts';
import { describeEnd } from '../end.ts';
import type { Guest } from '../guest.ts';
import { flatImage } from '../image/image.ts';
import { windowBytes } from '../layout.ts';
import { createMachine } from '../machine.ts';
import { GuestOutput } from '../output.ts';
import { Share } from '../share.ts';
import { VmcallLog } from '../vmcall/log.ts';
import { portMaps } from './maps.ts';

const canary = 0xc5;

const word = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  fc.bigInt({ min: 0n, max: BigInt(2 * windowBytes) }),
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
    memory.bytes.fill(canary, 0, windowBytes);
    memory.bytes.fill(canary, 2 * windowBytes);
    // a few strings for it to point at
    memory.bytes.set(Buffer.from('a\0../a\0/etc/hostname\0'), windowBytes);
    const seen = new Set<number>();
    const guest: Guest = {
      ...middle,
      mode: 'long',
      imageEnd: 1,
      output: new GuestOutput({
        limit: 2 ** 30,
        onLine: (line) => {
          for (const byte of Buffer.from(line, 'latin1')) seen.add(byte);
        },
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
    assert.ok(!seen.has(canary));
    assert.ok(memory.bytes.subarray(0, windowBytes).every((byte) => byte === canary));
    assert.ok(memory.bytes.subarray(2 * windowBytes).every((byte) => byte === canary));
  },
);
