/**
 * A daemon for tests that is there to be killed: opens the service over what the test has, does the work that there is,
 * and says when it is ready. Arguments: the data directory; the connection to the database, and what else it shall
 * know, as JSON.
 */
import { z } from 'zod';
import { openFabric } from '#fabric/fabric.ts';
import { openImages } from '#images/store.ts';
import { openStore } from '#store/database.ts';
import { openService } from './testing.ts';

const connection = z.strictObject({ host: z.string(), user: z.string(), database: z.string() });
/** Without `reconciles` it is a worker beside the daemon. */
const options = z.strictObject({ leaseMs: z.int(), reconciles: z.boolean() });
/** Should nobody kill it. */
const lifeMs = 180_000;

const [dataDirectory = '', connectionText = '', optionsText = ''] = process.argv.slice(2);
setTimeout(() => process.exit(3), lifeMs);
await openService({
  store: openStore({ connection: connection.parse(JSON.parse(connectionText)) }),
  fabric: await openFabric(),
  images: await openImages(),
  dataDirectory,
  ...options.parse(JSON.parse(optionsText)),
});
process.stdout.write('ready\n');
