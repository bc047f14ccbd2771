/** The jobs of templates without their handlers: enough to enqueue them. */
import { z } from 'zod';

/** Boots an image and parks it. */
export const parkJob = {
  kind: 'template.park',
  args: z.strictObject({ templateId: z.string() }),
  result: z.strictObject({ bytes: z.int().nonnegative() }),
  maxAttempts: 2,
};

/** Makes the number of waiting copies what it shall be. */
export const fillJob = {
  kind: 'template.fill',
  args: z.strictObject({ templateId: z.string() }),
  result: z.strictObject({ waiting: z.int().nonnegative() }),
  maxAttempts: 2,
};
