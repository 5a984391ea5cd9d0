import { deepStrictEqual, ok, strictEqual, throws } from 'node:assert/strict'
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { suite } from 'uvu'
import { minusLog } from '../../src/placement/rendezvous.ts'
import { Ring, registerRingKind, ringKinds, ringOf } from '../../src/placement/ring.ts'
import { parseRing } from '../../src/placement/ring-description.ts'
import { anyPeers, ringFor, somePeers } from '../helpers/rings.ts'

const test = suite('ring')
const listsOf = (ring: { peersOf(group: number): string[] }, groups: number): string[][] =>
  Array.from({ length: groups }, (_, group) => ring.peersOf(group))
const hashOf = (value: unknown): string =>
  createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 16)

// Where data should be follows from these: a change would move all of it.
test('lists are what they always were', () => {
  const peers = somePeers(0, 20, { weights: [1, 2, 0.5] })
  const found = ['ketama', 'rendezvous', 'mod'].map((kind) =>
    hashOf(listsOf(new Ring(ringFor(peers, { kind })), 256))
  )
  deepStrictEqual(found, ['c62eea6cd5fb3ee4', 'ecf933267f994060', '4fcf540fb2afcfc8'])
})

test('lists have every peer with a weight once, in any order of the description', () => {
  fc.assert(
    fc.property(
      anyPeers({ min: 1, max: 30 }),
      fc.constantFrom('ketama', 'rendezvous', 'mod'),
      fc.integer({ min: 0, max: 0xffffffff }),
      (peers, kind, seed) => {
        const description = ringFor(peers, { kind, seed, groups: 16 })
        const lists = listsOf(new Ring(description), 16)
        const heavy = peers.filter(({ weight }) => weight > 0).map(({ id }) => id)
        for (const list of lists) deepStrictEqual([...list].sort(), [...heavy].sort())
        const reversed = new Ring({ ...description, peers: [...peers].reverse() })
        deepStrictEqual(listsOf(reversed, 16), lists)
      }
    ),
    { seed: 1, numRuns: 100 }
  )
})

test('ketama points are those of the published algorithm', () => {
  const peers = somePeers(0, 3)
  const points: [number, string][] = []
  for (const { id } of peers) {
    for (let number = 0; number < 40; number++) {
      const digest = createHash('md5').update(`${id}-${number}`).digest()
      for (let at = 0; at < 16; at += 4) points.push([digest.readUInt32LE(at), id])
    }
  }
  points.sort(([a], [b]) => a - b)
  const ring = new Ring(ringFor(peers, { seed: 7 }))
  for (let group = 0; group < 256; group++) {
    const at = createHash('md5').update(`7-${group}`).digest().readUInt32LE(0)
    const first = points.find(([point]) => point >= at) ?? points[0]!
    strictEqual(ring.peersOf(group)[0], first[1])
  }
})

test('rendezvous gives each peer its weight of first places', () => {
  const peers = somePeers(0, 10, { weights: [1, 2, 3, 4] })
  const ring = new Ring(ringFor(peers, { kind: 'rendezvous', groups: 65_536 }))
  const firsts = new Map<string, number>()
  for (let group = 0; group < 65_536; group++) {
    const [first] = ring.peersOf(group, 1)
    firsts.set(first!, (firsts.get(first!) ?? 0) + 1)
  }
  const sum = peers.reduce((all, { weight }) => all + weight, 0)
  for (const { id, weight } of peers) {
    const expected = (65_536 * weight) / sum
    // Five standard deviations.
    ok(Math.abs(firsts.get(id)! - expected) < 5 * Math.sqrt(expected), id)
  }
})

test('long rendezvous lists are the same as those of all scores', () => {
  const peers = somePeers(0, 400, { weights: [1, 5] })
  const few = new Ring(ringFor(peers, { kind: 'rendezvous' }))
  const all = new Ring(ringFor(peers, { kind: 'rendezvous' }))
  for (let group = 0; group < 64; group++) {
    const list = all.peersOf(group)
    strictEqual(list.length, 400)
    for (const limit of [1, 16, 17, 100]) {
      deepStrictEqual(few.peersOf(group, limit), list.slice(0, limit))
    }
  }
})

test('the logarithm is one, to the last bits', () => {
  for (const hash of [
    0, 1, 2, 3, 1000, 0x7fffffff, 0x80000000, 0xb504f333, 0xfffffffe, 0xffffffff
  ]) {
    const exact = -Math.log((hash + 0.5) / 2 ** 32)
    ok(Math.abs(minusLog(hash) - exact) < 1e-14 * (1 + exact), String(hash))
  }
  ok(minusLog(0xffffffff) > 0 && minusLog(0xfffffffe) > minusLog(0xffffffff))
})

test('a peer that joins takes from others and moves nothing between them', () => {
  for (const kind of ['ketama', 'rendezvous']) {
    const before = new Ring(ringFor(somePeers(0, 20), { kind, groups: 4096 }))
    const after = new Ring(ringFor(somePeers(0, 21), { kind, groups: 4096 }))
    const added = somePeers(20, 1)[0]!.id
    let moved = 0
    for (let group = 0; group < 4096; group++) {
      const [first] = after.peersOf(group, 1)
      if (first === before.peersOf(group, 1)[0]) continue
      strictEqual(first, added)
      moved++
    }
    // A peer's arc of ketama's circle is not exactly its share.
    ok(moved > (4096 / 21) * 0.7 && moved < (4096 / 21) * 1.3, `${kind} ${moved}`)
    // All lists are as before, the new peer left out.
    for (let group = 0; group < 256; group++) {
      const rest = after.peersOf(group).filter((id) => id !== added)
      deepStrictEqual(rest, before.peersOf(group))
    }
  }
})

test('no two of a list share a failure domain', () => {
  for (const kind of ['ketama', 'rendezvous', 'mod']) {
    const peers = somePeers(0, 30, { racks: 5 })
    const rackOf = new Map(peers.map(({ id, labels }) => [id, labels['rack']]))
    const ring = new Ring(ringFor(peers, { kind, failureDomain: 'rack' }))
    for (const list of listsOf(ring, 256)) {
      deepStrictEqual([list.length, new Set(list.map((id) => rackOf.get(id))).size], [5, 5])
    }
  }
})

test('a union has both lists, the one of before first, and nobody twice', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 4 }),
      (first, second, replicas) => {
        const from = ringFor(somePeers(0, first), { replicas, groups: 16 })
        const to = ringFor(somePeers(6, second), { replicas, kind: 'rendezvous', groups: 16 })
        const union = ringOf(parseRing({ v: 1, kind: 'union', rings: [from, to] }))
        for (let group = 0; group < 16; group++) {
          const [before, after] = [ringOf(from).peersOf(group), ringOf(to).peersOf(group)]
          const both = union.peersOf(group)
          deepStrictEqual(both.slice(0, before.length), before)
          deepStrictEqual(new Set(both), new Set([...before, ...after]))
          strictEqual(new Set(both).size, both.length)
        }
      }
    ),
    { seed: 1, numRuns: 50 }
  )
})

test('mod goes round, single has one peer, empty nobody', () => {
  const peers = [...somePeers(0, 4)].sort((a, b) => (a.id < b.id ? -1 : 1))
  const mod = new Ring(ringFor(peers, { kind: 'mod', groups: 8, replicas: 2 }))
  deepStrictEqual(mod.peersOf(6), [peers[2]!.id, peers[3]!.id])
  deepStrictEqual(mod.peersOf(7), [peers[3]!.id, peers[0]!.id])
  const single = new Ring(ringFor(peers.slice(0, 1), { kind: 'single' }))
  deepStrictEqual(single.peersOf(200), [peers[0]!.id])
  deepStrictEqual(new Ring(ringFor([], { kind: 'empty' })).peersOf(3), [])
  throws(() => new Ring(ringFor(peers, { kind: 'single' })), /has one peer, not 4/)
  throws(() => new Ring(ringFor(peers, { kind: 'empty' })), /has no peers, not 4/)
  for (const kind of ['ketama', 'rendezvous', 'mod']) {
    deepStrictEqual(new Ring(ringFor([], { kind })).peersOf(0), [])
  }
})

test('new kinds plug in, under names of their own', () => {
  registerRingKind({
    name: 'backwards',
    balanced: false,
    order: (_, peers) => ({
      walk: (_group, visit) => {
        for (let peer = peers.length - 1; peer >= 0; peer--) if (visit(peer)) return
      }
    })
  })
  const ring = new Ring(ringFor(somePeers(0, 3), { kind: 'backwards' }))
  deepStrictEqual(ring.peersOf(0), ring.peers.map(({ id }) => id).reverse())
  ok(ringKinds().includes('backwards'))
  const taken = { name: 'ketama', balanced: true, order: () => ({ walk: () => {} }) }
  throws(() => registerRingKind(taken), /ketama is known already/)
  throws(() => registerRingKind({ ...taken, name: 'union' }), /union is known already/)
})

test('a description comes back from JSON, and a wrong one is refused in words', () => {
  const good = ringFor(somePeers(0, 3), { replicas: 2 })
  deepStrictEqual(parseRing(JSON.parse(JSON.stringify(good))), good)
  const [peer] = good.peers
  const wrong: [unknown, RegExp][] = [
    [null, /not a ring description/],
    [[], /not a ring description/],
    [{ ...good, v: 2 }, /version 2, this program knows 1/],
    [{ ...good, groups: 100 }, /a power of two up to 65536/],
    [{ ...good, groups: 131_072 }, /a power of two up to 65536/],
    [{ ...good, peers: [peer, peer] }, /a peer is listed twice/],
    [{ ...good, peers: [{ ...peer, weight: -1 }] }, /weight/],
    [{ ...good, peers: [{ ...peer, weight: Number.NaN }] }, /weight/],
    [{ ...good, peers: [{ ...peer, id: 'a b' }] }, /id/],
    [{ ...good, failureDomain: 'room' }, /failureDomain/],
    [{ v: 1, kind: 'union', rings: [good] }, /rings/],
    [{ v: 1, kind: 'union', rings: [good, { ...good, groups: 512 }] }, /as many groups/],
    [{ v: 1, kind: 'union', rings: [good, ringFor(good.peers)] }, /tell their replicas/]
  ]
  for (const [description, message] of wrong) throws(() => parseRing(description), message)
  throws(() => new Ring({ ...good, kind: 'crush' }), /"crush" is unknown: there are ketama,/)
})

test.run()
