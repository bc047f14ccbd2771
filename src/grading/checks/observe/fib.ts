/** The IPv4 addresses that a network namespace answers for, from /proc/PID/net/fib_trie. */
import { readFileSync } from 'node:fs';

/** The addresses marked `/32 host LOCAL`. */
export function parseLocalAddresses(text: string): Set<string> {
  const found = new Set<string>();
  let address: string | undefined;
  for (const line of text.split('\n')) {
    address = /\|-- (\d+\.\d+\.\d+\.\d+)$/.exec(line)?.[1] ?? address;
    if (address !== undefined && line.trimEnd().endsWith('/32 host LOCAL')) found.add(address);
  }
  return found;
}

export function localAddresses(pid: number): Set<string> {
  return parseLocalAddresses(readFileSync(`/proc/${pid}/net/fib_trie`, 'utf8'));
}

/** The names in /proc/PID/net/dev: two lines of heading, then `name: counters`. */
export function parseInterfaces(text: string): string[] {
  return text
    .split('\n')
    .slice(2)
    .flatMap((line) => /^\s*([^\s:]+(?::[^\s:]+)*):/.exec(line)?.[1] ?? []);
}

export function interfacesOf(pid: number): string[] {
  return parseInterfaces(readFileSync(`/proc/${pid}/net/dev`, 'utf8'));
}
