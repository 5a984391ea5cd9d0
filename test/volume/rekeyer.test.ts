import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BYTES } from '../../src/core/limits.ts'
import { EncryptedVolumes } from '../../src/volume/encrypted-volumes.ts'
import { VolumeFile } from '../../src/volume/volume-file.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { type Bench, failsWith, openBench } from '../helpers/volume-bench.ts'

const test = suite('rekey')
const slot = { kind: 'passphrase', secret: Buffer.from('a passphrase'), label: '' } as const
const SIZE = 3 * CHUNK_BYTES + 5 * BLOCK_BYTES

const encryptedOf = ({ volumes, keyring, cluster }: Bench, troubles: unknown[] = []) =>
  new EncryptedVolumes({
    volumes,
    keyring,
    cluster,
    trouble: (_, thrown) => troubles.push(thrown)
  })

/** A volume with data, zeroes and holes, and what it holds. */
async function filled(bench: Bench): Promise<{ file: VolumeFile; model: Buffer }> {
  await bench.volumes.create({ name: 'v', sizeBytes: SIZE, encrypt: slot })
  const file = await bench.volumes.openFile('v')
  const model = Buffer.alloc(SIZE)
  const random = new SeededRandom(7)
  for (let at = 0; at < SIZE; at += 16 * BLOCK_BYTES) {
    if (random.u32() % 3 === 0) continue
    const data = Buffer.alloc(Math.min(8 * BLOCK_BYTES, SIZE - at), random.u32() % 4)
    await file.writeAt(at, data)
    data.copy(model, at)
  }
  return { file, model }
}

async function untilDone(encrypted: EncryptedVolumes): Promise<void> {
  while ((await encrypted.rekeyProgress('v')) !== null) {
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

test('a rekey leaves every byte as it is, and no block under the old key', async () => {
  const bench = await openBench({ arenaPages: 4096 })
  const encrypted = encryptedOf(bench)
  const { file, model } = await filled(bench)
  const holesBefore = (await file.extents(0, SIZE)).filter(({ kind }) => kind === 'hole')
  const epochBefore = bench.store.oldestEpoch
  await encrypted.rekey('v')
  // Clients go on; what they write meanwhile is what is there at the end.
  const random = new SeededRandom(8)
  let writes = 0
  while ((await encrypted.rekeyProgress('v')) !== null) {
    const at = random.u32() % (SIZE - 3 * BLOCK_BYTES)
    const data = Buffer.alloc(1 + (random.u32() % (3 * BLOCK_BYTES)), 100 + (writes % 100))
    await file.writeAt(at, data)
    data.copy(model, at)
    writes++
  }
  ok(writes > 3)
  ok((await file.readAt(0, SIZE)).equals(model))
  ok(bench.store.oldestEpoch > epochBefore)
  const { generations, rekey } = await encrypted.exportKeys('v')
  strictEqual(rekey, null)
  deepStrictEqual(
    generations.map(({ generation, fromEpoch }) => [
      generation,
      fromEpoch <= bench.store.oldestEpoch
    ]),
    [[2, true]]
  )
  ok(holesBefore.length > 0)
  await file.close()
  await encrypted.close()
  await bench.close()
})

test('a rekey allocates nothing where nothing was', async () => {
  const bench = await openBench({ arenaPages: 4096 })
  const encrypted = encryptedOf(bench)
  const { file } = await filled(bench)
  const holes = async () => (await file.extents(0, SIZE)).filter(({ kind }) => kind === 'hole')
  const before = await holes()
  await encrypted.rekey('v')
  await untilDone(encrypted)
  deepStrictEqual(await holes(), before)
  await file.close()
  await encrypted.close()
  await bench.close()
})

test('how far a rekey is, is told chunk by chunk, and kept now and then', async () => {
  const bench = await openBench({ arenaPages: 4096 })
  const encrypted = encryptedOf(bench)
  const { file } = await filled(bench)
  const kept: number[] = []
  const note = bench.keyring.noteRekey.bind(bench.keyring)
  bench.keyring.noteRekey = (family, generation, nextChunk) => {
    kept.push(nextChunk)
    return note(family, generation, nextChunk)
  }
  await encrypted.rekey('v')
  const told = new Set<number>()
  for (;;) {
    const progress = await encrypted.rekeyProgress('v')
    if (progress === null) break
    strictEqual(progress.totalBytes, SIZE)
    told.add(progress.doneBytes)
    if (progress.doneBytes >= 2 * CHUNK_BYTES) bench.clock.nowMs += 10_000
    await new Promise((resolve) => setImmediate(resolve))
  }
  ok(told.has(CHUNK_BYTES) && told.has(2 * CHUNK_BYTES), [...told].join())
  deepStrictEqual(kept, [3, 4])
  await file.close()
  await encrypted.close()
  await bench.close()
})

test('a rekey that was cut off goes on where it was', async () => {
  const bench = await openBench({ arenaPages: 4096 })
  const encrypted = encryptedOf(bench)
  const { file, model } = await filled(bench)
  await file.flush()
  await encrypted.rekey('v')
  await rejects(encrypted.rekey('v'), failsWith(ErrorCode.Busy))
  await encrypted.close()
  const keys = await encrypted.exportKeys('v')
  ok(keys.rekey !== null && keys.generations.length === 2)
  await file.close()
  await encrypted.lock('v')

  const again = encryptedOf(bench)
  await again.unlock('v', slot, null)
  await untilDone(again)
  const reopened = await bench.volumes.openFile('v')
  ok((await reopened.readAt(0, SIZE)).equals(model))
  strictEqual((await again.exportKeys('v')).generations.length, 1)
  await reopened.close()
  await again.close()
  await bench.close()
})

test('nobody has to wait for a rekey, which goes on behind a shrink', async () => {
  const bench = await openBench({ arenaPages: 4096 })
  const encrypted = encryptedOf(bench)
  const { file, model } = await filled(bench)
  await file.close()
  await encrypted.rekey('v')
  strictEqual((await bench.volumes.show('v')).clients, 0)
  const sizeBytes = 2 * CHUNK_BYTES
  await bench.volumes.resize('v', sizeBytes, { shrink: true, clients: 'refuse' })
  ok((await encrypted.rekeyProgress('v')) !== null, 'it was not over before')
  const reader = await bench.volumes.openFile('v')
  const stillSmaller = bench.volumes.resize('v', CHUNK_BYTES, { shrink: true, clients: 'refuse' })
  await rejects(stillSmaller, /volume v is in use by 1 client; --force/)
  await untilDone(encrypted)
  ok((await reader.readAt(0, sizeBytes)).equals(model.subarray(0, sizeBytes)))
  strictEqual((await encrypted.exportKeys('v')).generations.length, 1)
  await reader.close()
  await encrypted.close()
  await bench.close()
})

test('before a new key is in use nothing is on its way under the old one', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: CHUNK_BYTES })
  const { managed, device } = await bench.volumes.openOwn('v')
  const file = new VolumeFile(managed, device)
  const { ops } = managed.volume
  const raisedAfter = async (work: Promise<unknown>): Promise<boolean> => {
    let isOver = false
    const ended = work.then(() => {
      isOver = true
    })
    await managed.exclusively(() => managed.raiseEpochAlone(ops.writerEpoch + 1))
    const wasOver = isOver
    await ended
    return wasOver
  }
  bench.store.paused = true
  setTimeout(() => bench.store.release(), 20)
  ok(await raisedAfter(file.writeAt(0, Buffer.alloc(BLOCK_BYTES, 1))), 'of a client')
  const slow = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20))
  ok(await raisedAfter(managed.copyAlone(slow)), 'of a layer that is copied')
  await file.close()
  await bench.close()
})

test('what is written again is not torn by a write to a part of it', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: CHUNK_BYTES })
  const file = await bench.volumes.openFile('v')
  await file.writeAt(0, Buffer.alloc(16 * BLOCK_BYTES, 1))
  const random = new SeededRandom(9)
  for (let round = 0; round < 50; round++) {
    const at = random.u32() % (15 * BLOCK_BYTES)
    const data = Buffer.alloc(1 + (random.u32() % BLOCK_BYTES), round + 2)
    await Promise.all([
      file.rewrite(0, 16 * BLOCK_BYTES),
      file.writeAt(at, data),
      file.rewrite(0, 16 * BLOCK_BYTES)
    ])
    deepStrictEqual(await file.readAt(at, data.length), data)
  }
  await file.close()
  await bench.close()
})

test.run()
