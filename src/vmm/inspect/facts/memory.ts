/** The machine's memory and kvm_run, as guest and host see them. */
import { windowBytes } from '../../layout.ts';
import { type Mapping, mappingAt } from '../mapping.ts';
import type { Fact, Scene } from './fact.ts';

const sharing = (mapping: Mapping | undefined): string | undefined =>
  mapping && (mapping.shared ? 'shared' : 'private');

/** `anonymous`, or what is mapped: `kvm-vcpu`. Memory may have a name in brackets: [heap], [anon:v8]. */
function backing(mapping: Mapping | undefined): string | undefined {
  if (!mapping) return undefined;
  if (mapping.path.startsWith('[')) return 'anonymous';
  return /^anon_inode:\[?([a-z-]+)/.exec(mapping.path)?.[1] ?? (mapping.path === '' ? 'anonymous' : 'file');
}

const memoryMapping = ({ map }: Scene): Mapping | undefined => mappingAt(map.hostVirtual);
const runMapping = ({ map }: Scene): Mapping | undefined => mappingAt(map.run.hostVirtual);

export const memoryFacts: readonly Fact[] = [
  {
    name: 'mode',
    when: 'before',
    doc: 'real, protected, paged or long',
    value: ({ machine }) => machine.mode.name,
  },
  {
    name: 'vcpus',
    when: 'before',
    doc: 'how many vCPUs',
    value: ({ machine }) => BigInt(machine.vcpus.length),
  },
  {
    name: 'memory.bytes',
    when: 'before',
    doc: 'guest-physical memory of the machine, all vCPUs together',
    value: ({ machine }) => BigInt(machine.memory.length),
  },
  {
    name: 'memory.window',
    when: 'before',
    doc: 'guest-physical memory of one vCPU',
    value: () => BigInt(windowBytes),
  },
  {
    name: 'memory.offset',
    argument: 'address',
    when: 'before',
    doc: 'host-virtual address of a guest-physical one, counted from that of guest-physical 0',
    value: ({ machine: { memory } }, at) => {
      const piece = memory.slice(BigInt(at), 1);
      return piece && BigInt(piece.byteOffset - memory.bytes.byteOffset);
    },
  },
  {
    name: 'memory.rights',
    when: 'before',
    doc: 'what the host may do with its mapping of that memory: of rwx, those that hold',
    value: (scene) => memoryMapping(scene)?.rights,
  },
  {
    name: 'memory.sharing',
    when: 'before',
    doc: 'whether that mapping is private or shared',
    value: (scene) => sharing(memoryMapping(scene)),
  },
  {
    name: 'memory.backing',
    when: 'before',
    doc: 'what is mapped: anonymous, or a file',
    value: (scene) => backing(memoryMapping(scene)),
  },
  {
    name: 'run.bytes',
    when: 'before',
    doc: 'size of kvm_run, which the vCPU shares with the host',
    value: ({ machine }) => BigInt(machine.runBytes),
  },
  {
    name: 'run.rights',
    when: 'before',
    doc: 'rights of its mapping',
    value: (scene) => runMapping(scene)?.rights,
  },
  {
    name: 'run.sharing',
    when: 'before',
    doc: 'whether its mapping is private or shared',
    value: (scene) => sharing(runMapping(scene)),
  },
  {
    name: 'run.backing',
    when: 'before',
    doc: 'what is mapped there: kvm-vcpu is the vCPU itself',
    value: (scene) => backing(runMapping(scene)),
  },
  {
    name: 'run.in-guest',
    when: 'before',
    doc: 'whether kvm_run lies in guest memory: yes or no',
    value: ({ machine: { memory }, map: { run } }) => {
      const inside =
        run.hostVirtual + BigInt(run.bytes) > memory.hostAddress &&
        run.hostVirtual < memory.hostAddress + BigInt(memory.length);
      return inside ? 'yes' : 'no';
    },
  },
];
