/** Volumes of which next to nothing is written: what is not there costs nothing. */
import { deepStrictEqual, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { PeerStreamBackend } from '../../src/coordinator/stream-backend.ts'
import { withPeer } from '../helpers/own-peer.ts'

const TIB = 2 ** 40
const BLOCK = 4096
/** A billion chunks: asked one by one they would take hours. */
const SIZE = 1024 * TIB

test('all of a large volume is looked through, through snapshots, clones and restarts', () =>
  withPeer(async (open) => {
    let peer = await open()
    const extentsOf = async (name: string) => {
      const file = await peer.volumes.openFile(name, { readOnly: true })
      const found = await file.extents(0, file.sizeBytes)
      await file.close()
      strictEqual(
        found.reduce((end, { offset, length }) => (offset === end ? end + length : -1), 0),
        SIZE
      )
      return found.filter(({ kind }) => kind !== 'hole').map(({ offset }) => offset)
    }
    const write = async (name: string, ...offsets: number[]) => {
      const file = await peer.volumes.openFile(name)
      for (const offset of offsets) await file.writeAt(offset, Buffer.alloc(BLOCK, 1))
      await file.close()
    }
    const { snapshots } = peer.volumes
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
    deepStrictEqual(await extentsOf('v'), [])
    const [early, middle, late] = [5 * TIB, 700 * TIB + BLOCK, SIZE - BLOCK]
    await write('v', middle)
    await snapshots.create('v', 'a')
    await write('v', late)
    await snapshots.create('v', 'b')
    await write('v', 0, early)
    await peer.volumes.clones.clone('v', 'a', { name: 'c' })
    await write('c', late)
    deepStrictEqual(await extentsOf('v'), [0, early, middle, late])
    await peer.stop()
    peer = await open()
    deepStrictEqual(await extentsOf('v'), [0, early, middle, late])
    deepStrictEqual(await extentsOf('v@a'), [middle])
    deepStrictEqual(await extentsOf('c'), [middle, late])
    const backend = new PeerStreamBackend(peer.volumes)
    const diff = async (from: string, to?: string) =>
      (await backend.diff('v', from, to, 0)).extents.map(({ offset }) => offset)
    deepStrictEqual(await diff('a', 'b'), [late])
    deepStrictEqual(await diff('a'), [0, early, late])
    await peer.volumes.snapshots.restore('v', 'a')
    await write('v', early)
    deepStrictEqual(await extentsOf('v'), [early, middle])
    deepStrictEqual(await diff('a'), [early])
  }))

test.run()
