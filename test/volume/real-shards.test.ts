/**
 * The volume layer on real shards with real threads: neighbouring sub-block changes at once, resize
 * and restarts, against an array of bytes. The ranges of a batch are apart, so that the outcome is
 * exact, and share blocks, so that an update that got lost shows.
 */
import { ok, strictEqual } from 'node:assert'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { startPeer } from '../../src/coordinator.ts'
import { resolveConfig } from '../../src/core/config.ts'
import { createLog } from '../../src/core/log.ts'
import { openPeer, type RunningPeer } from '../../src/index.ts'
import { RequestFlag, RequestKind } from '../../src/volume/request.ts'
import { VolumeTypes } from '../../src/volume/volume-types.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { ask } from '../helpers/volume-bench.ts'

const SIZE = 16 * 1024 * 1024
const ROUNDS = 6
const BATCHES = 12
const seed = Number(process.env['SEED'] ?? 1)

interface Change {
  readonly kind: number
  readonly offset: number
  readonly length: number
  readonly value: number
}

function batchOf(random: SeededRandom): Change[] {
  const changes: Change[] = []
  let offset = random.below(SIZE - 2_000_000)
  for (let left = 1 + random.below(40); left > 0; left--) {
    const length = 1 + random.below(random.below(5) === 0 ? 30_000 : 700)
    const writes = random.below(3) > 0
    const kind = writes ? RequestKind.Write : RequestKind.WriteZeroes
    changes.push({ kind, offset, length, value: writes ? 1 + random.below(255) : 0 })
    offset += length + random.below(300)
  }
  return changes
}

async function runBatch(peer: RunningPeer, model: Buffer, random: SeededRandom): Promise<void> {
  const bench = { arena: peer.volumes.arena, volumes: peer.volumes }
  const device = await peer.volumes.open('v', {})
  const changes = batchOf(random)
  const answers = await Promise.all(
    changes.map(({ kind, offset, length, value }) => {
      const flags = random.below(5) === 0 ? RequestFlag.Fua : 0
      const range = { kind, offset, flags }
      return value > 0
        ? ask(bench, device, { ...range, data: Buffer.alloc(length, value) })
        : ask(bench, device, { ...range, length })
    })
  )
  ok(answers.every(({ error }) => error === 0))
  for (const { offset, length, value } of changes) model.fill(value, offset, offset + length)
  const start = Math.max(0, changes[0]!.offset - 5000)
  const length = Math.min(SIZE - start, 1_500_000)
  const { data } = await ask(bench, device, { kind: RequestKind.Read, offset: start, length })
  ok(data.equals(model.subarray(start, start + length)))
  await device.close()
}

test(`a volume on real shards answers as an array of bytes does (SEED=${seed})`, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'torus-volume-'))
  const random = new SeededRandom(seed)
  const options = { dataDir: join(directory, 'data'), shards: 2, capacityBytes: 2 ** 31 }
  const model = Buffer.alloc(SIZE)
  try {
    let peer = await openPeer(options)
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
    for (let round = 0; round < ROUNDS; round++) {
      for (let batch = 0; batch < BATCHES; batch++) await runBatch(peer, model, random)
      if (round % 3 === 1) {
        await peer.stop()
        peer = await openPeer(options)
      } else {
        const smaller = (1 + random.below(SIZE / 4096)) * 4096
        await peer.volumes.resize('v', smaller, { shrink: true })
        await peer.volumes.resize('v', SIZE)
        model.fill(0, smaller)
      }
    }
    const file = await peer.volumes.openFile('v')
    ok((await file.readAt(0, SIZE)).equals(model))
    strictEqual(file.sizeBytes, SIZE)
    await file.close()
    await peer.stop()
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})

/** With its admin API: rekey and compaction are asked for there. */
function openWithKey(dataDir: string, key: string): Promise<RunningPeer> {
  const flags = { dataDir, shards: 2, capacityBytes: 2 ** 31, segmentBytes: 4 * 1024 * 1024 }
  const listen = { nbdListen: 'off', adminListen: '127.0.0.1:0', adminSocket: 'off' }
  const unlockWith = [`*=key-file:${key}`]
  const all = { ...flags, ...listen, unlockWith, logLevel: 'warn' }
  const resolved = resolveConfig({ flags: all, env: {}, file: null })
  return startPeer(resolved, createLog(resolved.config), new VolumeTypes())
}

async function post({ adminAddresses }: RunningPeer, path: string): Promise<void> {
  const url = `${adminAddresses.find((address) => address.startsWith('http'))}/v1/${path}`
  const response = await fetch(url, { method: 'POST' })
  ok(response.ok || response.status === 409, `${path}: ${response.status}`)
}

test(`so does an encrypted one, through rekeys and restarts (SEED=${seed})`, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'torus-sealed-'))
  const random = new SeededRandom(seed)
  const key = join(directory, 'key')
  const secret = Buffer.alloc(32, seed + 1)
  writeFileSync(key, secret)
  const model = Buffer.alloc(SIZE)
  try {
    let peer = await openWithKey(join(directory, 'data'), key)
    const encrypt = { kind: 'key-file', secret, label: '' } as const
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE, encrypt })
    for (let round = 0; round < ROUNDS; round++) {
      if (round % 2 === 0) await post(peer, 'volumes/v/rekey')
      for (let batch = 0; batch < BATCHES / 2; batch++) await runBatch(peer, model, random)
      if (round % 2 === 1) await post(peer, 'tasks/compact/start')
      // In the middle of whatever goes on.
      await peer.stop()
      peer = await openWithKey(join(directory, 'data'), key)
    }
    const file = await peer.volumes.openFile('v')
    ok((await file.readAt(0, SIZE)).equals(model))
    await file.close()
    await peer.stop()
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})

test.run()
