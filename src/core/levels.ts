/**
 * Feature levels at which this program can run: src/cluster/features.ts tells what they are. The
 * superblock of a data directory has the highest that it was served at as its format version.
 */
export const LEVEL_MIN = 1
export const LEVEL_MAX = 4
