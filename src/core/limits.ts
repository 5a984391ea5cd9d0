/** Every limit has a name and a reason. Units end the names. */
import { assert } from './assert.ts'

/** Unit of checksum, encryption and indexing. */
export const BLOCK_BYTES = 4096
/** Unit of placement: all blocks of a chunk live in one shard of a peer. */
export const CHUNK_BYTES = 4 * 1024 * 1024
export const CHUNK_BLOCKS = CHUNK_BYTES / BLOCK_BYTES
/** A request to a shard covers at most this much of one chunk; larger ones are cut. */
export const PIECE_BLOCKS_MAX = 256
export const PIECE_BYTES_MAX = PIECE_BLOCKS_MAX * BLOCK_BYTES

/** 4 PiB: chunk indexes fit a u32, and sums of byte offsets stay exact in a number (2^53). */
export const VOLUME_BYTES_MAX = 2 ** 52
export const VOLUME_NAME_BYTES_MAX = 128

/** Shards of one peer. Each is a thread, so more than cores only helps slow disks. */
export const SHARDS_MAX = 64

/** Encrypted volumes unlocked at once: 64 KiB of memory for each worker to get their keys. */
export const KEY_SLOTS_MAX = 1024

/** Largest NBD request payload: what clients assume when no block size was negotiated. */
export const NBD_REQUEST_BYTES_MAX = 32 * 1024 * 1024
export const NBD_CONNECTIONS_MAX = 1024

/** Slots in a submission or completion queue: a power of two; deeper only adds waiting. */
export const QUEUE_SLOTS = 1024

/** Ops a worker carries out as one batch: fills one gathered write, short enough to wait for. */
export const BATCH_OPS_MAX = 256
/**
 * A batch ends with the op that brings it to this many blocks of payload. All are answered at its
 * end: with more, the main thread and the clients have nothing to do until then.
 */
export const BATCH_BLOCKS_MAX = 256
/** Files of one shard with unsynced appends; at the limit the worker syncs before it goes on. */
export const UNSYNCED_FILES_MAX = 64
/** File descriptors are numbered below this: the hard limit of common systems. */
export const FILE_DESCRIPTORS_MAX = 1024 * 1024

/** Segments of one shard. Bounds arrays indexed by slot: 16 TiB a shard with 128 MiB each. */
export const SEGMENT_SLOTS_MAX = 2 ** 17
/** Ops that one request has out at once; a longer trim goes on as they end. */
export const OPS_PER_REQUEST_MAX = 64
/** Pages for edges of sub-block writes: two at most for each that is being done. */
export const SUB_BLOCK_SCRATCH_PAGES = 256
/** Block status: chunks looked at for one request, and extents after which an answer ends. */
export const STATUS_CHUNKS_MAX = 1024
export const STATUS_EXTENTS_MAX = 512
/** A file's reads and writes go to its volume in pieces of this many bytes, some at a time. */
export const FILE_PIECE_BYTES = 1024 * 1024
export const FILE_PIECES_IN_FLIGHT = 4
/** Appends may run so far ahead of the recorded end: one metadata write for that many bytes. */
export const APPEND_RESERVE_BYTES = 64 * 1024 * 1024
/** Sequence of a version: 40 bits. A new writerEpoch is taken long before its end. */
export const SEQUENCE_MAX = 2 ** 40 - 1

/** Void versions of one shard, in runs: what writers that died had in flight, many times over. */
export const VOIDS_MAX = 262_144

/** Chunks given back by one shard, in runs of a family and group: the file of them is 4 MiB. */
export const DROPS_MAX = 100_000
/** Groups whose copy here is given back together: they share two walks of the index. */
export const RECLAIM_GROUPS_MAX = 1024
/** Chunks of these that are dealt with in one go: bounds the list of them. */
export const RECLAIM_LIST_MAX = 262_144
/** Of all groups together; a chunk may be 4 MiB. Clients go first anyway. */
export const RECLAIM_CHUNKS_PER_SECOND = 20_000

/** Runs of damaged blocks that one shard names until they are asked for; the rest comes later. */
export const DAMAGE_LISTED_MAX = 1024

/** Damaged blocks, in runs, for which a peer waits for a member that has better ones. */
export const MENDS_WAITING_MAX = 4096

/** Groups that are compared between members in one go, and chunks of one volume in these. */
export const COMPARE_GROUPS_MAX = 64
export const COMPARE_CHUNKS_MAX = 256
/** Between two looks at what differs: all that is on its way has arrived, or a member has left. */
export const COMPARE_PAUSE_MS = 10_000
/**
 * Before a peer may forget that blocks were trimmed, all that was under way when it was told has
 * come to the other members, or they have left: much longer than a gateway stands still with its
 * lease.
 */
export const TOMBSTONE_PAUSE_MS = 30_000
/** What is compared block by block, or repaired; clients go first anyway. */
export const COMPARE_BYTES_PER_SECOND = 32 * 1024 * 1024
/** Between looks for damage that a scrub found, and for groups whose time has come. */
export const SCRUB_LOOK_MS = 2000

/** Fences that a peer keeps, on disk too: volumes and groups that it may ever have served. */
export const FENCED_FAMILIES_MAX = 262_144
export const FENCED_GROUPS_MAX = 262_144
/** Groups that are brought up to date together: they share the sums of a family. */
export const RESYNC_GROUPS_MAX = 64
/** Calls and chunks of a resync under way at once: enough to hide a round trip. */
export const RESYNC_CALLS_MAX = 16
export const RESYNC_CHUNKS_MAX = 4
/** Answers to `chunkSums` that go on: lists kept for those who read them, page by page. */
export const CHUNK_LISTS_MAX = 8
/** Entries of one `chunkSums` answer. */
export const CHUNK_SUMS_MAX = 4096

/** Pages for payloads in flight. Bounds the memory of the data path together with QUEUE_SLOTS. */
export const ARENA_BYTES_DEFAULT = 64 * 1024 * 1024
/** Requests of all clients in flight at once; an empty pool stops sockets from being read. */
export const REQUESTS_IN_FLIGHT_MAX = 8192

/** Placement groups of a pool: 65,536 give each of 10,000 peers enough to share evenly. */
export const GROUPS_MAX = 65_536
/** Fewer make shares of even a handful of peers uneven. */
export const GROUPS_DEFAULT_MIN = 256
/** Copies, or fragments of a stripe, of one group. */
export const GROUP_MEMBERS_MAX = 32
/** Peers of one ring: placement is measured up to 10,000, and indices fit 16 bits. */
export const RING_PEERS_MAX = 16_384

/** Limits of a volume: nobody needs more, and with less a single request takes minutes. */
export const IOPS_MAX = 1_000_000_000
export const THROUGHPUT_BYTES_MIN = 64 * 1024
/** A client that waits for a limit looks again after so long: limits change while it waits. */
export const LIMIT_WAIT_MS_MAX = 200
/**
 * While several volumes are busy each has so many requests under way: enough to keep a shard
 * busy, and what another volume's next request waits for at most.
 */
export const SHARED_WINDOW = 16
/** The same beside a volume that has few requests at once: each waits behind all of them. */
export const SHARED_WINDOW_BESIDE_FEW = 4
/** So many are few. */
export const FEW_REQUESTS = 2
/** Volumes that began requests within this time are busy together. */
export const SHARED_MS = 100
/** Commands that a client is taken at a time while several volumes are busy. */
export const SHARED_TURN = 8
/** Deleted volumes can be restored for so long, unless a setting says otherwise. */
export const TRASH_MS_DEFAULT = 24 * 3600 * 1000
export const TRASH_MS_MAX = 365 * 24 * 3600 * 1000
/** An import that nobody goes on with is removed after this time. */
export const IMPORT_KEPT_MS = 7 * 24 * 3600 * 1000
/** One piece of an import: frames of some MiB. */
export const IMPORT_PIECE_BYTES_MAX = 8 * 1024 * 1024
/** Between looks for volumes in the trash whose time is over. */
export const TRASH_LOOK_MS = 30_000
/** Set by so much at once a clock is not trusted: more than leap seconds and what NTP slews. */
export const CLOCK_JUMP_MS = 60_000
/** Nothing is deleted by a clock before it went well for so long: time for NTP to set it. */
export const CLOCK_STEADY_MS = 15 * 60_000
/** Events that are kept of each volume: some 8 KiB of metadata. */
export const VOLUME_EVENTS_MAX = 64
/** Each is a layer that reads may have to look at, and a record. */
export const SNAPSHOTS_MAX = 4096
/** Of one volume: their ids stand in its record, 60 bytes each. */
export const CLONES_MAX = 1000
/** Branches that a read may have to go through, one below the other. */
export const BRANCH_DEPTH_MAX = 64
/** Lines of layers that restores of one volume left and snapshots still need. */
export const RESTORED_LINES_MAX = 1000
/** Runs of merged layers that a shard remembers: one for each snapshot that is kept, at most. */
export const MERGES_MAX = 262_144
/** Automatic snapshots of a volume: often enough for anybody, and metadata writes stay rare. */
export const SCHEDULE_EVERY_MS_MIN = 60_000
export const SCHEDULE_EVERY_MS_MAX = 366 * 24 * 3600 * 1000
/** Of all rules of a volume together: half of SNAPSHOTS_MAX is for people. */
export const SCHEDULE_KEEP_MAX = 2048
export const SCHEDULE_RULES_MAX = 8
/** Between looks for automatic snapshots that are due; in memory, so it costs next to nothing. */
export const SCHEDULE_LOOK_MS = 5000
/** An automatic snapshot that failed is tried again after this time. */
export const SCHEDULE_RETRY_MS = 30_000
/** One that is taken later than this was missed, and its volume's history says so. */
export const SCHEDULE_LATE_MS = 5 * 60_000
/** A time in the future further away than this was written by a clock that was wrong. */
export const SCHEDULE_AHEAD_MS = 3600_000
/** Volumes of which one process takes automatic snapshots at a time. */
export const SCHEDULE_PARALLEL = 8
/** A snapshot gives up when changes in flight take longer: the ones behind them wait so long. */
export const SNAPSHOT_HOLD_MS = 5000
/** A volume that clients open and leave all the time tells of it so often at most. */
export const SERVED_EVENT_MS = 60_000

/** A metadata request with its keys and values; etcd's default `--max-request-bytes`. */
export const METADATA_REQUEST_BYTES_MAX = 1.5 * 1024 * 1024
/** Comparisons, and operations of each branch, of one transaction; etcd's `--max-txn-ops`. */
export const METADATA_TRANSACTION_OPS_MAX = 128
/** Bytes of a metadata key; LMDB keys end at 1,978, and ours are short. */
export const METADATA_KEY_BYTES_MAX = 1024
/** Entries in one answer to a range; larger ranges are read page by page. */
export const METADATA_RANGE_KEYS_MAX = 1000
/** Past revisions kept for watches that resume: hours of an operator's work. */
export const METADATA_HISTORY_REVISIONS_MAX = 10_000
/** The same in bytes, so that large values cannot fill the disk with their past. */
export const METADATA_HISTORY_BYTES_MAX = 32 * 1024 * 1024
/** Shortest lease: below it a busy event loop loses leases. etcd's own floor is about 2 s. */
export const LEASE_TTL_MS_MIN = 2000
export const LEASE_TTL_MS_MAX = 24 * 3600 * 1000
/** Of a process's lease: two missed keepalives of a third of it, and room for a slow one. */
export const SESSION_TTL_MS = 10_000
/** Part of a lease's time that is not trusted: clocks run differently, and answers take time. */
export const SESSION_MARGIN = 0.1
/** Between the wall and the monotonic clock, since the last keepalive: more means that the machine
 * slept, or that its clock was set, and nobody knows how long the lease went on meanwhile. */
export const CLOCK_JUMP_MS_MAX = 500
/** At a stop the lease is given back within this time, or left to end by itself. */
export const SESSION_CLOSE_MS = 2000
/** How long a start waits for etcd. Longer than etcd's own restart after a power cut takes. */
export const ETCD_WAIT_MS_DEFAULT = 5 * 60_000
/** A snapshot is read again when something changed meanwhile, so often at most. */
export const METADATA_SNAPSHOT_ATTEMPTS_MAX = 10
/** Of one transaction of a restore: well below what etcd takes. */
export const METADATA_BATCH_BYTES = 512 * 1024
/** A restored store may have missed writers since its backup, each of which took one epoch:
 * 2^20 is centuries of a volume that is opened every hour, and leaves room for 4,095 restores. */
export const RESTORE_EPOCH_STEP = 2 ** 20
/** The same of layers, one for each snapshot: two years of hourly ones, and 511 restores. */
export const RESTORE_LAYERS_STEP = 2 ** 14
/** Between looks at layers that nobody reads: what was written since hides more of their blocks. */
export const MERGE_AGAIN_MS = 10 * 60_000
/** Between copies of the metadata that a peer keeps: what is lost with all of etcd at most. */
export const METADATA_COPY_MS = 10 * 60_000
/** A changed group is in the copy after this time, longer where the copy is larger than this. */
export const METADATA_NEWS_MS = 1000
export const METADATA_NEWS_BYTES = 4 * 1024 * 1024
/** A copy is not taken of more than this; metadata is some hundred bytes a volume. */
export const METADATA_COPY_BYTES_MAX = 256 * 1024 * 1024
/** An older copy is kept beside the newest, from at least this long before it. */
export const METADATA_COPY_OLD_MS = 24 * 3600 * 1000
/** A call to etcd, all attempts included: what a person waits before being told. */
export const ETCD_CALL_MS = 5000
/** One member of etcd may take this long; an election of its leader takes 1 to 2 s. */
export const ETCD_ATTEMPT_MS = 2000
/** A silent watch is asked for a sign of life: so old may be what a cut-off member shows. */
export const ETCD_WATCH_CHECK_MS = 30_000
/** A watch that etcd forgot without a word misses something for so long at most. */
export const ETCD_WATCH_LIFE_MS = 10 * 60_000
/** Members that are named; etcd itself advises 7 at most. */
export const ETCD_ENDPOINTS_MAX = 16
/** How often a transaction that lost a race is tried again before the caller gets Conflict. */
export const TRANSACTION_ATTEMPTS_MAX = 16

/** A lost link to a member may come back so long before the member has to leave its groups. */
export const MEMBER_PATIENCE_MS = 1000
/** A member that left a write unanswered for so long, while another answered, has to leave. */
export const MEMBER_DEADLINE_MS = 5000
/** Between looks at what waits: for members, records, deadlines. */
export const REPLICATION_TICK_MS = 100
/** Between tries of what cannot go on now: a full member, a group below its write minimum. */
export const REPLICATION_RETRY_MS = 1000
/** Lists by chunk in which pending writes are looked for. A power of two. */
export const OVERLAP_BUCKETS = 4096
/** Writes whose client was answered with an error while members have them still. */
export const DETACHED_WRITES_MAX = 4096
/** Longest that a volume's requests may be told to wait; who wants more sets no limit. A week. */
export const UNAVAILABLE_MS_MAX = 7 * 24 * 3600 * 1000
/** Between looks for flushes that wait for longer than their volume may. */
export const LATE_FLUSHES_MS = 250
/** Flushes that a member has not answered; later ones share the next. */
export const FLUSH_ROUNDS_MAX = 4
/**
 * A gateway without a trusted lease goes on so long after every member in sync confirmed that it
 * is the newest writer; a takeover that could not fence them all waits so long.
 */
export const MEMBER_TRUST_MS = 1000
/** A gateway that is asked for a volume lets it go in so long, or loses its lease. */
export const HANDOVER_MS = 5000
export const HANDOVER_POLL_MS = 20
/** Groups that a takeover looks at, and chunks of one that it makes equal, at once. */
export const SETTLED_AT_ONCE_MAX = 16
export const EQUALISED_AT_ONCE_MAX = 4
/** Chunks that one answer sums up: 24 KiB. */
export const CHUNK_SUMS_PER_CALL = 1024
/** Blocks found bad by reads that wait for their repair; the scrub finds what is beyond. */
export const READ_REPAIRS_WAITING_MAX = 64
/** Room that members keep when writes to them are refused: for what is on its way to them. */
export const MEMBER_RESERVE_BYTES = 16 * 1024 * 1024
/** Tokens of a cluster: every peer keeps them all in memory. */
export const TOKENS_MAX = 1000
/** A file of the audit log; older ones are kept, and the oldest is removed. 176 MiB in all. */
export const AUDIT_FILE_BYTES_MAX = 16 * 1024 * 1024
export const AUDIT_FILES_MAX = 10
/** Entries that wait for the disk; with more, new ones are lost and counted. */
export const AUDIT_WAITING_MAX = 10_000
/** Written entries are synced so long after, together: a disk is not asked for each of them. */
export const AUDIT_SYNC_MS = 1000

assert((OVERLAP_BUCKETS & (OVERLAP_BUCKETS - 1)) === 0, 'overlap buckets are a power of two')
assert(CHUNK_BYTES % PIECE_BYTES_MAX === 0, 'a chunk holds whole pieces')
assert((GROUPS_MAX & (GROUPS_MAX - 1)) === 0, 'group counts are powers of two')
assert((QUEUE_SLOTS & (QUEUE_SLOTS - 1)) === 0, 'queue slots are a power of two')
