/**
 * Random transactions, leases and time against the plainest store there is, on memory and on LMDB.
 * After every step all keys agree; at the end a watch from the start gives the same keys.
 */
import { deepStrictEqual, strictEqual } from 'node:assert'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { test } from 'uvu'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { LmdbTables } from '../../src/metadata/lmdb-tables.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { Compare, Entry, MetadataStore, Operation } from '../../src/metadata/store.ts'
import type { Tables } from '../../src/metadata/tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'

const KEYS = ['a', 'a/b', 'b', 'c']
const TTL_MS = 5000

class Model {
  readonly entries = new Map<string, Entry>()
  readonly leases = new Map<string, number>()
  revision = 1

  transact(compare: readonly Compare[], success: readonly Operation[]): boolean {
    const holds = compare.every((condition) => {
      const entry = this.entries.get(condition.key)
      if ('version' in condition) return (entry?.version ?? 0) === condition.version
      return 'is' in condition && (entry === undefined) === (condition.is === 'absent')
    })
    if (holds) this.#apply(success)
    return holds
  }

  #apply(operations: readonly Operation[]): void {
    const next = this.revision + 1
    for (const operation of operations) {
      if ('get' in operation) continue
      this.revision =
        'put' in operation || this.entries.has(operation.delete) ? next : this.revision
      if ('delete' in operation) this.entries.delete(operation.delete)
      else {
        const old = this.entries.get(operation.put)
        this.entries.set(operation.put, {
          key: operation.put,
          value: Buffer.from(operation.value),
          createRevision: old?.createRevision ?? next,
          modRevision: next,
          version: (old?.version ?? 0) + 1,
          lease: operation.lease ?? ''
        })
      }
    }
  }

  endLease(lease: string): void {
    this.leases.delete(lease)
    const keys = [...this.entries.values()].filter((entry) => entry.lease === lease)
    this.#apply(keys.map(({ key }) => ({ delete: key })))
  }
}

type Step =
  | { kind: 'put'; keys: string[]; lease: number }
  | { kind: 'delete'; keys: string[] }
  | { kind: 'compare'; key: string; version: number; put: string }
  | { kind: 'create'; key: string }
  | { kind: 'grant' }
  | { kind: 'revoke'; lease: number }
  | { kind: 'keep'; lease: number }
  | { kind: 'wait'; ms: number }
  | { kind: 'reopen' }

const keyArb = fc.constantFrom(...KEYS)
const keysArb = fc.uniqueArray(keyArb, { minLength: 1 })
const stepArb: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant('put' as const), keys: keysArb, lease: fc.nat(3) }),
  fc.record({ kind: fc.constant('delete' as const), keys: keysArb }),
  fc.record({
    kind: fc.constant('compare' as const),
    key: keyArb,
    version: fc.nat(3),
    put: keyArb
  }),
  fc.record({ kind: fc.constant('create' as const), key: keyArb }),
  fc.constant({ kind: 'grant' as const }),
  fc.record({ kind: fc.constant('revoke' as const), lease: fc.nat(3) }),
  fc.record({ kind: fc.constant('keep' as const), lease: fc.nat(3) }),
  fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(100, 2000, 5001) }),
  fc.constant({ kind: 'reopen' as const })
)

class Run {
  readonly model = new Model()
  readonly clock = new ManualClock()
  readonly leases: string[] = []
  store: MetadataStore
  readonly #reopen: () => Promise<EmbeddedStore>
  #count = 0

  private constructor(store: EmbeddedStore, reopen: () => Promise<EmbeddedStore>) {
    this.store = store
    this.#reopen = reopen
  }

  static async open(makeTables: () => Promise<Tables>): Promise<Run> {
    const clock = new ManualClock()
    const random = new SeededRandom(7)
    const open = async () => EmbeddedStore.open(await makeTables(), { clock, random })
    const run = new Run(await open(), open)
    Object.assign(run, { clock })
    return run
  }

  async step(step: Step): Promise<void> {
    const { store, model, clock } = this
    const value = Buffer.from(`${this.#count++}`)
    for (const [lease, end] of [...model.leases]) {
      if (end <= clock.nowMs) model.endLease(lease)
    }
    const live = (index: number): string => {
      const lease = this.leases[index] ?? ''
      return model.leases.has(lease) ? lease : ''
    }
    switch (step.kind) {
      case 'put':
        return this.#transact(
          [],
          step.keys.map((key) => ({ put: key, value, lease: live(step.lease) }))
        )
      case 'delete':
        return this.#transact(
          [],
          step.keys.map((key) => ({ delete: key }))
        )
      case 'compare':
        return this.#transact(
          [{ key: step.key, version: step.version }],
          [{ put: step.put, value }]
        )
      case 'create':
        return this.#transact([{ key: step.key, is: 'absent' }], [{ put: step.key, value }])
      case 'grant': {
        const { id } = await store.grantLease(TTL_MS)
        this.leases.unshift(id)
        model.leases.set(id, clock.nowMs + TTL_MS)
        return
      }
      case 'revoke':
        if (live(step.lease) === '') return
        await store.revokeLease(live(step.lease))
        return model.endLease(live(step.lease))
      case 'keep':
        if (live(step.lease) === '') return
        await store.keepAlive(live(step.lease))
        model.leases.set(live(step.lease), clock.nowMs + TTL_MS)
        return
      case 'wait':
        clock.nowMs += step.ms
        return
      case 'reopen':
        await store.close()
        this.store = await this.#reopen()
        for (const lease of model.leases.keys()) model.leases.set(lease, clock.nowMs + TTL_MS)
        return
    }
  }

  async #transact(compare: Compare[], success: Operation[]): Promise<void> {
    const result = await this.store.transact({ compare, success })
    strictEqual(result.succeeded, this.model.transact(compare, success))
    strictEqual(result.revision, this.model.revision)
  }

  async check(): Promise<void> {
    for (const [lease, end] of [...this.model.leases]) {
      if (end <= this.clock.nowMs) this.model.endLease(lease)
    }
    const { entries, revision } = await this.store.range('')
    const expected = [...this.model.entries.values()].sort((a, b) => (a.key < b.key ? -1 : 1))
    deepStrictEqual(entries, expected)
    strictEqual(revision, this.model.revision)
  }

  async replay(): Promise<void> {
    const replayed = new Map<string, Entry>()
    let last = 0
    this.store.watch(
      '',
      (change) => {
        if (change.kind !== 'events') return
        strictEqual(change.revision > last, true)
        last = change.revision
        for (const event of change.events) {
          if (event.kind === 'put') replayed.set(event.entry.key, event.entry)
          else replayed.delete(event.key)
        }
      },
      { fromRevision: 1 }
    )
    await new Promise((resolve) => setImmediate(resolve))
    deepStrictEqual([...replayed].sort(), [...this.model.entries].sort())
  }
}

async function property(steps: readonly Step[], makeTables: () => Promise<Tables>): Promise<void> {
  const run = await Run.open(makeTables)
  for (const step of steps) {
    await run.step(step)
    await run.check()
  }
  await run.replay()
  await run.store.close()
}

test('an embedded store in memory answers as a plain map does', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(stepArb, { maxLength: 60 }), async (steps) => {
      const tables = new MemoryTables()
      await property(steps, async () => tables)
    }),
    { numRuns: 150 }
  )
})

test('an embedded store on LMDB answers as a plain map does', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(stepArb, { maxLength: 40 }), async (steps) => {
      const directory = mkdtempSync(join(tmpdir(), 'torus-store-'))
      try {
        const path = join(directory, 'metadata')
        await property(steps, () => LmdbTables.open(path, { create: true }))
      } finally {
        rmSync(directory, { recursive: true, force: true })
      }
    }),
    { numRuns: 15 }
  )
})

test.run()
