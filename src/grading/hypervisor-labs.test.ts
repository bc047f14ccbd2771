/** The labs on the hypervisor, proved: each solution gets what it promises, each check is failed by one. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { withoutKvm } from '#kvm/testing.ts';
import { type LocalGrader, openLocalGrader } from './local.ts';
import { proveLab } from './prove.ts';

const labs = join(import.meta.dirname, '../../labs');

suite('labs on the hypervisor', { skip: withoutKvm }, () => {
  let grader: LocalGrader;
  before(async () => {
    grader = await openLocalGrader({ slots: 2 });
  });
  after(() => grader.close());

  for (const name of ['kvm-hello', 'kvm-hypercalls', 'kvm-files', 'kvm-vcpus'])
    test(`${name} is proved`, async () => {
      const proof = await proveLab(join(labs, name), grader);
      const mismatches = proof.solutions.flatMap(({ name: solution, mismatches: found }) =>
        found.map((mismatch) => ({ solution, ...mismatch })),
      );
      assert.deepEqual(mismatches, []);
      assert.deepEqual([proof.unproven, proof.problems], [[], []]);
      assert.ok(proof.ok);
    });
});
