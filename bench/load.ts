/**
 * The load for list.ts: `node bench/load.ts PORT PATH SECONDS TOKEN...`, one connection per token to 127.0.0.1,
 * one request at a time on each. It reads HTTP by hand, so that the client costs little. Prints one JSON line.
 */
import { connect } from 'node:net';

const [port = '', path = '/', seconds = '1', ...tokens] = process.argv.slice(2);
const latencies: number[] = [];
let errors = 0;
const began = performance.now();
const end = began + Math.min(60, Number(seconds)) * 1000;

/** Asks again and again until the time is over. */
async function run(token: string): Promise<void> {
  const socket = connect({ port: Number(port), host: '127.0.0.1', noDelay: true });
  const request = `GET ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer ${token}\r\n\r\n`;
  let wanted = -1;
  let have = 0;
  let sentAt = 0;
  const send = (): void => {
    wanted = -1;
    have = 0;
    sentAt = performance.now();
    socket.write(request);
  };
  await new Promise<void>((resolve) => {
    socket.on('connect', send);
    socket.on('error', () => (errors += 1));
    socket.on('close', () => resolve());
    socket.on('data', (chunk: Buffer) => {
      have += chunk.length;
      if (wanted < 0) {
        const head = chunk.indexOf('\r\n\r\n');
        const text = chunk.subarray(0, head).toString('latin1');
        if (!text.startsWith('HTTP/1.1 200')) errors += 1;
        wanted = head + 4 + Number(/content-length: (\d+)/i.exec(text)?.[1]);
      }
      if (have < wanted) return;
      const now = performance.now();
      latencies.push(now - sentAt);
      if (now < end) send();
      else socket.end();
    });
    setTimeout(() => socket.destroy(), Number(seconds) * 1000 + 5000).unref();
  });
}

await Promise.all(tokens.map(run));
const elapsed = (performance.now() - began) / 1000;
latencies.sort((a, b) => a - b);
const at = (share: number): number =>
  latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? 0;
console.log(
  JSON.stringify({
    requests: latencies.length,
    seconds: elapsed,
    p50: at(0.5),
    p99: at(0.99),
    max: latencies.at(-1) ?? 0,
    errors,
  }),
);
