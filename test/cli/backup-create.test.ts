/** Backups of a peer in this process, as the command makes them. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Repository } from '../../src/backup/repository.ts'
import { ApiClient } from '../../src/cli/api-client.ts'
import { createBackup } from '../../src/cli/backup-create.ts'
import type { Context } from '../../src/cli/context.ts'
import { Output } from '../../src/cli/output.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { RunningPeer } from '../../src/index.ts'
import { restored } from '../helpers/backup-rig.ts'
import { MemoryBackupStore } from '../helpers/memory-backup-store.ts'
import { withPeer } from '../helpers/own-peer.ts'

const MIB = 1024 * 1024
const SIZE = 8 * MIB

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

test.run()
