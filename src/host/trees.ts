/** Folders with what is in them. */
import { rm } from 'node:fs/promises';

/**
 * Removes a folder and all that is in it; nothing happens if there is none. A process that was killed a moment ago may
 * still be making a file in it (ENOTEMPTY), or hold a mount (EBUSY): tried again for some seconds, with growing pauses.
 */
export async function removeTree(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 8, retryDelay: 50 });
}
