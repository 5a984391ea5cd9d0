import { MEMBER_RESERVE_BYTES, REPLICATION_RETRY_MS } from '../core/limits.ts'
import type { Boot } from './boots.ts'
import type { GroupIo } from './group-io.ts'

/** What a member told about its room is known for so long: several pings. */
const ROOM_KNOWN_MS = 4 * REPLICATION_RETRY_MS
const NOBODY: readonly Boot[] = []

/**
 * R9: members without room for a write of so many bytes, who leave before it is sent to anybody;
 * null where too few have room, so that nobody gets it.
 */
export function findFull(group: GroupIo, bytes: number, nowMs: number): readonly Boot[] | null {
  const wanted = bytes + MEMBER_RESERVE_BYTES
  const { targets, inSyncCount } = group
  let full = 0
  for (let i = 0; i < targets.length; i++) if (lacksRoom(targets[i]!, wanted, nowMs)) full++
  if (full === 0) return NOBODY
  let able = 0
  for (let i = 0; i < inSyncCount; i++) {
    const boot = targets[i]!
    if (boot.member !== null && !lacksRoom(boot, wanted, nowMs)) able++
  }
  if (able < Math.max(1, Math.min(inSyncCount, group.pool.view.writeMinimum))) return null
  return targets.filter((boot) => lacksRoom(boot, wanted, nowMs))
}

/** What was told long ago counts no more: the member itself knows, and is asked by the write. */
const lacksRoom = (boot: Boot, bytes: number, nowMs: number): boolean =>
  boot.freeBytes < bytes && nowMs - boot.confirmedMs < ROOM_KNOWN_MS
