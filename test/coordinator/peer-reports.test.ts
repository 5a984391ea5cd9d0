import { deepEqual, equal, ok } from 'node:assert/strict'
import { suite } from 'uvu'
import { PeerReports } from '../../src/coordinator/peer-reports.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { Member, MemberAnswer } from '../../src/replication/member.ts'
import type { PeerReport } from '../../src/replication/peer-report.ts'

const test = suite('peer reports')

const reportOf = (usedBytes: number): PeerReport => ({
  usedBytes,
  resync: {
    ...{ groupsDone: 0, groupsLeft: 0, bytesCopied: 0, bytesLeft: 0, bytesPerSecond: 0 },
    ...{ secondsLeft: 0, secondsPerGroup: null }
  },
  reclaim: { groupsLeft: 0, groupsDone: 0, bytesGivenBack: 0 },
  controller: null
})

function reportsOf(answers: Record<string, () => Promise<MemberAnswer>>): PeerReports {
  const find = (peerId: string): Member | null => {
    const call = answers[peerId]
    return call === undefined ? null : ({ call } as unknown as Member)
  }
  return new PeerReports({ find, onChange: () => {} })
}

const data = Buffer.alloc(0)

test('who is not linked, is older, or fails tells nothing, and holds nobody up', async () => {
  const reports = reportsOf({
    a: async () => ({ report: reportOf(1), data }),
    old: () => Promise.reject(new StoreError(ErrorCode.InvalidArgument, 'not a call')),
    b: async () => ({ data })
  })
  const startMs = performance.now()
  const found = await reports.of(['a', 'old', 'b', 'away'])
  ok(performance.now() - startMs < 900)
  deepEqual([...found], [['a', reportOf(1)]])
})

test('a peer that is paused costs one question and a second, not the others', async () => {
  let asked = 0
  let wake = (_: MemberAnswer): void => {}
  const reports = reportsOf({
    a: async () => ({ report: reportOf(1), data }),
    paused: () => {
      asked++
      return new Promise((resolve) => {
        wake = resolve
      })
    }
  })
  for (let round = 0; round < 2; round++) {
    deepEqual([...(await reports.of(['paused', 'a'])).keys()], ['a'])
  }
  equal(asked, 1)
  setTimeout(() => wake({ report: reportOf(2), data }), 10)
  const found = await reports.of(['paused', 'a'])
  deepEqual([...found.keys()].sort(), ['a', 'paused'])
})

test.run()
