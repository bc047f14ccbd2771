import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { fuzzRuns } from '#base/fuzz.ts';
import { debugKinds } from '#kvm/debug.ts';
import { registerNames } from '#kvm/registers.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import { plain } from '../inspect/plain.ts';
import { openSession } from '../session/session.ts';
import { code } from '../testing.ts';
import { command, event } from './messages.ts';
import { obey } from './obey.ts';

const vcpu = fc.nat(2);
const place = fc.oneof(
  fc.constantFrom('0', '0x2000', '0x3000', '0x4000', '0x1fffff', '0x200000', 'main', '0xffffffffffffffff'),
  fc.string({ minLength: 1, maxLength: 12 }),
);
const hex = fc.bigInt(0n, (1n << 64n) - 1n).map((value) => `0x${value.toString(16)}`);
const bytes = fc.uint8Array({ minLength: 1, maxLength: 16 }).map((data) => Buffer.from(data).toString('hex'));

/** Anything that the schema lets through, page tables and RIP written over included. */
const wild = fc.oneof(
  fc.record({ do: fc.constant('step'), vcpu, count: fc.integer({ min: 1, max: 20 }) }),
  fc.record({ do: fc.constant('continue'), vcpu }),
  fc.record({ do: fc.constant('pause'), vcpu }),
  fc.record({ do: fc.constant('reset') }),
  fc.record({ do: fc.constant('break'), place, on: fc.constantFrom(...debugKinds) }),
  fc.record({ do: fc.constant('unbreak'), number: fc.integer({ min: 1, max: 4 }) }),
  fc.record({ do: fc.constant('set'), vcpu, register: fc.constantFrom(...registerNames, 'cr3'), value: hex }),
  fc.record({
    do: fc.constant('read'),
    vcpu,
    place,
    bytes: fc.integer({ min: 1, max: 65_536 }),
    physical: fc.boolean(),
  }),
  fc.record({ do: fc.constant('write'), vcpu, place, bytes }),
  fc.record({ do: fc.constant('walk'), vcpu, place }),
  fc.record({ do: fc.constant('code'), vcpu, place, count: fc.integer({ min: 1, max: 64 }) }),
  fc.record({ do: fc.constant('snapshot') }),
);

test(
  'any commands in any order are obeyed or refused, and every event is as described',
  { skip: withoutKvm },
  async () => {
    const before = holdings();
    await fc.assert(
      fc.asyncProperty(fc.array(wild, { maxLength: 25 }), async (commands) => {
        const heard: unknown[] = [];
        const broken: unknown[] = [];
        await using session = openSession(
          { mode: 'long', image: code(0xb0, 0x61, 0xe6, 0xe9, 0xeb, 0xfa), vcpus: 2 },
          { limitMs: 100, outputLimit: 2000, onEvent: (each) => heard.push(plain(each)) },
        );
        for (const each of commands) {
          const wanted = command.parse(each);
          if (wanted.do === 'end') continue;
          await obey(session, wanted, (error) => broken.push(error)).catch((error: unknown) => {
            assert.ok(isCarrelError(error), String(error));
            assert.notEqual(error.code, 'internal', error.message);
          });
        }
        await Promise.all(session.vcpus.map((each) => each.pause()));
        for (const each of heard) event.parse(each);
        assert.deepEqual(broken, []);
      }),
      { numRuns: fuzzRuns(40) },
    );
    const { fds, mappings } = holdings();
    assert.deepEqual([fds, mappings], [before.fds, before.mappings]);
  },
);

test('what is no command is not taken for one', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const parsed = command.safeParse(value);
      assert.ok(!parsed.success);
    }),
  );
});
