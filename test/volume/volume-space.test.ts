/** What volumes and snapshots take, on real shards after random histories, against a model. */
import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { systemTimers } from '../../src/core/clock.ts'
import { BLOCK_BYTES, MERGE_AGAIN_MS } from '../../src/core/limits.ts'
import type { RunningPeer } from '../../src/index.ts'
import { spaceTreeOf } from '../../src/volume/space-tree.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { withPeer } from '../helpers/own-peer.ts'
import { until } from '../helpers/process.ts'

const BLOCKS = 3000
const SIZE = BLOCKS * BLOCK_BYTES
const seed = Number(process.env['SEED'] ?? 1)

/** By block: when it was written last; 0 for no data. Negative: trimmed then. */
type Steps = Int32Array

async function figuresOf({ backend }: RunningPeer) {
  const { figures, why, copies } = await backend.spaces.space('v')
  deepStrictEqual([why, copies], [null, 1])
  return figures!
}

function compare(
  { allocatedBytes, exclusiveBytes }: { allocatedBytes: number; exclusiveBytes: number },
  [before, here, after]: readonly (Steps | undefined)[],
  what: string
): void {
  let allocated = 0
  let exclusive = 0
  for (let block = 0; block < BLOCKS; block++) {
    const step = here![block]!
    if (step <= 0) continue
    allocated++
    if (before?.[block] !== step && after?.[block] !== step) exclusive++
  }
  const found = [allocatedBytes / BLOCK_BYTES, exclusiveBytes / BLOCK_BYTES]
  deepStrictEqual(found, [allocated, exclusive], what)
}

/** Live bytes of all shards, once they have given back what is dead. */
async function settledUse(peer: RunningPeer): Promise<number> {
  let figures = await figuresOf(peer)
  await until(async () => {
    figures = await figuresOf(peer)
    return figures.pendingBytes === 0
  }, 'nothing is pending')
  const [volume] = await peer.backend.listVolumes()
  strictEqual(volume!.usedBytes, figures.usedBytes)
  return figures.usedBytes
}

test(`each snapshot takes what the model says, and frees it (SEED=${seed})`, () =>
  withPeer(async (open) => {
    const random = new SeededRandom(seed)
    let peer = await open()
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
    let head: Steps = new Int32Array(BLOCKS)
    const kept: { name: string; steps: Steps }[] = []
    const all = (): Steps[] => [...kept.map(({ steps }) => steps), head]
    let step = 0
    for (let round = 0; round < 12; round++) {
      const file = await peer.volumes.openFile('v')
      for (let i = 0; i < 8; i++) {
        const count = 1 + random.below(400)
        const first = random.below(BLOCKS - count)
        const isWrite = random.below(3) > 0
        if (isWrite) {
          await file.writeAt(first * BLOCK_BYTES, Buffer.alloc(count * BLOCK_BYTES, ++step))
        } else await file.trim(first * BLOCK_BYTES, count * BLOCK_BYTES)
        head.fill(isWrite ? step : -++step, first, first + count)
      }
      await file.close()
      if (round % 5 === 4) {
        await peer.stop()
        peer = await open()
      }
      if (round % 3 === 2) await peer.backend.startTask('compact')
      const { snapshots, ...figures } = await figuresOf(peer)
      const steps = all()
      for (const [at, each] of snapshots.entries()) {
        strictEqual(each.sharedBytes, each.allocatedBytes - each.exclusiveBytes)
        compare(each, [steps[at - 1], steps[at], steps[at + 1]], `${each.name} in round ${round}`)
      }
      compare(figures, [steps.at(-2), steps.at(-1)], `the head in round ${round}`)
      if (kept.length > 2 && random.below(2) === 0) {
        const [gone] = kept.splice(random.below(kept.length), 1)
        const frees = snapshots.find(({ name }) => name === gone!.name)!.exclusiveBytes
        const before = await settledUse(peer)
        await peer.volumes.snapshots.delete('v', gone!.name)
        strictEqual((await settledUse(peer)) + frees, before, 'it frees what was said')
      }
      await peer.volumes.snapshots.create('v', `s${round}`)
      kept.push({ name: `s${round}`, steps: head })
      head = head.slice()
    }
    const { snapshotBytes } = await figuresOf(peer)
    const before = await settledUse(peer)
    for (const { name } of kept) await peer.volumes.snapshots.delete('v', name)
    strictEqual(before - (await settledUse(peer)), snapshotBytes)
    ok(before > 0)
  }))

test('a tree has each view below those that stand on it, in whatever branch', () => {
  const layer = (high: string, low: string): string => `000000${high}${low}`
  const volume = { family: 'f'.repeat(16), headLayer: layer('0b', 'ff800001') }
  // The volume was put back to `one`, which has layers above it in its first branch.
  const one = layer('0a', '00000007')
  const two = layer('0a', 'ff000001')
  const snapshots = [
    { id: '1', layer: one },
    { id: '2', layer: two }
  ]
  const begins = (family: string) => (each: { layer: string }) =>
    each.layer === volume.headLayer ? { family, layer: one } : null
  const found = spaceTreeOf(volume, snapshots, begins(volume.family))
  deepStrictEqual(found.tree.nodes, [
    [-1, 0, 7],
    [0, 0, 0xff000001],
    [0, 1, 0xff800001]
  ])
  deepStrictEqual([found.head, [...found.foreign]], [2, []])
  // A clone stands on layers of another volume.
  const clone = spaceTreeOf(volume, [], begins('e'.repeat(16)))
  deepStrictEqual([clone.tree.nodes.length, clone.head, [...clone.foreign]], [2, 1, [0]])
  deepStrictEqual(
    clone.tree.branches.map(({ isOpen }) => isOpen),
    [false, true]
  )
})

test('a volume that went back to a snapshot, and a clone, count what they stand on', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes, backend } = peer
    const figures = async (name: string): Promise<number[][]> => {
      const { figures: found } = await backend.spaces.space(name)
      const { snapshots, ...head } = found!
      return [...snapshots, head].map(({ allocatedBytes, exclusiveBytes }) => [
        allocatedBytes / BLOCK_BYTES,
        exclusiveBytes / BLOCK_BYTES
      ])
    }
    const write = async (name: string, first: number, count: number): Promise<void> => {
      const file = await volumes.openFile(name)
      await file.writeAt(first * BLOCK_BYTES, Buffer.alloc(count * BLOCK_BYTES, 7))
      await file.close()
    }
    await volumes.create({ name: 'v', sizeBytes: SIZE })
    await write('v', 0, 20)
    await volumes.snapshots.create('v', 'one')
    await write('v', 0, 8)
    await volumes.snapshots.create('v', 'two')
    await volumes.snapshots.restore('v', 'one', { force: false })
    await write('v', 4, 8)
    // `one` alone sees what `two` and the head both wrote anew.
    deepStrictEqual(await figures('v'), [
      [20, 4],
      [20, 8],
      [20, 8]
    ])
    await volumes.clones.clone('v', 'two', { name: 'c' })
    await write('c', 100, 5)
    deepStrictEqual(await figures('c'), [[25, 5]])
    strictEqual((await backend.spaces.space('c')).figures!.usedBytes, 5 * BLOCK_BYTES)
    deepStrictEqual((await figures('v'))[1], [20, 0])
  }))

test('what is written after a snapshot was deleted gives back what it hides', async () => {
  const { start } = systemTimers
  let ticks = 0
  systemTimers.start = (ms, work) => {
    if (ms === MERGE_AGAIN_MS) ticks++
    return start(ms === MERGE_AGAIN_MS ? 500 : ms, work)
  }
  try {
    await withPeer(async (open) => {
      const peer = await open()
      await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
      const file = await peer.volumes.openFile('v')
      await file.writeAt(0, Buffer.alloc(SIZE, 1))
      await peer.volumes.snapshots.create('v', 's')
      await peer.volumes.snapshots.delete('v', 's')
      await until(async () => ticks > 3, 'it was looked at')
      await file.writeAt(0, Buffer.alloc(SIZE, 2))
      strictEqual(await settledUse(peer), SIZE)
      ok((await file.readAt(0, SIZE)).equals(Buffer.alloc(SIZE, 2)))
      await file.close()
    })
  } finally {
    systemTimers.start = start
  }
})

test.run()
