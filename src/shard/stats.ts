/**
 * What a shard tells the outside, as numbers in one Float64Array that may be shared memory: the
 * shard writes, the main thread reads whenever it likes. Order is the index in the array.
 */
export const shardStatNames = [
  // gauges
  'state', // 0 recovering, 1 serving, 2 failed (takes no writes), 3 stopped
  'capacityBytes',
  'usedBytes', // bytes of segment files
  'liveBytes', // payload that the index refers to
  'deadBytes', // payload in segments that nothing refers to
  'missingBlocks', // live, and their segment file is not there
  'segments',
  'segmentsFree', // recycled files that wait for use
  'indexEntries',
  'indexBytes', // memory of the extent index
  'tagBytes', // memory of the tags of sealed blocks
  'appendedLsn',
  'durableLsn',
  'checkpointLsn',
  'recoveryRecords', // records replayed by the last recovery
  'recoveryMs',
  'scrubActive',
  'scrubBytesTotal',
  'scrubBytesDone',
  'scrubErrorsLast', // found by the last round, or the one under way if more
  'checksumErrorsChecked', // checksumErrors before the last round that found nothing
  'compactionActive',
  'compactionBytesTotal',
  'compactionBytesDone',
  // counters since start
  'reads',
  'readBytes',
  'writes',
  'writeBytes',
  'trims',
  'batches',
  'headerBytes', // written as batch headers
  'checksumErrors',
  'sealErrors', // sealed blocks that verify and do not open
  'damagedBatches',
  'compactedSegments',
  'compactionReadBytes',
  'compactionWrittenBytes',
  'scrubbedBytes',
  'scrubErrors',
  'scrubRounds',
  'givenBackBytes', // chunks that other peers have instead
  'checkpoints',
  'checkpointBytes',
  'syncs',
  'syncFailures',
  'busyMs', // time not asleep
  // written by the thread that reads blocks by itself, not by the shard
  'nearReads',
  'nearReadBytes'
] as const
export type ShardStatName = (typeof shardStatNames)[number]

export const shardStatIndex = Object.fromEntries(
  shardStatNames.map((name, index) => [name, index])
) as Record<ShardStatName, number>
