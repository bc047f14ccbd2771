import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Machine, limits } from '#contract/schemas/machines.ts';
import { Arguments } from '../arguments.ts';
import { createOutput } from '../ui/output.ts';
import { machineNew, renderMachine } from './machines.ts';

const machine: Machine = {
  id: 'm-1',
  name: 'one',
  owner: 'ada',
  courseId: null,
  labId: null,
  driver: 'container',
  image: 'tiny',
  state: 'paused',
  activity: null,
  asleep: false,
  runtime: null,
  failure: {
    code: 'disk_full',
    message: 'the disk is full',
    hint: 'make room',
    at: '2030-01-01T00:00:00.000Z',
  },
  gen: 1,
  network: 'default',
  address: null,
  mac: null,
  limits: limits.parse({}),
  bytesPerSecond: null,
  idleFreezeSeconds: null,
  labels: {},
  createdAt: '2030-01-01T00:00:00.000Z',
  expiresAt: null,
};

test('a limit of processes is shown where there is one: inside a virtual machine nobody counts them', () => {
  const out = createOutput();
  assert.match(renderMachine(machine, out), /memory, 512 processes, 2 GiB disk/);
  assert.match(renderMachine({ ...machine, driver: 'qemu' }, out), /memory, 2 GiB disk/);
});

test('why a machine waits is shown, with what to do', () => {
  assert.match(renderMachine(machine, createOutput()), /failure {5}the disk is full\n {12}make room\n/);
});

test('a number without a subnet is refused by the name of its option, before anybody is asked', async () => {
  for (const number of ['0', '56', '1.5'])
    await assert.rejects(
      machineNew({
        args: new Arguments(new Map([['name', 'one']]), { number }),
        out: createOutput(),
        connect: () => assert.fail('nobody is asked'),
      }),
      { code: 'invalid_request', message: `--number wants one of 1 to 55, not ${number}` },
    );
});
