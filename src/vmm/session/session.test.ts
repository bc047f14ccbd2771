import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import { parseBreakpoint } from '../debug/parse.ts';
import { code } from '../testing.ts';
import type { SessionEvent } from './events.ts';
import { openSession } from './session.ts';
import { mostRead } from './vcpu.ts';

/** mov $'a', %al; out %al, $0xe9; inc %al; out %al, $0xe9; hlt */
const ab = code(0xb0, 0x61, 0xe6, 0xe9, 0xfe, 0xc0, 0xe6, 0xe9, 0xf4);
const spin = code(0xeb, 0xfe);
const at = (text: string): ReturnType<typeof parseBreakpoint> => parseBreakpoint(text, 'execute', []);
const wrongState = (error: unknown): boolean => isCarrelError(error, 'wrong_state');
const refused = (error: unknown): boolean => isCarrelError(error, 'invalid_request');

suite('a session', { skip: withoutKvm }, () => {
  test('that is closed while it begins anew leaves nothing', async () => {
    const before = holdings();
    const session = openSession({ mode: 'long', image: ab });
    const reset = session.reset();
    await Promise.all([assert.rejects(reset, wrongState), session.close()]);
    assert.throws(() => session.vcpu(0), wrongState);
    const { fds, mappings } = holdings();
    assert.deepEqual([fds, mappings], [before.fds, before.mappings]);
  });

  test('steps, stops at a breakpoint, goes on, and ends; output and counts go on where they were', async () => {
    const events: SessionEvent[] = [];
    await using session = openSession(
      { mode: 'long', image: ab },
      { onEvent: (event) => events.push(event) },
    );
    const vcpu = session.vcpu(0);
    assert.deepEqual([vcpu.state, vcpu.end], ['paused', undefined]);
    const { steps = [] } = await session.step(0, 2);
    assert.deepEqual(
      steps.map(({ rip, text }) => [rip, text]),
      [
        [0n, 'mov $0x61,%al'],
        [2n, 'out %al,$0xe9'],
      ],
    );
    assert.deepEqual([vcpu.registers().rip, vcpu.exits.total], [4n, 1]);
    session.addBreakpoint(at('6'));
    const there = await session.resume(0);
    assert.deepEqual([there.end.kind, vcpu.registers().rax, vcpu.state], ['breakpoint', 0x62n, 'paused']);
    const { end, exits } = await session.resume(0);
    assert.deepEqual([end.kind, exits.byReason, vcpu.state], ['halted', { IO: 2, HLT: 1 }, 'over']);
    await assert.rejects(session.resume(0), wrongState);

    const text = events.map((event) => (event.kind === 'output' ? event.text : '')).join('');
    assert.equal(text, 'ab');
    const traced = events.flatMap((event) => (event.kind === 'exits' ? event.exits : []));
    assert.deepEqual(
      traced.map(({ number, value }) => [number, value]),
      [
        [1, 0x61],
        [2, 0x62],
        [3, undefined],
      ],
    );
  });

  test('registers and memory are written, by hand, and the guest goes on with them', async () => {
    await using session = openSession({ mode: 'long', image: ab });
    const vcpu = session.vcpu(0);
    await session.step(0);
    vcpu.setRegister('rax', 0x41n);
    vcpu.write(8n, Uint8Array.of(0x90, 0xf4)); // nop; hlt
    const { end, registers } = await session.resume(0);
    assert.deepEqual([end.kind, registers.rip], ['halted', 10n]);
    assert.deepEqual([...vcpu.read(8n, 2)], [0x90, 0xf4]);
    assert.deepEqual([...vcpu.read(8n, 2, { physical: true })], [0x90, 0xf4]);
    assert.throws(() => vcpu.setRegister('cr3', 0n), refused);
    for (const [address, length] of [
      [0x1f_ffffn, 2],
      [0n, 0],
      [0n, mostRead + 1],
    ] as const) {
      assert.throws(() => vcpu.read(address, length), refused);
      assert.throws(() => vcpu.read(address, length, { physical: true }), refused);
    }
    assert.throws(() => vcpu.write(0x1f_ffffn, Uint8Array.of(1, 2)), refused);
    assert.equal(vcpu.read(0x1f_ffffn, 1)[0], 0);
  });

  test('a guest that runs is paused; until then nobody looks into it; then it goes on', async () => {
    await using session = openSession({ mode: 'long', image: spin }, { limitMs: 60_000 });
    const vcpu = session.vcpu(0);
    const running = session.resume(0);
    assert.equal(vcpu.state, 'running');
    assert.throws(() => vcpu.registers(), wrongState);
    await assert.rejects(session.step(0), wrongState);
    await session.pause(0);
    assert.deepEqual([(await running).end.kind, vcpu.state, vcpu.registers().rip], ['stopped', 'paused', 0n]);
    const { end } = await session.step(0, 3);
    assert.equal(end.kind, 'steps done');
  });

  test('a time limit is a pause', async () => {
    await using session = openSession({ mode: 'long', image: spin }, { limitMs: 100 });
    assert.equal((await session.resume(0)).end.kind, 'time limit');
    assert.equal(session.vcpu(0).state, 'paused');
  });

  test('one vCPU is inspected while another runs', async () => {
    await using session = openSession({ mode: 'long', image: spin, vcpus: 2 }, { limitMs: 60_000 });
    const running = session.resume(1);
    await session.step(0, 2);
    assert.deepEqual([session.vcpu(0).state, session.vcpu(1).state], ['paused', 'running']);
    const { walk } = session.vcpu(0).walk(0x10n);
    assert.ok(walk.result.mapped);
    assert.throws(() => session.vcpu(2), { code: 'not_found' });
    await session.reset();
    assert.equal((await running).end.kind, 'stopped');
  });

  test('a reset begins anew, with the breakpoints there were', async () => {
    await using session = openSession({ mode: 'long', image: ab });
    const { number } = session.addBreakpoint(at('2'));
    await session.resume(0);
    await session.resume(0);
    assert.equal(session.vcpu(0).state, 'over');
    const old = session.vcpu(0);
    await session.reset();
    assert.throws(() => old.registers(), wrongState);
    await assert.rejects(old.go({}, { limitMs: 1000 }), wrongState);
    assert.deepEqual([session.vcpu(0).state, session.vcpu(0).exits.total], ['paused', 0]);
    assert.equal((await session.resume(0)).end.kind, 'breakpoint');
    session.removeBreakpoint(number);
    assert.throws(() => session.removeBreakpoint(number), { code: 'not_found' });
    assert.equal((await session.resume(0)).end.kind, 'halted');
  });

  test('a session that cannot be opened leaves no machine', async () => {
    const before = holdings().fds;
    assert.throws(() => openSession({ mode: 'long', image: ab }, { ports: 'none' }), { code: 'not_found' });
    await until(120_000, 'the machine to go', () => (holdings().fds === before ? true : undefined));
  });

  test('what cannot be done is refused, and a closed session leaves nothing', async () => {
    const before = holdings();
    const session = openSession({ mode: 'long', image: spin });
    await assert.rejects(session.step(0, 0), refused);
    await assert.rejects(session.step(0, 1e6), refused);
    const running = session.resume(0);
    await session.close();
    assert.equal((await running).end.kind, 'stopped');
    assert.throws(() => session.vcpu(0), wrongState);
    await assert.rejects(session.reset(), wrongState);
    await session.close();
    const { fds, mappings } = holdings();
    assert.deepEqual([fds, mappings], [before.fds, before.mappings]);
  });
});
