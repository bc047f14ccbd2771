/** What a machine's networks answer, asked by our own code. */
import { connect } from 'node:net';
import type { ProcessIdentity } from '#host/processes.ts';
import type { InterfaceSpec, ListenSpec } from '../../format/kinds.ts';
import { type Outcome, failed, passed } from '../../judge/outcome.ts';
import { quote } from '../../judge/text.ts';
import { askInside } from './enter.ts';
import { interfacesOf, localAddresses } from './fib.ts';

const connectMs = 5000;
const answerBytes = 65_536;

/** An echo sent from the namespace of `from` must be answered by another namespace on a link they share. */
export async function observePing(from: ProcessIdentity, address: string): Promise<Outcome> {
  if (localAddresses(from.pid).has(address))
    return failed(`${address} belongs to the network namespace that sends, so an answer proves nothing`);
  return await pingFrom(from, address);
}

/** An echo sent from the network namespace of a process is answered. */
export async function pingFrom(from: ProcessIdentity, address: string): Promise<Outcome> {
  const said = await askInside({ kind: 'ping', process: from, address });
  if (said?.kind !== 'ping') return failed('the process whose network was to be used has ended');
  if (said.answered) return passed(`${address} answers`);
  if (said.errno === 'ENETUNREACH') return failed(`no link leads to ${address}`);
  return failed(`${address} does not answer`);
}

export function observeInterface(of: ProcessIdentity, { name, address, absent }: InterfaceSpec): Outcome {
  const hasName = name === undefined || interfacesOf(of.pid).includes(name);
  const hasAddress = address === undefined || localAddresses(of.pid).has(address);
  if (absent)
    return hasName && hasAddress ? failed(`${name ?? address} is there`) : passed('it is not there');
  if (!hasName) return failed(`there is no interface ${name}`);
  return hasAddress
    ? passed(`${address ?? name} is there`)
    : failed(`no interface has the address ${address}`);
}

/** Connects from the fabric. */
export async function observeListen(
  address: string,
  { port, send, answers }: ListenSpec,
  reveal: boolean,
): Promise<Outcome> {
  return await new Promise((resolve) => {
    const socket = connect({ host: address, port });
    let received = '';
    let connected = false;
    const end = (outcome: Outcome): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(outcome);
    };
    const missing = (): Outcome =>
      failed(
        reveal
          ? `port ${port} answered ${quote(received)}, without ${quote(answers ?? '')}`
          : `port ${port} gave the wrong answer`,
      );
    const timer = setTimeout(
      () => end(connected ? missing() : failed(`port ${port} does not answer`)),
      connectMs,
    );
    socket.setEncoding('utf8');
    socket.on('connect', () => {
      connected = true;
      if (answers === undefined) return end(passed(`port ${port} is open`));
      if (send !== undefined) socket.write(send);
    });
    socket.on('data', (text: string) => {
      received += text;
      if (answers !== undefined && received.includes(answers))
        return end(passed(`port ${port} gave the right answer`));
      if (received.length > answerBytes) end(missing());
    });
    socket.on('end', () => end(missing()));
    socket.on('error', () => end(connected ? missing() : failed(`nothing listens on port ${port}`)));
  });
}
