/** Backups of a peer in this process, as the command makes them. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { openBackup } from '../../src/backup/backup-secrets.ts'
import { PIECE_BYTES } from '../../src/backup/page.ts'
import { prune } from '../../src/backup/prune.ts'
import { Repository } from '../../src/backup/repository.ts'
import { ApiClient } from '../../src/cli/api-client.ts'
import { createBackup } from '../../src/cli/backup-create.ts'
import type { Context } from '../../src/cli/context.ts'
import { Output } from '../../src/cli/output.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { RunningPeer } from '../../src/index.ts'
import { restored } from '../helpers/backup-rig.ts'
import { fastHash } from '../helpers/password-hash.ts'
import { MemoryBackupStore } from '../helpers/memory-backup-store.ts'
import { withPeer } from '../helpers/own-peer.ts'

const secret = { kind: 'key-file' as const, secret: Buffer.alloc(32, 3), label: '' }

const MIB = 1024 * 1024
const SIZE = 8 * MIB

/** Writes different blocks, so that every piece is another. */
async function fill(peer: RunningPeer, name: string, seed: number): Promise<Buffer> {
  const bytes = Buffer.alloc(SIZE)
  for (let at = 0; at < SIZE; at += 4096) bytes.writeUInt32BE(at + seed, at)
  const file = await peer.volumes.openFile(name)
  await file.writeAt(0, bytes)
  await file.close()
  return bytes
}

const objectsOf = (store: MemoryBackupStore): string[] =>
  [...store.objects.keys()].filter((key) => key.startsWith('objects/'))

/** From the `count`-th object on nothing reaches the store any more: the program was killed. */
function killedAt(store: MemoryBackupStore, count: number): MemoryBackupStore {
  const dying = new MemoryBackupStore()
  let puts = 0
  const work = ['get', 'put', 'delete'] as const
  for (const name of work) {
    const call = store[name].bind(store) as (...args: unknown[]) => Promise<never>
    dying[name] = async (...args: unknown[]): Promise<never> => {
      if (name === 'put' && String(args[0]).startsWith('objects/')) puts++
      if (puts > count) throw new StoreError(ErrorCode.Unavailable, 'killed')
      return call(...args)
    }
  }
  dying.list = (prefix) => store.list(prefix)
  return dying
}

function contextOf({ adminAddresses }: RunningPeer): Context {
  const api = new ApiClient(adminAddresses.find((address) => address.startsWith('http'))!)
  return { output: new Output({ json: true }), api, confirm: async () => {} }
}

test('backups follow a volume through growth, trims and restores, and keep one snapshot', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    const context = contextOf(peer)
    const repository = await Repository.open(new MemoryBackupStore(), true)
    const expected: Buffer[] = []
    const back = async (): Promise<{ readBytes: number; base: string | null }> => {
      const { manifest } = await createBackup(context, repository, { volume: 'v', full: false })
      const file = await volumes.openFile('v', { readOnly: true })
      expected.push(await file.readAt(0, file.sizeBytes))
      await file.close()
      const names = (await volumes.snapshots.list('v')).map(({ name }) => name)
      deepStrictEqual(
        names.filter((name) => name !== 'mine'),
        [manifest.snapshot.name]
      )
      return manifest
    }
    await volumes.create({ name: 'v', sizeBytes: SIZE })
    const file = await volumes.openFile('v')
    await file.writeAt(MIB, Buffer.alloc(3 * MIB, 7))
    strictEqual((await back()).base, null)
    await volumes.snapshots.create('v', 'mine')
    await file.writeAt(2 * MIB + 100, Buffer.alloc(5000, 8))
    await file.trim(3 * MIB, 512 * 1024)
    await file.resize(SIZE + 4096)
    await file.writeAt(SIZE, Buffer.alloc(4096, 9))
    const second = await back()
    ok(second.base !== null && second.readBytes < MIB, `${second.readBytes} read`)
    strictEqual((await back()).readBytes, 0)
    await file.close()
    await volumes.snapshots.restore('v', 'mine')
    const after = await back()
    strictEqual(after.base, null)
    const backups = await repository.backups('v')
    strictEqual(backups.length, 4)
    for (const [at, backup] of backups.entries()) {
      ok((await restored(repository, backup)).equals(expected[at]!), backup.name)
    }
    strictEqual((await repository.locks()).length, 0)
    await rejects(createBackup(context, repository, { volume: 'w', full: false }), /no volume "w"/)
  }))

test('a store that is full ends a backup, and nothing of it stays on the volume', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    const store = new MemoryBackupStore()
    const repository = await Repository.open(store, true)
    await volumes.create({ name: 'v', sizeBytes: SIZE })
    const file = await volumes.openFile('v')
    for (let at = 0; at < SIZE; at += 8192) await file.writeAt(at, Buffer.alloc(4096, at / 8192))
    await file.close()
    const put = store.put.bind(store)
    store.put = async (key, bytes) => {
      const text = `cannot write ${key}: the disk is full`
      if (store.objects.size > 8) throw new StoreError(ErrorCode.OutOfSpace, text)
      return put(key, bytes)
    }
    const full = createBackup(contextOf(peer), repository, { volume: 'v', full: false })
    await rejects(full, /cannot write objects.*the disk is full/)
    deepStrictEqual(await volumes.snapshots.list('v'), [])
    deepStrictEqual(await repository.locks(), [])
  }))

test('a backup that was killed is gone on with, and a new one follows it', () =>
  withPeer(async (open) => {
    const peer = await open()
    const context = contextOf(peer)
    const store = new MemoryBackupStore()
    await Repository.open(store, true)
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
    const first = await fill(peer, 'v', 0)
    const wanted = { volume: 'v', full: false, breakLock: true }
    const dying = await Repository.open(killedAt(store, 20), false)
    // Nothing it does afterwards counts, but on the peer.
    const removals = context.api.life.deleteSnapshot
    context.api.life.deleteSnapshot = async () => {}
    await rejects(createBackup(context, dying, { ...wanted, checkpointMs: 0 }), /killed/)
    context.api.life.deleteSnapshot = removals
    const there = objectsOf(store)
    ok(there.length > 15)
    const repository = await Repository.open(store, false)
    strictEqual((await repository.backups('v')).length, 0)
    const [left] = (await repository.unfinished('v')).good
    ok(left!.manifest.progress.doneBytes > SIZE / 4)
    await prune(repository, [], async () => null, { breakLock: true })
    const second = await fill(peer, 'v', 9)
    const made = await createBackup(context, repository, wanted)
    const backups = await repository.backups('v')
    strictEqual(backups.length, 2)
    strictEqual(backups[1]!.name, made.name)
    strictEqual(made.manifest.base, backups[0]!.name)
    ok((await restored(repository, backups[0]!)).equals(first))
    ok((await restored(repository, backups[1]!)).equals(second))
    deepStrictEqual((await repository.unfinished('v')).good, [])
    const pieces = SIZE / PIECE_BYTES
    const kept = left!.manifest.progress.doneBytes / PIECE_BYTES
    const put = objectsOf(store).filter((key) => !there.includes(key)).length
    strictEqual(put, 2 * (pieces + 1) - kept, 'pieces and pages of both')
    strictEqual((await peer.volumes.snapshots.list('v')).length, 1)
  }))

test('a backup of a clone has only what the clone has alone', () =>
  withPeer(async (open) => {
    const peer = await open()
    const context = contextOf(peer)
    const store = new MemoryBackupStore()
    const repository = await Repository.open(store, true)
    for (const name of ['plain', 'sealed']) {
      const encrypt = name === 'sealed' ? { encrypt: secret } : {}
      await peer.volumes.create({ name, sizeBytes: SIZE, ...encrypt })
      await fill(peer, name, 0)
      await peer.volumes.snapshots.create(name, 'a')
      await createBackup(context, repository, { volume: name, full: false })
      const clone = `${name}-clone`
      await peer.volumes.clones.clone(name, 'a', { name: clone })
      const file = await peer.volumes.openFile(clone)
      await file.writeAt(MIB, Buffer.alloc(4096, 5))
      const before = objectsOf(store).length
      const made = await createBackup(context, repository, { volume: clone, full: false })
      strictEqual(objectsOf(store).length, before + 2, `${name}: a piece, and a page`)
      strictEqual(made.manifest.base, null)
      const isPlain = name === 'plain'
      const keys = isPlain ? null : await openBackup(made.manifest, repository.id, secret, fastHash)
      ok((await restored(repository, made, keys)).equals(await file.readAt(0, SIZE)))
      await file.close()
    }
  }))

test.run()
