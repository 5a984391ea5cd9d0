/** What differs between snapshots, against volumes of which every byte is known. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { PeerStreamBackend } from '../../src/coordinator/stream-backend.ts'
import type { Diff } from '../../src/admin/stream-schemas.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import type { RunningPeer } from '../../src/index.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { withPeer } from '../helpers/own-peer.ts'
import { failsWith } from '../helpers/volume-bench.ts'
import { changeAtRandom } from '../helpers/volume-peer.ts'

const MIB = 1024 * 1024
const SIZE = 24 * MIB
const BLOCK = 4096
const seed = Number(process.env['SEED'] ?? 1)

async function bytesOf({ volumes }: RunningPeer, name: string): Promise<Buffer> {
  const file = await volumes.openFile(name, { readOnly: true })
  const bytes = await file.readAt(0, file.sizeBytes)
  await file.close()
  return bytes
}

test(`a diff names all that differs, whatever was deleted in between (SEED=${seed})`, () =>
  withPeer(async (open) => {
    const random = new SeededRandom(seed)
    let peer = await open()
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
    const written: number[][] = []
    for (let round = 0; round < 6; round++) {
      const file = await peer.volumes.openFile('v')
      const touched: number[] = []
      for (let i = 0; i < 8; i++) {
        const first = random.below(SIZE / BLOCK - 40)
        const count = 1 + random.below(40)
        const range = [first * BLOCK, count * BLOCK] as const
        const what = random.below(3)
        if (what === 0) await file.trim(...range)
        else if (what === 1) await file.zero(...range)
        else await file.writeAt(range[0], Buffer.alloc(range[1], 1 + random.below(255)))
        for (let block = first; block < first + count; block++) touched.push(block)
      }
      written.push(touched)
      await file.close()
      await peer.volumes.snapshots.create('v', `s${round}`)
    }
    await peer.volumes.snapshots.delete('v', 's2')
    await peer.volumes.snapshots.delete('v', 's4')
    await peer.stop()
    peer = await open()
    const backend = new PeerStreamBackend(peer.volumes)
    for (const [from, to] of [
      [0, 1],
      [0, 3],
      [1, 5],
      [3, 5],
      [5, 5]
    ] as const) {
      const { extents } = await backend.diff('v', `s${from}`, `s${to}`, 0)
      const changed = new Set<number>()
      const [older, newer] = [await bytesOf(peer, `v@s${from}`), await bytesOf(peer, `v@s${to}`)]
      let end = -1
      for (const { offset, length, kind } of extents) {
        ok(offset >= end, 'in order')
        end = offset + length
        for (let at = offset; at < end; at += BLOCK) changed.add(at / BLOCK)
        if (kind === 'data') continue
        ok(newer.subarray(offset, end).equals(Buffer.alloc(length)), `zeroes at ${offset}`)
      }
      const touched = new Set(written.slice(from + 1, to + 1).flat())
      for (let block = 0; block < SIZE / BLOCK; block++) {
        const [at, behind] = [block * BLOCK, (block + 1) * BLOCK]
        if (changed.has(block)) ok(touched.has(block), `block ${block} was not touched`)
        else ok(older.subarray(at, behind).equals(newer.subarray(at, behind)), `block ${block}`)
      }
    }
  }))

test(`a diff goes over restores, and refuses what was left beside (SEED=${seed})`, () =>
  withPeer(async (open) => {
    const random = new SeededRandom(seed)
    let peer = await open()
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
    const model = Buffer.alloc(SIZE)
    const shown = new Map<string, { readonly bytes: Buffer; readonly below: readonly string[] }>()
    let line: string[] = []
    for (let round = 0; round < 9; round++) {
      const { volumes } = peer
      const file = await volumes.openFile('v')
      for (let i = 0; i < 5; i++) await changeAtRandom(file, model, random)
      await file.close()
      const name = `s${round}`
      await volumes.snapshots.create('v', name)
      shown.set(name, { bytes: Buffer.from(model), below: line })
      line = [...line, name]
      if (round % 2 === 0) continue
      const back = [...shown.keys()][random.below(shown.size)]!
      await volumes.snapshots.restore('v', back)
      shown.get(back)!.bytes.copy(model)
      line = [...shown.get(back)!.below, back]
      if (round !== 5) continue
      await volumes.snapshots.delete('v', 's1')
      shown.delete('s1')
      await peer.stop()
      peer = await open()
    }
    const backend = new PeerStreamBackend(peer.volumes)
    for (const [newer, { bytes, below }] of [
      ...shown,
      ['', { bytes: model, below: line }] as const
    ]) {
      const known = below.filter((name) => shown.has(name))
      const bases = await peer.volumes.findBases(newer === '' ? 'v' : `v@${newer}`)
      deepStrictEqual(bases.map(({ name }) => name).sort(), [...known].sort())
      for (const [older, { bytes: before }] of shown) {
        if (older === newer) continue
        const asked = backend.diff('v', older, newer === '' ? undefined : newer, 0)
        if (!known.includes(older)) {
          await rejects(asked, failsWith(ErrorCode.InvalidArgument))
          continue
        }
        const rest = Buffer.from(bytes)
        for (const { offset, length, kind } of (await asked).extents) {
          if (kind === 'zeroes')
            ok(rest.subarray(offset, offset + length).every((byte) => byte === 0))
          before.copy(rest, offset, offset, offset + length)
        }
        ok(rest.equals(before), `from ${older} to ${newer}: what differs was told`)
      }
    }
  }))

test('a diff goes up to the head, over growth, and is told in pieces', () =>
  withPeer(async (open) => {
    const { volumes } = await open()
    await volumes.create({ name: 'v', sizeBytes: MIB })
    await volumes.snapshots.create('v', 'a')
    await volumes.resize('v', 48 * MIB)
    const file = await volumes.openFile('v')
    await file.writeAt(40 * MIB + 100, Buffer.alloc(10, 1))
    const backend = new PeerStreamBackend(volumes)
    const extents = [{ offset: 40 * MIB, length: BLOCK, kind: 'data' as const }]
    const expected = { sizeBytes: 48 * MIB, extents, nextBytes: null }
    deepStrictEqual(await backend.diff('v', 'a', undefined, 0), expected)
    deepStrictEqual((await backend.diff('v', 'a', undefined, 41 * MIB)).extents, [])
    await volumes.snapshots.create('v', 'b')
    deepStrictEqual((await backend.diff('v', 'b', undefined, 0)).extents, [])
    const wrong = backend.diff('v', 'b', 'a', 0)
    await rejects(wrong, failsWith(ErrorCode.InvalidArgument))
    await rejects(backend.diff('v', 'c', undefined, 0), failsWith(ErrorCode.NotFound))
    for (let block = 0; block < 7; block++)
      await file.writeAt(2 * block * BLOCK, Buffer.alloc(9, 1))
    const pieces = new PeerStreamBackend(volumes, 3)
    const told: number[] = []
    for (let start: number | null = 0; start !== null; ) {
      const piece: Diff = await pieces.diff('v', 'b', undefined, start)
      ok(piece.extents.length <= 3)
      told.push(...piece.extents.map(({ offset }) => offset / BLOCK))
      start = piece.nextBytes
    }
    deepStrictEqual(told, [0, 2, 4, 6, 8, 10, 12])
    await file.resize(2 * MIB, { shrink: true })
    await file.resize(48 * MIB)
    const last = (await backend.diff('v', 'b', undefined, 0)).extents.at(-1)
    strictEqual(last?.kind, 'zeroes')
    ok(last.offset <= 40 * MIB && last.offset + last.length >= 40 * MIB + BLOCK)
    await file.close()
  }))

test.run()
