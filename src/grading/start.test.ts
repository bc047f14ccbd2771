import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { CarrelError, type ErrorCode, isCarrelError } from '#base/errors.ts';
import type { RunReply } from '#contract/schemas/machines.ts';
import { startStep, type StartStep } from './format/schema.ts';
import type { FreshMachine, FreshVm, Power } from './machine.ts';
import { startMachine } from './start.ts';

const submission = mkdtempSync(join(tmpdir(), 'carrel-start-'));
after(() => rmSync(submission, { recursive: true, force: true }));
writeFileSync(join(submission, 'a.sh'), '');

const steps = (...given: unknown[]): StartStep[] => given.map((each) => startStep.parse(each));
const placing = { place: { submitted: 'a.sh', to: '/root/' } };
const running = { run: { argv: ['/bin/sh', '/root/a.sh'] } };
const fine: RunReply = {
  stdout: '',
  stderr: '',
  end: { kind: 'exited', status: 0 },
  wallMs: 1,
};

/** A machine whose agent says this to whatever it is asked, from the first command on. */
function liar(code: ErrorCode, power: Power = 'on', from = 0): FreshVm {
  let asked = 0;
  const answer = async (): Promise<RunReply> => {
    asked += 1;
    if (asked > from) throw new CarrelError(code, 'so I say');
    return fine;
  };
  return {
    driver: 'qemu',
    startedFrom: 'template',
    id: 'm',
    address: null,
    run: answer,
    writeFile: async () => void (await answer()),
    restart: async () => true,
    powerOff: async () => undefined,
    power: () => power,
    cpuMs: async () => null,
    console: async () => new Uint8Array(),
    readDisk: async () => new Uint8Array(),
  };
}

const start = (machine: FreshMachine, given: StartStep[], signal = new AbortController().signal) =>
  startMachine(
    {
      folder: { directory: submission, tests: new Set() },
      submission,
      files: [{ path: 'a.sh', bytes: 0 }],
      signal,
    },
    machine,
    given,
  );
const code = (expected: ErrorCode) => (error: unknown) => isCarrelError(error, expected);

test('what an agent says once something of the student’s may have run is neither our fault nor the author’s', async () => {
  for (const said of [
    'helper_failed',
    'not_found',
    'invalid_request',
    'no_capacity',
    'machine_lost',
  ] as const) {
    const { stderr } = await start(liar(said), steps(running, placing, running));
    const noted = Buffer.from(stderr)
      .toString()
      .match(/a step could not be taken: so I say/g);
    assert.equal(noted?.length, 3, said);
  }
});

test('before that, a path that the image does not have is the author’s, and silence is ours', async () => {
  await assert.rejects(start(liar('not_found'), steps(placing)), code('lab_invalid'));
  await assert.rejects(start(liar('machine_lost'), steps(placing)), code('machine_lost'));
});

test('a machine that this host has ended gives no grade, whenever that was', async () => {
  await assert.rejects(
    start(liar('helper_failed', 'lost', 1), steps(running, placing)),
    code('helper_failed'),
  );
});

test('a grading that is called off does not go on', async () => {
  const stop = new AbortController();
  const machine = { ...liar('helper_failed'), power: () => (stop.abort(new Error('enough')), 'on' as const) };
  await assert.rejects(start(machine, steps(running, running), stop.signal), /enough/);
});
