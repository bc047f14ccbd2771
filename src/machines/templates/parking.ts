/**
 * A worker for the test of templates: parks `tiny` and waits to be killed. Arguments: the data directory, and the
 * connection to the database as JSON.
 */
import { z } from 'zod';
import { openFabric } from '#fabric/fabric.ts';
import { openImages } from '#images/store.ts';
import { openStore } from '#store/database.ts';
import { openService } from '../testing.ts';

const connection = z.strictObject({ host: z.string(), user: z.string(), database: z.string() });
const [dataDirectory = '', connectionText = ''] = process.argv.slice(2);
/** Should nobody kill it. */
setTimeout(() => process.exit(3), 120_000);
const store = openStore({ connection: connection.parse(JSON.parse(connectionText)) });
await openService({
  store,
  fabric: await openFabric(),
  images: await openImages(),
  dataDirectory,
  leaseMs: 2000,
  reconciles: false,
});
