/** Whoever reaches the OS-Cloud routes without a token may make machines: that is for one's own host alone. */
import { CarrelError } from '#base/errors.ts';
import { type Endpoint, formatEndpoint, isLoopback } from './listeners.ts';

/** Refuses to serve them openly anywhere but on the loopback. */
export function refuseOpenTo(endpoint: Endpoint): void {
  if (isLoopback(endpoint.host)) return;
  throw new CarrelError(
    'forbidden',
    `OS-Cloud would be open to everybody who reaches ${formatEndpoint(endpoint)}`,
    { hint: 'listen on 127.0.0.1, or leave --oscloud-open out and send tokens' },
  );
}
