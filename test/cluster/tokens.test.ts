import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { test } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { Tokens } from '../../src/cluster/tokens.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'

const ADMIN = {
  role: 'admin',
  volume: null,
  readOnly: false,
  label: '',
  expiresInMs: null
} as const

async function openSite() {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const open = async (name: string): Promise<Tokens> => {
    const ids = { clusterId: 'c'.repeat(32), peerId: name.repeat(32), bootId: '1'.repeat(32) }
    const self = { ...ids, bootCounter: 1, capacityBytes: 1 }
    const cluster = await Cluster.open(store, self, { clock, random, timers: clock })
    const tokens = new Tokens(cluster)
    await tokens.ready
    return tokens
  }
  return { clock, store, open }
}

test('a token of one peer holds on every other, until it is revoked on any', async () => {
  const { clock, open } = await openSite()
  const [here, there] = [await open('a'), await open('b')]
  ok(!there.areRequired)
  const { token, text } = await here.create({ ...ADMIN, label: 'x' })
  await clock.advance(10)
  deepEqual(there.verify(text), token)
  ok(there.areRequired)
  await there.revoke(token.id)
  await clock.advance(10)
  equal(here.verify(text), null)
  ok(here.areRequired)
  equal(here.count, 0)
  const later = await open('d')
  ok(later.areRequired, 'a start after the last revocation opens nothing')
  await rejects(there.revoke(token.id), /no token/)
  for (const each of [here, there, later]) each.close()
})

test('without metadata tokens hold, and none is made', async () => {
  const { clock, store, open } = await openSite()
  const tokens = await open('a')
  const { text } = await tokens.create({ ...ADMIN, expiresInMs: 5000 })
  await store.close()
  ok(tokens.verify(text) !== null)
  await rejects(tokens.create(ADMIN))
  await clock.advance(5000)
  equal(tokens.verify(text), null)
  tokens.close()
})

test('the metadata has nothing from which a token could be had', async () => {
  const { store, open } = await openSite()
  const tokens = await open('a')
  const { token, text } = await tokens.create(ADMIN)
  const { entries } = await store.range('')
  const all = entries.map(({ value }) => value.toString()).join('\n')
  ok(all.includes(token.id))
  ok(!all.includes(text.slice(-43)))
  ok(!JSON.stringify(tokens.list()).includes('hash'))
  tokens.close()
})

test('a record of a later version is refused, and still closes the doors', async () => {
  const { clock, store, open } = await openSite()
  const tokens = await open('a')
  const id = 'f'.repeat(16)
  const value = Buffer.from(JSON.stringify({ v: 2, id }))
  await store.transact({ success: [{ put: `/torus/v1/tokens/${id}`, value }] })
  await clock.advance(10)
  ok(tokens.areRequired)
  equal(tokens.verify(`torus_${id}_${'A'.repeat(43)}`), null)
  tokens.close()
})

test.run()
