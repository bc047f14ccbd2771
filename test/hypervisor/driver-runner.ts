/** The third door: a machine of the kind micro, through service, database, keeper and jail. */
import assert from 'node:assert/strict';
import type { Actor } from '#base/actor.ts';
import { type Inspection, runRequest } from '#contract/schemas/machines.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { type Bed, startBed } from '#machines/testing.ts';
import { type Door, type GuestRun, type Hypervisor, outcomeOf, sourceOf } from './runner.ts';

/** Compiles what is put into it; its files are the share. */
const newMachine = (bed: Bed, owner: Actor): Promise<string> =>
  bed.make(owner, { image: 'debian-12', driver: 'micro' });

async function runIn(
  bed: Bed,
  id: string,
  { guest, mode = 'long', vcpus = 1, limitMs = 5000, ports = 'carrel' }: Omit<GuestRun, 'share'>,
  facts: readonly string[],
): Promise<Inspection> {
  const { name, text } = await sourceOf(guest);
  await bed.machines.writeFile(id, name, Buffer.from(text));
  const argv = [name, `--mode=${mode}`, `--vcpus=${vcpus}`, `--ports=${ports}`];
  await bed.machines.run(
    id,
    runRequest.parse({ argv: [...argv, ...facts.map((fact) => `--fact=${fact}`)], limitMs }),
  );
  return await bed.machines.inspect(id);
}

function fact(facts: Inspection['facts'], name: string): string {
  const value = facts[name];
  assert.ok(value !== undefined, `there is no ${name}`);
  return value;
}

async function openDriver(): Promise<Hypervisor> {
  await using opened = new AsyncDisposableStack();
  const bed = opened.use(await startBed());
  await bed.images.ensure('debian-12');
  const owner = await bed.user('anna');
  const usual = await newMachine(bed, owner);
  const halt = { guest: { asm: 'hlt\n' } } as const;
  const all = opened.move();
  return {
    async run({ share, ...run }) {
      const { vcpus, facts } = await runIn(bed, share?.place ?? usual, run, ['word:0x400']);
      return {
        vcpus: vcpus.map(outcomeOf),
        at400: Number(BigInt(fact(facts, 'word:0x400')) & 0xffffn),
      };
    },
    async share() {
      const place = await newMachine(bed, owner);
      return {
        place,
        read: async (name) => Buffer.from((await bed.machines.readFile(place, name)).bytes).toString(),
      };
    },
    async begin() {
      const registers = ['cr0', 'cr3', 'cr4', 'efer', 'rip', 'rsp', 'rflags'];
      const tables = [0x2000, 0x3000, 0x4000].map((at) => `table.entry:0x${at.toString(16)}`);
      const { facts } = await runIn(bed, usual, halt, [
        ...registers.map((name) => `start:${name}`),
        ...tables,
      ]);
      return {
        registers: Object.fromEntries(registers.map((name) => [name, BigInt(fact(facts, `start:${name}`))])),
        memoryBytes: Number(fact(facts, 'memory.bytes')),
        entries: tables.map((name) => BigInt(fact(facts, name))),
      };
    },
    async walk(address) {
      const [walk, why] = ['walk', 'walk.why'].map((name) => `${name}:0x${address.toString(16)}`);
      assert.ok(walk !== undefined && why !== undefined);
      const { facts } = await runIn(bed, usual, halt, [walk, why]);
      const reached = fact(facts, walk);
      return reached === 'not mapped' ? fact(facts, why) : BigInt(reached);
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

export const driver: Door = {
  name: 'machine driver',
  skip: process.getuid?.() === 0 ? withoutKvm : 'needs root',
  open: openDriver,
};
