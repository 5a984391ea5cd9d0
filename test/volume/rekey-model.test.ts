/**
 * Encrypted volumes with snapshots, clones and restores on real shards, beside arrays of their
 * bytes: changed, rekeyed, flattened, compacted and restarted at random, with rekeys under way.
 */
import { ok, strictEqual } from 'node:assert'
import { closeSync, openSync, readdirSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import type { RunningPeer } from '../../src/index.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { checkNonces } from '../helpers/nonces.ts'
import { withPeer } from '../helpers/own-peer.ts'
import { until } from '../helpers/process.ts'
import { changeAtRandom, readAll } from '../helpers/volume-peer.ts'

const SIZE = 6 * 1024 * 1024
const seed = Number(process.env['SEED'] ?? 1)
const ROUNDS = Number(process.env['ROUNDS'] ?? 6)
const SECRET = Buffer.alloc(32, 'K')

interface Keys {
  readonly rekey: { readonly running: boolean } | null
}

async function api<T>(peer: RunningPeer, method: string, path: string): Promise<T> {
  const url = peer.adminAddresses.find((address) => address.startsWith('http'))!
  const answer = await fetch(`${url}/v1/${path}`, { method })
  const text = await answer.text()
  ok(answer.ok, `${method} ${path}: ${text}`)
  return (text === '' ? null : JSON.parse(text)) as T
}

const keysOf = (peer: RunningPeer, name: string): Promise<Keys> =>
  api(peer, 'GET', `volumes/${name}/keys`)

/** Blocks in files that are not ciphertext: long runs of one byte that is not zero. */
function plainBlocks(directory: string): number {
  let found = 0
  const block = Buffer.alloc(BLOCK_BYTES)
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.startsWith('seg-')) continue
    const file = openSync(join(entry.parentPath, entry.name), 'r')
    while (readSync(file, block) === BLOCK_BYTES) {
      const at = block.subarray(2048, 2112)
      if (at[0] !== 0 && at.every((byte) => byte === at[0])) found++
    }
    closeSync(file)
  }
  return found
}

test(`rekeys change no byte of volumes, snapshots and clones (SEED=${seed})`, () =>
  withPeer(
    async (open, directory) => {
      const random = new SeededRandom(seed)
      let peer = await open()
      const encrypt = { kind: 'key-file', secret: SECRET, label: '' } as const
      await peer.volumes.create({ name: 'v0', sizeBytes: SIZE, encrypt })
      const volumes = new Map([['v0', Buffer.alloc(SIZE)]])
      const shown = new Map<string, Buffer>()
      const rekeys = new Set<string>()
      const nonces = new Map<string, string>()
      const any = <T>(all: Iterable<T>): T => [...all][random.below([...all].length)]!
      const change = async (name: string, times: number): Promise<void> => {
        const file = await peer.volumes.openFile(name)
        for (let i = 0; i < times; i++) await changeAtRandom(file, volumes.get(name)!, random)
        await file.close()
      }
      const compare = async (): Promise<void> => {
        for (const [name, expected] of [...volumes, ...shown]) {
          ok((await readAll(peer, name)).equals(expected), name)
        }
      }
      for (let round = 0; round < ROUNDS; round++) {
        const { snapshots, clones } = peer.volumes
        const name = any(volumes.keys())
        await change(name, 6)
        if (!rekeys.has(name) || (await keysOf(peer, name)).rekey === null) {
          await api(peer, 'POST', `volumes/${name}/rekey`)
          rekeys.add(name)
        }
        // While that goes on.
        await change(name, 2)
        await snapshots.create(name, `s${round}`)
        shown.set(`${name}@s${round}`, Buffer.from(volumes.get(name)!))
        await change(name, 2)
        const from = any(shown.keys())
        const [volume, snapshot] = from.split('@') as [string, string]
        const what = random.below(5)
        if (what === 0 && volumes.size < 4) {
          await clones.clone(volume, snapshot, { name: `v${round + 1}` })
          volumes.set(`v${round + 1}`, Buffer.from(shown.get(from)!))
        } else if (what === 1) {
          await until(async () => (await keysOf(peer, volume)).rekey === null, 'rekeyed')
          await snapshots.restore(volume, snapshot, { force: true })
          volumes.set(volume, Buffer.from(shown.get(from)!))
        } else if (what === 2 && (await clones.children(volume, snapshot)).length === 0) {
          await snapshots.delete(volume, snapshot)
          shown.delete(from)
        } else if (what === 3) {
          const standing = await peer.volumes.baseOf(name)
          if (standing.base !== null) await peer.volumes.flattener.start(name)
        } else await api(peer, 'POST', 'tasks/compact/start')
        if (round % 4 === 3) {
          await peer.stop()
          peer = await open()
        }
        await compare()
      }
      for (const name of volumes.keys()) {
        await (await peer.volumes.openFile(name)).close()
        await until(async () => (await keysOf(peer, name)).rekey === null, `${name} rekeyed`)
      }
      await compare()
      // With the keys of the record alone, and nothing at hand.
      await peer.stop()
      peer = await open()
      await compare()
      await peer.stop()
      strictEqual(plainBlocks(directory), 0)
      checkNonces(directory, nonces)
      ok(nonces.size > 1000, `${nonces.size} nonces`)
    },
    { unlockWith: `*=command:head -c 32 /dev/zero | tr '\\0' K` }
  ))

test('who has a clone open reads on while what it stands on is rekeyed', () =>
  withPeer(async (open) => {
    const peer = await open()
    const encrypt = { kind: 'key-file', secret: SECRET, label: '' } as const
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE, encrypt })
    const file = await peer.volumes.openFile('v')
    await file.writeAt(0, Buffer.alloc(SIZE, 5))
    await file.close()
    await peer.volumes.snapshots.create('v', 's')
    await peer.volumes.clones.clone('v', 's', { name: 'clone' })
    const clone = await peer.volumes.openFile('clone')
    for (let round = 0; round < 2; round++) {
      await api(peer, 'POST', 'volumes/v/rekey')
      await until(async () => (await keysOf(peer, 'v')).rekey === null, 'rekeyed')
      for (const length of [BLOCK_BYTES, SIZE]) {
        ok((await clone.readAt(0, length)).equals(Buffer.alloc(length, 5)), `round ${round}`)
      }
    }
    await clone.close()
    await peer.stop()
  }))

test.run()
