/** Labs whose machines are virtual, from end to end, with the real QEMU and the image `tiny`. Needs root. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { identify, isAlive } from '#host/processes.ts';
import { readLockNote } from '#host/flock.ts';
import { openImages } from '#images/store.ts';
import { keptPaths } from '#isolate/kept.ts';
import { skip } from '#machines/drivers/qemu/testing.ts';
import { type LocalGrader, openLocalGrader } from './local.ts';
import { proveLab } from './prove.ts';
import { gradeTexts, startOtherGrader, summary } from './testing.ts';

let grader: LocalGrader;
before(async () => {
  if (skip) return;
  await (await openImages()).ensure('tiny');
  grader = await openLocalGrader({ slots: 1 });
});
after(() => grader?.close());

test(
  'end to end: boot-service: what survives a restart is seen on the network, the console and the disk',
  { skip },
  async () => {
    const proof = await proveLab(join(import.meta.dirname, '../../labs/boot-service'), grader);
    assert.deepEqual(
      proof.solutions.flatMap(({ name, mismatches }) =>
        mismatches.map((mismatch) => ({ name, ...mismatch })),
      ),
      [],
    );
    assert.ok(proof.ok);
    assert.deepEqual([proof.unproven, proof.problems], [[], []]);
  },
);

const lab = (checks: string): string => `title: T
name: t
image: tiny
run: machine
machine: { driver: qemu, memory: 128M }
points: 10
submit: { files: [{ pattern: setup.sh }] }
start:
  - place: { submitted: setup.sh, to: /root/ }
  - run: { argv: [/bin/sh, /root/setup.sh], timeLimit: 20s }
  - run: { argv: [/bin/echo, after] }
checks:
${checks}`;

const observe = (id: string, what: string): string => `  - { id: ${id}, title: T, observe: { ${what} } }\n`;

test(
  'end to end: a machine that switches itself off is judged by its disk, whose links do not lead out of it',
  { skip },
  async () => {
    const setup = `mkdir -p /data && echo "the word is xyzzy" > /data/answer
ln -s ../../../../data/answer /data/climb
ln -s /etc/passwd /data/hosts-own
mkfifo /data/pipe
echo "words on the console" > /dev/ttyS0
sync; sleep 1
echo u > /proc/sysrq-trigger; sleep 1
poweroff -f
`;
    const checks =
      observe('console', 'console: { contains: "words on the console" }') +
      observe('other', 'console: { contains: "other words" }') +
      observe('ping', 'ping: {}') +
      observe('listen', 'listen: { port: 22 }') +
      observe('answer', 'file: { path: /data/answer, exact: "the word is xyzzy\\n" }') +
      observe('climb', 'file: { path: /data/climb, contains: xyzzy }') +
      observe('own', 'file: { path: /data/hosts-own, contains: "nobody:x:65534" }') +
      observe('absent', 'file: { path: /data/nothing, absent: true }') +
      observe('pipe', 'file: { path: /data/pipe, contains: x }');
    const result = await gradeTexts(grader, { 'lab.yaml': lab(checks) }, { 'setup.sh': setup });
    const expected: Readonly<Record<string, RegExp>> = {
      console: /^passed/,
      other: /^failed 0: its console does not say "other words"/,
      ping: /^failed 0: the machine has switched itself off/,
      listen: /^failed 0: the machine has switched itself off/,
      answer: /^passed/,
      climb: /^passed/,
      own: /^passed/,
      absent: /^passed/,
      pipe: /^failed 0: \/data\/pipe is not a regular file/,
    };
    for (const [id, words] of Object.entries(expected)) assert.match(summary(result, id), words);
    assert.equal(result.state, 'graded');
  },
);

test(
  'end to end: a machine whose root has ended the agent is looked at all the same, and told apart from our own faults',
  { skip },
  async () => {
    const setup = `(while :; do httpd -f -p 8080 -h /srv; done) > /dev/null 2>&1 &
mkdir -p /srv && echo here > /srv/index.html
rm /usr/lib/carrel/agent
for p in /proc/[0-9]*; do case $(readlink $p/exe) in */carrel/agent*) kill -9 \${p#/proc/};; esac; done
`;
    const checks =
      observe('ping', 'ping: {}') +
      observe('listen', 'listen: { port: 8080, send: "GET / HTTP/1.0\\r\\n\\r\\n", answers: here }') +
      observe('closed', 'listen: { port: 8081 }');
    const result = await gradeTexts(grader, { 'lab.yaml': lab(checks) }, { 'setup.sh': setup });
    assert.deepEqual([...result.verdicts.values()], ['passed', 'passed', 'failed']);
    assert.match(result.checks[0]?.stderr ?? '', /a step could not be taken/);
  },
);

async function pingIn(text: string): Promise<string> {
  return summary(await gradeTexts(grader, { 'lab.yaml': text }, { 'setup.sh': '' }), 'ping');
}

test('end to end: an image of the wrong kind is the author’s mistake, said by name', { skip }, async () => {
  const checks = observe('ping', 'ping: {}');
  assert.match(await pingIn(lab(checks).replace('tiny', 'busybox')), /^error 0: image busybox is no disk/);
  const container = lab(observe('ping', 'ping: { address: 10.0.0.1 }')).replace(/machine: \{.*\n/, '');
  assert.match(await pingIn(container), /^error 0: image tiny is the disk of a virtual machine/);
});

test(
  'end to end: a grader that is killed leaves a virtual machine, which the next one ends',
  { skip },
  async () => {
    const other = await startOtherGrader(
      { image: 'tiny', driver: 'qemu', limits: { memoryBytes: 128 * 2 ** 20 } },
      "grader.scratch + '/machines/' + machine.id",
    );
    const directory = other.said;
    const keeper = identify(Number(readLockNote(keptPaths(directory).lock)?.split(' ')[0]));
    assert.ok(keeper);
    await other.kill();
    assert.ok(isAlive(keeper), 'machines outlive their grader');
    const next = await openLocalGrader({ slots: 1 });
    await next.close();
    assert.ok(!isAlive(keeper));
    assert.equal(existsSync(join(directory, '../..')), false);
  },
);
