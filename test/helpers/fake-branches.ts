/** A BranchBackend that remembers what it was asked for. */
import type { BranchBackend } from '../../src/admin/branch-routes.ts'
import type { Child, CloneBody, VolumeBase } from '../../src/admin/branch-schemas.ts'
import type { Volume } from '../../src/admin/schemas.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'

export class FakeBranches implements BranchBackend {
  readonly asked: string[] = []
  flattening: VolumeBase = { base: null, flatten: null }
  /** So often nobody knows about a base; then it was flattened. */
  away = 0
  readonly #volume: (name: string) => Promise<Volume>

  constructor(volume: (name: string) => Promise<Volume>) {
    this.#volume = volume
  }

  restore(volume: string, snapshot: string, force: boolean): Promise<Volume> {
    this.asked.push(`restore ${volume}@${snapshot}${force ? ' by force' : ''}`)
    return this.#volume(volume)
  }

  clone(volume: string, snapshot: string, { name }: CloneBody): Promise<Volume> {
    this.asked.push(`clone ${volume}@${snapshot} ${name}`)
    return this.#volume(volume)
  }

  async children(_: string, snapshot: string | null): Promise<readonly Child[]> {
    const known = { id: '0123456789abcdef', createdAt: '2026-01-31T12:00:00.000Z' }
    const child = { ...known, snapshot: snapshot ?? 'any', inTrash: false, isFlattening: false }
    return [{ ...child, name: 'child' }]
  }

  async base(): Promise<VolumeBase> {
    if (this.away === 0) return this.flattening
    this.away--
    if (this.away === 0) this.flattening = { base: null, flatten: null }
    throw new StoreError(ErrorCode.Unavailable, 'away')
  }

  async flatten(volume: string): Promise<VolumeBase> {
    this.asked.push(`flatten ${volume}`)
    return this.flattening
  }
}
