import type { MetadataStore } from '../metadata/store.ts'
import type { Keys } from './keys.ts'
import { decodeRecord } from './records.ts'

/** Of a data directory: how often a peer started on it. */
export interface BootCounter {
  readonly bootCounter: number
  /** This start counts, durably. Says so once a process, however often it is called. */
  countStart(): void
  raiseBootCounter(to: number): void
}

/**
 * R14: a start counts once the metadata was asked how many are known there. A disk that is behind
 * stays behind until it is registered as that: if starts that do not come so far counted, it
 * would pass for the newest after some of them. `register`: with that number.
 * @throws StoreError
 */
export async function startCounted<Registered>(
  disk: BootCounter,
  { store, keys, peerId }: { store: MetadataStore; keys: Keys; peerId: string },
  register: (bootCounter: number) => Promise<Registered>
): Promise<Registered> {
  const key = keys.peer(peerId)
  const entry = await store.get(key)
  const known = entry === null ? 0 : decodeRecord('peer', key, entry.value).bootCounter
  const isBehind = disk.bootCounter < known
  if (!isBehind) disk.countStart()
  const registered = await register(disk.bootCounter)
  if (isBehind) disk.raiseBootCounter(known)
  return registered
}
