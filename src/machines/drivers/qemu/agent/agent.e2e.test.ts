/** The agent where it belongs: in a real machine, behind a real virtio port; and the same machine over its serial line. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { sleep, within } from '#base/deadline.ts';
import type { MachineSpec, RunningMachine } from '../../../driver.ts';
import { openConsole } from '../../terminal.ts';
import { makeIdentity, makeSecrets } from '../identity.ts';
import { newPassword } from '../../../password.ts';
import { hashPassword } from '../password.ts';
import { runOverSerial } from '../serial/run.ts';
import { vmPaths } from '../spec.ts';
import { makeVmBed, skip, type VmBed } from '../testing.ts';
import type { Agent } from './agent.ts';
import { connectAgent } from './client.ts';
import { request, shell } from './testing.ts';
import { ask, encodeFrames } from './wire.ts';

/** A guest under emulation, on a host with other things to do. */
const bootMs = 120_000;

let bed: VmBed;
let spec: MachineSpec;
let machine: RunningMachine;
let agent: Agent;

before(async () => {
  if (skip) return;
  bed = await makeVmBed();
  spec = bed.spec();
  await bed.driver.prepare(spec);
  machine = await bed.driver.start(spec);
  agent = await connectAgent(vmPaths(spec.directory).agent, { limitMs: bootMs });
});
after(async () => {
  agent?.close();
  machine?.release();
  await bed?.[Symbol.asyncDispose]();
});

test('programs run in the guest, as its own users', { skip }, async (t) => {
  assert.match(await shell(agent, 'id -un; cat /proc/1/comm'), /^root\n/);
  assert.equal(await shell(agent, 'id -un; echo $HOME', { user: 'nobody' }), 'nobody\n/nonexistent\n');
  const times: number[] = [];
  for (let i = 0; i < 30; i += 1) {
    const began = performance.now();
    const { end } = await agent.run(request(['true']));
    assert.deepEqual(end, { kind: 'exited', status: 0 });
    times.push(performance.now() - began);
  }
  times.sort((a, b) => a - b);
  t.diagnostic(
    `true through the agent: p50 ${times[15]?.toFixed(1)} ms, slowest ${times.at(-1)?.toFixed(1)} ms`,
  );
});

test('the root file system has grown to the disk', { skip }, async () => {
  await agent.growRoot();
  const { diskBytes } = await agent.usage();
  assert.ok(diskBytes > 0.9 * spec.limits.diskBytes, `${diskBytes} of ${spec.limits.diskBytes}`);
});

test('files and floods go through the port whole', { skip }, async () => {
  const bytes = Buffer.alloc(3_000_000, 'some text of a file\n');
  await agent.writeFile('/tmp/file', bytes, { mode: 0o600 });
  assert.ok(Buffer.from((await agent.readFile('/tmp/file', { maxBytes: 4_000_000 })).bytes).equals(bytes));
  const { end, stdout } = await agent.run(request(['cat', '/dev/zero'], { outputBytes: 2_000_000 }));
  assert.deepEqual(end, { kind: 'killed', reason: 'output' });
  assert.equal(Buffer.from(stdout, 'base64').length, 2_000_000);
});

test('half a frame of a connection that was cut does not matter to the next one', { skip }, async () => {
  const path = vmPaths(spec.directory).agent;
  agent.close();
  const half = connect(path);
  half.write(encodeFrames(ask.write, 5, Buffer.alloc(50_000, 1)).subarray(0, 30_000));
  await sleep(300);
  half.destroy();
  agent = await connectAgent(path, { limitMs: 30_000 });
  assert.equal(await shell(agent, 'echo ok'), 'ok\n');
});

test('a machine becomes another one: name, keys, address, and still answers', { skip }, async () => {
  const network = { ...spec.network, address: '192.168.0.77', mac: '52:54:00:00:00:77' };
  const identity = makeIdentity({ ...spec, name: 'other', network }, makeSecrets());
  await agent.identify(identity);
  assert.equal(await shell(agent, 'hostname; cat /etc/machine-id'), `other\n${identity.machineId}\n`);
  const addresses = await shell(agent, 'ip -4 addr; ip link; ip route');
  assert.match(addresses, /inet 192\.168\.0\.77\/16/);
  assert.match(addresses, /52:54:00:00:00:77/);
  assert.doesNotMatch(addresses, new RegExp(`inet ${spec.network.address.replaceAll('.', '\\.')}/`));
  assert.match(addresses, /default via 192\.168\.0\.1/);
});

test('over the serial line too: log in with the new password, run, time out, go on', { skip }, async () => {
  const login = { user: 'root', password: newPassword() };
  await agent.setPassword(await hashPassword(login.password));
  const terminal = await openConsole(spec.directory);
  const run = (argv: string[], limitMs = 20_000) =>
    runOverSerial(terminal, request(argv, { limitMs, outputBytes: 100_000 }), { login, limitMs: 60_000 });
  const hello = await run(['/bin/sh', '-c', 'cat; hostname; exit 6']);
  assert.equal(Buffer.from(hello.stdout, 'base64').toString(), 'other\n');
  assert.deepEqual(hello.end, { kind: 'exited', status: 6 });
  assert.deepEqual((await run(['sleep', '1000'], 500)).end, { kind: 'killed', reason: 'wall' });
  assert.deepEqual((await run(['true'])).end, { kind: 'exited', status: 0 });
  terminal.close();
});

test('power off ends the machine, and the connection with it', { skip }, async () => {
  await agent.powerOff();
  await within(60_000, 'the machine to end', machine.ended);
  await within(30_000, 'the connection to end', agent.closed);
});
