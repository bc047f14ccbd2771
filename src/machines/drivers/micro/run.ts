/** A run that somebody asks for: its arguments, the guest made of the machine's files, and what is answered in the end. */
import { existsSync, readFileSync } from 'node:fs';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { formatDuration, formatSize } from '#base/units.ts';
import { type RunReply, type RunRequest, runRequest } from '#contract/schemas/machines.ts';
import { readFileInRoot } from '#host/inroot.ts';
import type { Image } from '#images/layout.ts';
import { keptPaths } from '#isolate/kept.ts';
import { kvmFor } from '#vmm/apart/device.ts';
import type { RunReport, VcpuReport } from '#vmm/apart/order.ts';
import { findPortMap, portMaps } from '#vmm/hypercalls/maps.ts';
import { findFact } from '#vmm/inspect/facts.ts';
import { windowBytes } from '#vmm/layout.ts';
import { modeNames } from '#vmm/modes/mode.ts';
import { modes } from '#vmm/modes/table.ts';
import type { EndReport, MachineSpec, PlacedRun } from '../../driver.ts';
import type { DriverHost } from '../table.ts';
import { compileApart, guestBytes, isSource, noFile } from './compile.ts';
import { readReport } from './report.ts';
import { prepareShare } from './share.ts';
import { microPaths, mostRunVcpus, outputBytes, runLimitMs } from './spec.ts';

const mostFacts = 50;

/** How a guest is run, as it lies in the machine's directory. */
const howSchema = z.strictObject({
  /** As it was called by who asked for it. */
  name: z.string(),
  mode: z.enum(modeNames),
  vcpus: z.int().min(1).max(mostRunVcpus),
  ports: z.string(),
  limitMs: z.int().min(1).max(runLimitMs),
  outputBytes: z.int().min(0).max(outputBytes),
  /** To be told of in the inspection, besides the usual ones: vmm/inspect/facts.ts. */
  facts: z.array(z.string()).max(mostFacts),
});
export type How = z.infer<typeof howSchema>;

/** What the machine was last told to run; undefined: nothing yet. */
export function placedRun(directory: string): How | undefined {
  const { run } = microPaths(directory);
  return existsSync(run) ? howSchema.parse(JSON.parse(readFileSync(run, 'utf8'))) : undefined;
}

const usage =
  'run GUEST [MORE SOURCES] [--mode long] [--vcpus 2] [--ports MAP] [--fact walk:0x400]; GUEST is a file of the machine';

const refused = (message: string, hint = usage): CarrelError =>
  new CarrelError('invalid_request', message, { hint });

interface Arguments extends Pick<How, 'mode' | 'vcpus' | 'ports' | 'facts'> {
  readonly files: readonly string[];
}

/** The arguments of a run: those of `carrel vmm run`, as far as they are the student's to choose. */
export function parseRun(argv: readonly string[]): Arguments {
  let parsed;
  try {
    parsed = parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        mode: { type: 'string', short: 'm', default: 'long' },
        vcpus: { type: 'string', default: '1' },
        ports: { type: 'string', default: 'carrel' },
        fact: { type: 'string', multiple: true, default: [] },
      },
    });
  } catch (error) {
    throw refused(messageOf(error));
  }
  const { values, positionals } = parsed;
  const mode = modeNames.find((name) => name === values.mode);
  if (!mode) throw refused(`there is no mode ${values.mode}`, `there are: ${modeNames.join(', ')}`);
  if (!findPortMap(values.ports))
    throw refused(
      `there is no port map ${values.ports}`,
      `there are: ${portMaps.map(({ name }) => name).join(', ')}`,
    );
  const vcpus = Number(values.vcpus);
  if (!/^\d+$/.test(values.vcpus) || vcpus < 1 || vcpus > mostRunVcpus)
    throw refused(`a run has 1 to ${mostRunVcpus} vCPUs, not ${values.vcpus}`);
  const unknown = values.fact.find((name) => findFact(name) === undefined);
  if (unknown !== undefined) throw refused(`there is no fact ${unknown}`, 'labs/README.md lists them');
  if (values.fact.length > mostFacts) throw refused(`more than ${mostFacts} facts are asked for`);
  // where they lie, as it is said of other machines' files
  const files = positionals.map((file) => file.replace(/^\/+/, ''));
  const [first] = files;
  if (first === undefined || first === '') throw refused('no guest is named');
  if (files.length > 1 && !files.every(isSource))
    throw refused('only sources can be put together', 'C (.c) and assembly (.s, .S)');
  return { files, mode, vcpus, ports: values.ports, facts: values.fact };
}

/** There is no one in a guest to whom these could be given. */
function requireNothingElse({ argv, env, cwd, user, stdin }: RunRequest): void {
  const usual = runRequest.parse({ argv });
  const given = [
    [Object.keys(env).length > 0, 'environment'],
    [cwd !== usual.cwd, 'working directory'],
    [user !== usual.user, 'users'],
    [stdin !== usual.stdin, 'standard input'],
  ] as const;
  const what = given.find(([is]) => is)?.[1];
  if (what !== undefined) throw refused(`a guest has no ${what}`);
}

async function guestOf(
  spec: MachineSpec,
  image: Image,
  { files, mode }: Arguments,
  parts: Pick<DriverHost, 'sandboxes'> & { signal: AbortSignal | undefined },
): Promise<Uint8Array> {
  const [first = ''] = files;
  const share = await prepareShare(spec);
  if (isSource(first)) return await compileApart(spec, image, { mode: modes[mode], files }, parts);
  if (!['.elf', '.bin', '.img', ''].includes(extname(first)))
    throw refused(
      `${first} is no guest`,
      'a guest is a file in C (.c), in assembly (.s, .S), an ELF program, or plain machine code (.bin, .img)',
    );
  try {
    return await readFileInRoot(share, first, { maxBytes: guestBytes });
  } catch (error) {
    throw isCarrelError(error, 'not_found') ? noFile(spec.name, first) : error;
  }
}

/** Makes the guest that is asked for. Of one machine one at a time: see the driver. */
export async function makeRun(
  spec: MachineSpec,
  image: Image,
  request: RunRequest,
  parts: Pick<DriverHost, 'sandboxes'> & { signal: AbortSignal | undefined },
): Promise<PlacedRun> {
  requireNothingElse(request);
  const wanted = parseRun(request.argv);
  const { mode, vcpus, ports, facts } = wanted;
  if (vcpus * windowBytes > spec.limits.memoryBytes)
    throw refused(
      `${vcpus} vCPUs have ${formatSize(vcpus * windowBytes)} of memory, and machine ${spec.name} has ${formatSize(spec.limits.memoryBytes)}`,
    );
  (await kvmFor(mode, vcpus)).close(); // says why if it cannot be
  const guest = await guestOf(spec, image, wanted, parts);
  const how: How = {
    name: wanted.files[0] ?? '',
    mode,
    vcpus,
    ports,
    limitMs: request.limitMs,
    outputBytes: Math.min(request.outputBytes, outputBytes),
    facts,
  };
  return {
    place: () => place(spec.directory, guest, how),
    reply: async (ended) => replyOf(spec.directory, ended),
  };
}

/** The guest before how it is run: who is cut off between them runs the new one as the old one. */
async function place(directory: string, guest: Uint8Array, how: How): Promise<void> {
  const paths = microPaths(directory);
  await rm(paths.report, { force: true }); // of the run before: what fails to start has none
  for (const [path, data] of [
    [paths.guest, guest],
    [paths.run, JSON.stringify(how)],
  ] as const) {
    await writeFile(`${path}.new`, data, { mode: 0o644 });
    await rename(`${path}.new`, path);
  }
}

const base64 = (text: string): string => Buffer.from(text).toString('base64');

/** What came of it, as of a program: its text, how each vCPU ended, and a status. */
async function replyOf(directory: string, ended: EndReport): Promise<RunReply> {
  const said = readReport(directory);
  if (!said) {
    const text = await readFile(keptPaths(directory).console).catch(() => Buffer.alloc(0));
    return {
      end: ended.outOfMemory ? { kind: 'killed', reason: 'memory' } : (ended.end ?? cancelled),
      stdout: '',
      stderr: base64(
        `the guest's machine ended without a report\n${text.length > 0 ? 'see its console\n' : ''}`,
      ),
      wallMs: 0,
    };
  }
  if ('refused' in said)
    return {
      end: { kind: 'exited', status: 1 },
      stdout: '',
      stderr: base64(`${said.refused}\n`),
      wallMs: 0,
    };
  const { vcpus } = said;
  return {
    end: endOf(vcpus),
    stdout: base64(textOf(said)),
    stderr: base64(vcpus.map(sentenceOf).join('')),
    wallMs: Math.max(...vcpus.map(({ ms }) => ms)),
  };
}

const cancelled = { kind: 'killed', reason: 'cancelled' } as const;

/** The worst of what its vCPUs have come to. */
function endOf(vcpus: readonly VcpuReport[]): RunReply['end'] {
  const kinds = new Set(vcpus.map(({ end }) => end.kind));
  if (kinds.has('time limit')) return { kind: 'killed', reason: 'wall' };
  if (kinds.has('output limit')) return { kind: 'killed', reason: 'output' };
  if (kinds.has('stopped')) return cancelled;
  return { kind: 'exited', status: [...kinds].every((kind) => kind === 'halted') ? 0 : 1 };
}

/** Of several vCPUs, each line says whose it is. */
function textOf({ vcpus }: Exclude<RunReport, { readonly refused: string }>): string {
  if (vcpus.length === 1) return vcpus[0]?.output ?? '';
  return vcpus
    .map(({ output }, index) => {
      const labelled = output.replace(/^(?=.)/gm, `[vcpu ${index}] `);
      return labelled === '' || labelled.endsWith('\n') ? labelled : `${labelled}\n`;
    })
    .join('');
}

/** As `carrel vmm run` says it. */
function sentenceOf({ end, exits, ms, registers }: VcpuReport, index: number): string {
  const reasons = Object.entries(exits.byReason).map(([name, count]) => `${count} ${name}`);
  const list = reasons.length > 0 ? ` (${reasons.join(', ')})` : '';
  const counts = `${exits.total} ${exits.total === 1 ? 'exit' : 'exits'}${list}`;
  const where = `RAX ${registers['rax'] ?? '?'}, RIP ${registers['rip'] ?? '?'}`;
  return `vcpu ${index}: ${end.sentence}; ${counts} in ${formatDuration(ms)}, ${where}\n`;
}
