/** Backups: what comes back is what was, and what is lost or changed in the store is named. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { test } from 'uvu'
import { RunLock } from '../../src/backup/run-lock.ts'
import { openBackup } from '../../src/backup/backup-secrets.ts'
import { BackupKeys, objectKey } from '../../src/backup/objects.ts'
import { PIECE_BYTES } from '../../src/backup/page.ts'
import { prune } from '../../src/backup/prune.ts'
import { type Backup, Repository } from '../../src/backup/repository.ts'
import { partsOfBackup, verifyBackups } from '../../src/backup/restore.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { backupKeyOf, makeSlot } from '../../src/seal/key-slots.ts'
import { backUp, changed, restored, runId } from '../helpers/backup-rig.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { MemoryBackupStore } from '../helpers/memory-backup-store.ts'
import { fastHash } from '../helpers/password-hash.ts'
import { failsWith } from '../helpers/volume-bench.ts'

const SIZE = 6 * PIECE_BYTES + 8192
const seed = Number(process.env['SEED'] ?? 1)
const random = new SeededRandom(seed)

async function opened(): Promise<{ store: MemoryBackupStore; repository: Repository }> {
  const store = new MemoryBackupStore()
  return { store, repository: await Repository.open(store, true) }
}

const KEY = Buffer.alloc(32, 7)
const ofKey = (): BackupKeys => new BackupKeys(Buffer.from(KEY))
const slots = { family: 'f'.repeat(16), slots: [] }

for (const isSealed of [false, true]) {
  const kind = isSealed ? 'sealed' : 'plain'

  test(`${kind} backups come back as the volume was, each with only what changed`, async () => {
    const { store, repository } = await opened()
    const keys = isSealed ? ofKey() : null
    const keySlots = isSealed ? slots : null
    let bytes = changed(Buffer.alloc(SIZE), random, 30)
    const all: { backup: Backup; bytes: Buffer }[] = []
    for (let number = 0; number < 6; number++) {
      const last = all.at(-1)
      const next = changed(bytes, random)
      const since = last === undefined ? {} : { base: last.backup, before: last.bytes }
      const run = runId(random)
      const given = { volume: 'v', bytes: next, run, number, keys, keySlots, ...since }
      all.push({ backup: await backUp(repository, given), bytes: next })
      bytes = next
    }
    ok(all.slice(1).every(({ backup }) => backup.manifest.readBytes < SIZE))
    for (const { backup, bytes: expected } of all) {
      ok((await restored(repository, backup, keys)).equals(expected), backup.name)
    }
    const found = await verifyBackups(
      repository,
      all.map(({ backup }) => ({ backup, keys })),
      () => {}
    )
    deepStrictEqual(found.damage, [])
    if (!isSealed) return
    const stored = Buffer.concat([...store.objects.values()].map((each) => each.bytes))
    ok(!stored.includes(Buffer.alloc(64, all[0]!.bytes[0])), 'no plaintext')
    await rejects(restored(repository, all[0]!.backup), failsWith(ErrorCode.Forbidden))
    const others = new BackupKeys(randomBytes(32))
    await rejects(restored(repository, all[0]!.backup, others), failsWith(ErrorCode.Corrupt))
  })

  test(`${kind} objects that are lost or changed are named by verify and restore`, async () => {
    const { store, repository } = await opened()
    const keys = isSealed ? ofKey() : null
    const bytes = Buffer.alloc(SIZE)
    for (let piece = 0; piece < 5; piece++) bytes.fill(piece + 1, piece * PIECE_BYTES, SIZE)
    const given = { volume: 'v', bytes, run: runId(random), number: 1, keys }
    const backup = await backUp(repository, { ...given, keySlots: isSealed ? slots : null })
    const page = backup.manifest.pages[0]!
    const pieces = [...(await repository.page(page, keys)).refs()]
    strictEqual(pieces.length, 7)
    const damage = async (key: string, change: (bytes: Buffer) => Buffer | null) => {
      const before = store.objects.get(key)!
      const after = change(Buffer.from(before.bytes))
      if (after === null) store.objects.delete(key)
      else store.objects.set(key, { ...before, bytes: after })
      // A repository remembers pages.
      const again = await Repository.open(store, false)
      const found = await verifyBackups(again, [{ backup, keys }], () => {})
      const whole = restored(again, backup, keys)
      await rejects(whole, (thrown: Error) => thrown.message.includes(key))
      if (isSealed) {
        const without = await verifyBackups(again, [{ backup, keys: null }], () => {})
        strictEqual(without.damage.length, key === objectKey(page) ? 1 : 0)
      }
      store.objects.set(key, before)
      return found.damage.map((each) => [each.object, each.why, each.offset])
    }
    const key = objectKey(pieces[2]!.ref)
    const at = 2 * PIECE_BYTES
    deepStrictEqual(await damage(key, () => null), [[key, 'missing', at]])
    for (const place of [0, 5, 9, 13, 20, 60]) {
      const flipped = await damage(key, (object) => {
        object[place % object.length]! ^= 4
        return object
      })
      deepStrictEqual(flipped, [[key, 'damaged', at]], `byte ${place}`)
    }
    deepStrictEqual(await damage(key, (object) => object.subarray(0, -1)), [[key, 'damaged', at]])
    const other = store.objects.get(objectKey(pieces[3]!.ref))!.bytes
    deepStrictEqual(await damage(key, () => other), [[key, 'damaged', at]])
    const list = objectKey(page)
    deepStrictEqual(await damage(list, () => null), [[list, 'missing', 0]])
  })
}

test('a damaged object that is read ahead ends a restore, not the process', async () => {
  const { store, repository } = await opened()
  const bytes = Buffer.alloc(SIZE, 1)
  bytes.fill(2, PIECE_BYTES)
  const backup = await backUp(repository, { volume: 'v', bytes, run: runId(random), number: 1 })
  const pieces = [...(await repository.page(backup.manifest.pages[0]!, null)).refs()]
  const [slow, lost] = [objectKey(pieces[0]!.ref), objectKey(pieces[1]!.ref)]
  store.objects.delete(lost)
  const get = store.get.bind(store)
  store.get = async (key) => {
    for (let i = 0; key === slow && i < 5; i++) await new Promise(setImmediate)
    return get(key)
  }
  await rejects(restored(repository, backup), (thrown: Error) => thrown.message.includes(lost))
})

test('a manifest that was changed is refused', async () => {
  const { store, repository } = await opened()
  const bytes = Buffer.alloc(SIZE, 3)
  const keys = ofKey()
  const given = { volume: 'v', bytes, run: runId(random), number: 1, keys, keySlots: slots }
  const backup = await backUp(repository, given)
  const key = `backups/${backup.name}.json`
  const before = store.objects.get(key)!
  const flipped = before.bytes
    .toString()
    .replace('8192', '4096')
    .replace(`${SIZE}`, `${SIZE - 8192}`)
  store.objects.set(key, { ...before, bytes: Buffer.from(flipped) })
  await rejects(repository.backups('v'), /backups\/v\/.* is damaged/)
  store.objects.set(key, before)
  // Who has no key can make the sum right, and not the HMAC.
  const forged = { ...backup, text: backup.text.replace('"volume":"v"', '"volume":"w"') }
  const parts = partsOfBackup(repository, forged, keys)[Symbol.asyncIterator]()
  await rejects(parts.next(), /is not what was written/)
})

test('a damaged manifest takes only its own backup along, and nothing is pruned', async () => {
  const { store, repository } = await opened()
  const bytes = changed(Buffer.alloc(SIZE), random, 30)
  const made: Backup[] = []
  for (let number = 0; number < 3; number++) {
    made.push(await backUp(repository, { volume: 'v', bytes, run: runId(random), number }))
  }
  const key = `backups/${made[1]!.name}.json`
  await store.put(key, Buffer.concat([(await store.get(key))!, Buffer.from('}')]))
  const { backups, damaged } = await repository.readable('v')
  deepStrictEqual(damaged, [key])
  const names = [made[0]!.name, made[2]!.name]
  deepStrictEqual(
    backups.map(({ name }) => name),
    names
  )
  for (const backup of backups) ok((await restored(repository, backup)).equals(bytes))
  const bases: string[] = []
  for await (const { name } of repository.bases('v')) bases.unshift(name)
  deepStrictEqual(bases, names)
  const refused = { message: /is damaged, or of a newer version: delete it to/ }
  await rejects(repository.backups('v'), refused)
  await rejects(
    prune(repository, [made[0]!], () => Promise.resolve(null)),
    refused
  )
})

test('the secret of a slot is enough to open a backup', async () => {
  const { repository } = await opened()
  const master = Buffer.alloc(32, 5)
  const spec = { id: 1, kind: 'passphrase' as const, label: '', createdAt: '2026-01-01' }
  const [family, secret] = ['f'.repeat(16), Buffer.from('correct horse')]
  const slot = await makeSlot(family, spec, master, secret, fastHash)
  const keys = new BackupKeys(backupKeyOf(family, Buffer.from(repository.id, 'hex'), master))
  const bytes = changed(Buffer.alloc(SIZE), random)
  const given = { volume: 'v', bytes, run: runId(random), number: 1, keys }
  const { name } = await backUp(repository, { ...given, keySlots: { family, slots: [slot] } })
  const [backup] = await repository.backups('v')
  strictEqual(backup!.name, name)
  const { id } = repository
  const from = { kind: 'passphrase' as const, secret }
  const found = await openBackup(backup!.manifest, id, from, fastHash)
  ok((await restored(repository, backup!, found)).equals(bytes))
  const wrong = { ...from, secret: Buffer.from('wrong horse') }
  await rejects(openBackup(backup!.manifest, id, wrong, fastHash), failsWith(ErrorCode.Forbidden))
})

test('the same content is stored once, and a backup that fails leaves no manifest', async () => {
  const { store, repository } = await opened()
  const bytes = Buffer.alloc(SIZE, 1)
  const backup = await backUp(repository, { volume: 'v', bytes, run: runId(random), number: 1 })
  const count = [...store.objects.keys()].filter((key) => key.startsWith('objects/')).length
  strictEqual(count, 3, 'one for six pieces, one for the last, which is shorter, and a page')
  const run = runId(random)
  const lock = await RunLock.put(repository, run, 'backup of v')
  store.put = async (key) => {
    throw new Error(`no room for ${key}`)
  }
  const next = changed(bytes, random)
  const given = { volume: 'v', bytes: next, before: bytes, base: backup, run, number: 2, lock }
  await rejects(backUp(repository, given), /no room for objects/)
  strictEqual((await repository.backups()).length, 1)
  await rejects(Repository.open(new MemoryBackupStore(), false), failsWith(ErrorCode.NotFound))
})

test.run()
