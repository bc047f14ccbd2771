/** Content-addressed files of the data directory: a row says that the file is complete. */
import type { CreatedAt, Fact } from './columns.ts';
import type { Db } from './schema.ts';

export interface BlobTable {
  /** SHA-256 in hex. */
  hash: Fact<string>;
  bytes: Fact<number>;
  created_at: CreatedAt;
}

/** Notes blobs whose files are in place and synced; known ones are skipped. */
export async function insertBlobs(
  db: Db,
  blobs: readonly { readonly hash: string; readonly bytes: number }[],
): Promise<void> {
  if (blobs.length === 0) return;
  await db
    .insertInto('blobs')
    .values(blobs.map(({ hash, bytes }) => ({ hash, bytes })))
    .onConflict((oc) => oc.column('hash').doNothing())
    .execute();
}
