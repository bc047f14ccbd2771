/** The fabric's own namespace: is it the one we are in, and what the kernel is told about it. */
import { existsSync, writeFileSync } from 'node:fs';
import { netnsOf } from './netns.ts';

function setSysctl(name: string, value: string): void {
  const path = `/proc/sys/net/${name}`;
  if (existsSync(path)) writeFileSync(path, value);
}

/** /proc/sys/net shows the namespace of the one who looks: these are the fabric's own. */
export function setSysctls(): void {
  setSysctl('ipv6/conf/all/disable_ipv6', '1');
  setSysctl('ipv6/conf/default/disable_ipv6', '1');
  setSysctl('ipv4/conf/all/accept_redirects', '0');
  setSysctl('ipv4/conf/default/accept_redirects', '0');
  setSysctl('ipv4/conf/all/send_redirects', '0');
  setSysctl('ipv4/conf/default/send_redirects', '0');
  // else frames between two ports of the bridge also pass the IP rules, which know nothing of owners
  setSysctl('bridge/bridge-nf-call-iptables', '0');
  setSysctl('bridge/bridge-nf-call-arptables', '0');
  setSysctl('ipv4/ip_forward', '1');
}

/** A process that may not look at process 1 has no root there either, and can do no harm. */
export function isHostNamespace(): boolean {
  try {
    return netnsOf('self') === netnsOf(1);
  } catch {
    return false;
  }
}
