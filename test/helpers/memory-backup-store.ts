/** A backup store in memory whose operations take effect in an order that a test decides. */
import type { BackupStore, StoredObject } from '../../src/backup/store.ts'

export class MemoryBackupStore implements BackupStore {
  readonly name = 'memory'
  readonly objects = new Map<string, { bytes: Buffer; modifiedMs: number }>()
  nowMs = 1_000_000
  /** Awaited before each operation, and between the entries of a list. */
  turn: () => Promise<void> = async () => {}

  async *list(prefix: string): AsyncIterable<StoredObject> {
    await this.turn()
    for (const key of [...this.objects.keys()]) {
      if (!key.startsWith(prefix)) continue
      const found = this.objects.get(key)
      if (found === undefined) continue
      yield { key, bytes: found.bytes.length, modifiedMs: found.modifiedMs }
    }
  }

  async get(key: string): Promise<Buffer | null> {
    await this.turn()
    const bytes = this.objects.get(key)?.bytes
    return bytes === undefined ? null : Buffer.from(bytes)
  }

  async put(key: string, bytes: Buffer): Promise<void> {
    await this.turn()
    this.objects.set(key, { bytes: Buffer.from(bytes), modifiedMs: this.nowMs++ })
  }

  async putIfAbsent(key: string, bytes: Buffer): Promise<boolean> {
    await this.turn()
    if (this.objects.has(key)) return false
    this.objects.set(key, { bytes: Buffer.from(bytes), modifiedMs: this.nowMs++ })
    return true
  }

  async delete(key: string): Promise<void> {
    await this.turn()
    this.objects.delete(key)
  }
}
