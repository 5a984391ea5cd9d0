/** What a status says of groups that have too few copies: only what can really be done. */
import { deepStrictEqual, match, strictEqual } from 'node:assert'
import { test } from 'uvu'
import type { PeerSummary, PoolSummary } from '../../src/cluster/operations.ts'
import { clusterProblems } from '../../src/coordinator/cluster-health.ts'

const peerOf = (name: string, isUp: boolean): PeerSummary => ({
  view: {
    record: {
      ...{ v: 1, peerId: name.repeat(32), bootCounter: 1, bootId: name.repeat(32) },
      ...{ capacityBytes: 1000, labels: { host: name }, addedAt: '2026-01-01T00:00:00Z' }
    },
    alive: isUp
      ? {
          ...{ v: 1, bootId: name.repeat(32), startedAt: '2026-01-01T00:00:00Z' },
          ...{ peerAddress: null, adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
        }
      : null
  } as unknown as PeerSummary['view'],
  inSync: 1,
  syncing: 0
})

function saidOf(redundancy: string, ...peers: readonly PeerSummary[]): string {
  const pool = {
    ...{ v: 1, name: 'p', number: 1, redundancy, failureDomain: 'host', ring: 'ketama' },
    ...{ groups: 8, seed: 1, writeMinimum: null, peers: null, createdAt: '' }
  } as PoolSummary['pool']
  const none = { belowMinimum: 0, unavailable: 0, awaited: [], syncing: 0, splitting: null }
  const summary = { pool, writeMinimum: 1, groupsUsed: 8, degraded: 8, ...none }
  const problems = clusterProblems({
    ...{ peers, pools: [summary], waiting: { groups: [], pendingPeers: [] } },
    controller: { paused: '', shortages: [{ pool: 'p', text: 'the same' }], addsLeft: [] },
    upgrade: { level: 1, target: 1, features: [], behind: [] }
  })
  return problems.map(({ message }) => message).join('\n')
}

test('copies are being made only where there is a place for each', () => {
  const [a, b, d] = [peerOf('a', true), peerOf('b', true), peerOf('d', true)]
  const away = peerOf('d', false)
  match(saidOf('replicated:3', a, b, d), /^pool p: 8 of 8 .*: they are being made$/)
  match(saidOf('replicated:3', a, b), /cannot be made: .*2 hosts.*1 missing; start a new peer.*$/)
  match(saidOf('replicated:3', a, b, away), /start who is down: nobody else can take them \(/)
  match(saidOf('replicated:2', a, b, away), /start who is down; after --down-after/)
})

test('a peer that is up and cannot be reached is told, not at once, nor when down', () => {
  const said = (peer: PeerSummary, forMs: number): string => {
    const problems = clusterProblems({
      ...{ peers: [peer], pools: [], waiting: { groups: [], pendingPeers: [] } },
      ...{ controller: null, upgrade: { level: 1, target: 1, features: [], behind: [] } },
      noLinks: new Map([['a'.repeat(32), { forMs, why: 'its certificate has expired' }]])
    })
    const told = problems.filter(({ code }) => code === 'noConnection')
    deepStrictEqual(
      told.map(({ level }) => level),
      told.map(() => 'error')
    )
    return told.map(({ message }) => message).join('\n')
  }
  match(said(peerOf('a', true), 60_000), /^peer aaaaaaaa .* is up, .* for 60 s: its certificate/)
  strictEqual(said(peerOf('a', true), 10_000), '', 'its lease may be about to end')
  strictEqual(said(peerOf('a', false), 60_000), '')
  strictEqual(said(peerOf('b', true), 60_000), '')
})

test.run()
