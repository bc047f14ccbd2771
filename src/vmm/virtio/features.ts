/** Feature bits that belong to no device: 6 (reserved feature bits). A device's own are beside it. */

/** A chain may be a table elsewhere in memory (2.7.5.3). */
export const RING_INDIRECT_DESC = 1n << 28n;
/** Either side says from which index on it wants to be told (2.7.7, 2.7.10). */
export const RING_EVENT_IDX = 1n << 29n;
/** This version of the specification; 6.2: always offered, and a device may insist on it. */
export const VERSION_1 = 1n << 32n;

/** What every device here offers: the transport and the queues see to it. */
export const transportFeatures = VERSION_1 | RING_INDIRECT_DESC | RING_EVENT_IDX;
