/** Machine labs from end to end: fresh machines, looked at from outside. Needs root. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { identify, isAlive } from '#host/processes.ts';
import { type LocalGrader, openLocalGrader } from './local.ts';
import { proveLab } from './prove.ts';
import { gradeTexts, startOtherGrader, summary } from './testing.ts';

let grader: LocalGrader;
before(async () => {
  grader = await openLocalGrader({ slots: 2 });
});
after(() => grader.close());

test('end to end: first-namespaces: what each solution leaves is seen from outside, whatever its tools say', async () => {
  const proof = await proveLab(join(import.meta.dirname, '../../labs/first-namespaces'), grader);
  assert.deepEqual(
    proof.solutions.flatMap(({ name, mismatches }) => mismatches.map((mismatch) => ({ name, ...mismatch }))),
    [],
  );
  assert.ok(proof.ok);
  assert.deepEqual([proof.unproven, proof.problems], [[], []]);
});

const lab = (checks: string): string => `title: T
name: t
image: debian-12
run: machine
points: 10
submit: { files: [{ pattern: setup.sh }] }
start:
  - place: { submitted: '*.sh', to: /root/, mode: '0755' }
  - place: { test: word, to: /root/word }
  - run: { argv: [/root/setup.sh], timeLimit: 20s }
  - wait: 300ms
checks:
${checks}`;

const observe = (id: string, what: string): string => `  - { id: ${id}, title: T, observe: { ${what} } }\n`;

const setup = `#!/bin/sh
echo started; echo problem >&2
echo "the word is $(cat /root/word)" > /root/answer
ln -s /root/answer /root/link
ln -s ../../../../../../../root/answer /root/climb
ln -s /proc/1/environ /root/magic
mkfifo /root/pipe
head -c 3000000 /dev/zero > /root/large
mkdir -p /mnt/ram && mount -t tmpfs -o size=1m,noexec none /mnt/ram
cat > /root/server.py <<'END'
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('0.0.0.0', 8080)); s.listen()
while True:
    c, _ = s.accept(); c.sendall(b'you said ' + c.recv(100)); c.close()
END
setsid python3 /root/server.py < /dev/null > /dev/null 2>&1 &
cp /bin/sleep '/tmp/a b) S 1'
setsid '/tmp/a b) S 1' 7200 < /dev/null > /dev/null 2>&1 &
ip link add veth9 type veth peer name peer9; ip addr add 192.0.2.9/24 dev veth9; ip link set veth9 up; ip link set peer9 up
`;

test('end to end: files, ports, mounts, interfaces and processes are observed without asking the machine', async () => {
  const checks =
    observe('file', 'file: { path: /root/answer, exact: "the word is xyzzy\\n" }') +
    observe('link', 'file: { path: /root/link, contains: xyzzy }') +
    observe('climb', 'file: { path: /root/climb, contains: xyzzy }') +
    observe('absent', 'file: { path: /root/other, absent: true }') +
    observe('listen', 'listen: { port: 8080, send: "hello", answers: "you said hello" }') +
    observe('open', 'listen: { port: 8080 }') +
    observe('mounts', 'mounts: { path: /mnt/ram, type: tmpfs, options: [noexec] }') +
    observe('interface', 'interface: { name: veth9, address: 192.0.2.9 }') +
    observe('comm', 'process: { comm: "a b) S 1" }') +
    observe('magic', 'file: { path: /root/magic, contains: x }') +
    observe('pipe', 'file: { path: /root/pipe, contains: x }') +
    observe('large', 'file: { path: /root/large, contains: x }') +
    observe('closed', 'listen: { port: 8081 }') +
    observe('other-answer', 'listen: { port: 8080, send: "x", answers: "PASS" }') +
    observe('no-mount', 'mounts: { path: /mnt/ram, type: ext4 }') +
    observe('no-interface', 'interface: { address: 192.0.2.10 }') +
    observe('no-process', 'process: { own: [pid] }') +
    observe('itself', 'ping: { address: 192.0.2.9 }') +
    observe('nobody', 'ping: { address: 192.0.2.10 }') +
    observe('outside', 'ping: { address: 203.0.113.7 }');
  const result = await gradeTexts(
    grader,
    { 'lab.yaml': lab(checks), 'tests/word': 'xyzzy' },
    { 'setup.sh': setup },
  );
  const right = ['file', 'link', 'climb', 'absent', 'listen', 'open', 'mounts', 'interface', 'comm'];
  for (const id of right) assert.match(summary(result, id), /^passed/, `${id}: ${summary(result, id)}`);
  const wrong: Readonly<Record<string, RegExp>> = {
    magic: /./,
    pipe: /not a regular file/,
    large: /larger than 1 MiB/,
    closed: /nothing listens on port 8081/,
    'other-answer': /answered "you said x", without "PASS"/,
    'no-mount': /is a tmpfs/,
    'no-interface': /no interface has the address/,
    'no-process': /no process has its own pid namespace/,
    itself: /belongs to the network namespace that sends/,
    nobody: /does not answer/,
    outside: /no link leads to 203\.0\.113\.7/,
  };
  for (const [id, reason] of Object.entries(wrong)) {
    assert.match(summary(result, id), /^failed 0/, `${id}: ${summary(result, id)}`);
    assert.match(summary(result, id), reason);
  }
  assert.equal(result.checks[0]?.stdout, 'started\n');
  assert.equal(result.checks[0]?.stderr, 'problem\n');
  assert.match(
    readFileSync('/proc/thread-self/net/dev', 'utf8'),
    /br0/,
    'the fabric is in a namespace of its own',
  );
});

test('end to end: a hostile machine can neither blind the observer nor hold it up', async () => {
  const hostile = `#!/bin/sh
echo yes > /root/answer
for n in $(seq 1 90); do unshare --uts sh -c "hostname fake-$n; exec sleep 7200" < /dev/null > /dev/null 2>&1 & done
sleep 1
mount -t tmpfs none /proc
mount -t tmpfs none /sys
mount --bind /dev/null /etc/passwd
rm -rf /bin /usr/bin /lib /usr/lib
`;
  const checks =
    observe('file', 'file: { path: /root/answer, exact: "yes\\n" }') +
    observe('uts', 'process: { own: [uts] }') +
    observe('hostname', 'process: { own: [uts], hostname: isolated }') +
    observe('proc', 'mounts: { path: /proc, type: tmpfs }') +
    observe('passwd', 'file: { path: /etc/passwd, contains: root }') +
    observe('listen', 'listen: { port: 22 }') +
    observe('ping', 'ping: { address: 192.0.2.1 }');
  const result = await gradeTexts(
    grader,
    { 'lab.yaml': lab(checks), 'tests/word': '' },
    { 'setup.sh': hostile },
  );
  assert.deepEqual(
    [...result.verdicts.values()],
    ['passed', 'passed', 'failed', 'passed', 'failed', 'failed', 'failed'],
    JSON.stringify(result.checks.map(({ reason }) => reason)),
  );
});

test('end to end: what a killed grader leaves running is ended by the next one', async () => {
  const other = await startOtherGrader(
    { image: 'busybox', driver: 'container', limits: {} },
    'machine.initPid',
  );
  const init = identify(Number(other.said));
  assert.ok(init);
  await other.kill();
  assert.ok(isAlive(init), 'machines outlive their grader');
  const next = await openLocalGrader({ slots: 1 });
  await next.close();
  assert.ok(!isAlive(init));
});

test('end to end: a start step that the image cannot take is the author’s fault, with the other results kept apart', async () => {
  const bad = lab('  - { id: a, title: A, observe: { file: { path: /x, absent: true } } }\n').replace(
    'to: /root/word',
    'to: /no/such/directory/word',
  );
  const result = await gradeTexts(
    grader,
    { 'lab.yaml': bad, 'tests/word': '' },
    { 'setup.sh': '#!/bin/sh\n' },
  );
  assert.equal(result.state, 'error');
  assert.match(summary(result, 'a'), /^error 0: cannot place a file at \/no\/such\/directory\/word/);
});
