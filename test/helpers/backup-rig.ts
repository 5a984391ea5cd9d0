/** Backups of volumes that are buffers, straight into a store. */
import { BackupRun } from '../../src/backup/backup-run.ts'
import { RunLock } from '../../src/backup/run-lock.ts'
import type { BackupKeys } from '../../src/backup/objects.ts'
import { PIECE_BYTES } from '../../src/backup/page.ts'
import type { Manifest } from '../../src/backup/manifest.ts'
import type { Backup, Repository, Unfinished } from '../../src/backup/repository.ts'
import { partsOfBackup } from '../../src/backup/restore.ts'
import { partsOf, partsWithZeroes } from '../../src/backup/stream-format.ts'
import type { SeededRandom } from './manual-clock.ts'

export const BLOCK = 4096

interface Wanted {
  readonly volume: string
  readonly bytes: Buffer
  /** As it was at `base`. */
  readonly before?: Buffer
  readonly base?: Backup | null
  readonly keys?: BackupKeys | null
  readonly keySlots?: Manifest['keys']
  readonly lock?: RunLock
  /** It goes on with this one. */
  readonly unfinished?: Unfinished | null
  readonly checkpointMs?: number
  readonly run: string
  /** Orders them. */
  readonly number: number
}

export const runId = (random: SeededRandom): string =>
  [0, 0].map(() => random.u32().toString(16).padStart(8, '0')).join('')

/** As `backup create` does with what a peer sends. */
export async function backUp(
  repository: Repository,
  { volume, bytes, run, number, ...given }: Wanted
): Promise<Backup> {
  const { before, base = null, keys = null, keySlots = null } = given
  const lock = given.lock ?? (await RunLock.put(repository, run, `backup of ${volume}`))
  const { unfinished = null, checkpointMs = 1_000_000 } = given
  const createdAt =
    unfinished?.manifest.createdAt ?? new Date(Date.UTC(2026, 0, 1) + number * 1000).toISOString()
  const snapshot = unfinished?.manifest.snapshot ?? { id: run, name: `backup-${number}` }
  const about = { run, volume, snapshot, createdAt, sizeBytes: bytes.length, keySlots }
  const made = new BackupRun(repository, about, { lock, keys, base, unfinished, checkpointMs })
  const start = unfinished?.manifest.progress.doneBytes ?? 0
  for (let at = start; at < bytes.length; at += PIECE_BYTES) {
    const piece = bytes.subarray(at, Math.min(bytes.length, at + PIECE_BYTES))
    if (base === null) for (const part of partsOf(at, piece)) await made.take(part)
    else if (!piece.equals(before!.subarray(at, at + piece.length))) {
      for (const part of partsWithZeroes(at, piece)) await made.take(part)
    }
  }
  const backup = await made.end()
  await lock.release()
  return backup
}

export async function restored(
  repository: Repository,
  backup: Backup,
  keys: BackupKeys | null = null
): Promise<Buffer> {
  const bytes = Buffer.alloc(backup.manifest.sizeBytes)
  for await (const { offset, blocks } of partsOfBackup(repository, backup, keys)) {
    blocks.copy(bytes, offset)
  }
  return bytes
}

/** Another state of a volume: some runs of blocks are written or zeroed. */
export function changed(bytes: Buffer, random: SeededRandom, changes = 3): Buffer {
  const next = Buffer.from(bytes)
  for (let i = 0; i < changes; i++) {
    const first = random.below(bytes.length / BLOCK)
    const count = Math.min(1 + random.below(40), bytes.length / BLOCK - first)
    next.fill(random.below(3) === 0 ? 0 : random.below(256), first * BLOCK, (first + count) * BLOCK)
  }
  return next
}
