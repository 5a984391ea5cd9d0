/** A KeyBackend that notes what it was asked. */
import type { KeyBackend } from '../../src/admin/key-routes.ts'
import type {
  BackupKey,
  ExportedKeys,
  KeySlotAnswer,
  KeySlotList,
  SlotChangeBody,
  UnlockBody
} from '../../src/admin/key-schemas.ts'

const slotOf = (id: number): KeySlotAnswer => ({
  id,
  kind: 'passphrase',
  label: '',
  createdAt: '2026-01-31T12:00:00.000Z',
  kdf: 'argon2id, 3 passes over 256 MiB'
})

export class FakeKeys implements KeyBackend {
  readonly calls: string[] = []

  async unlockVolume(name: string, { kind, slot }: UnlockBody): Promise<KeySlotAnswer> {
    this.calls.push(`unlock ${name} ${kind}`)
    return slotOf(slot ?? 1)
  }

  async backupKey(): Promise<BackupKey> {
    return { key: Buffer.alloc(32, 1).toString('base64'), family: 'f'.repeat(16), slots: [] }
  }

  async lockVolume(name: string): Promise<void> {
    this.calls.push(`lock ${name}`)
  }

  async keySlots(): Promise<KeySlotList> {
    return { unlocked: true, rekey: null, slots: [slotOf(1)] }
  }

  async addKeySlot(name: string, { slot }: SlotChangeBody): Promise<KeySlotAnswer> {
    this.calls.push(`add ${name} ${slot.kind}`)
    return slotOf(2)
  }

  async rotateKeySlot(name: string, { slot }: SlotChangeBody): Promise<KeySlotAnswer> {
    this.calls.push(`rotate ${name} ${slot.kind}`)
    return slotOf(3)
  }

  async revokeKeySlot(name: string, id: number): Promise<void> {
    this.calls.push(`revoke ${name} ${id}`)
  }

  async rekeyVolume(name: string): Promise<void> {
    this.calls.push(`rekey ${name}`)
  }

  async exportKeys(): Promise<ExportedKeys> {
    return { v: 1, family: '0123456789abcdef' }
  }

  async importKeys(name: string, { family }: ExportedKeys): Promise<void> {
    this.calls.push(`import ${name} ${family}`)
  }
}
