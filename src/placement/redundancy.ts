/** A pool's redundancy: `replicated:N`, or `erasure:K+M` of K data and M parity fragments. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { GROUP_MEMBERS_MAX } from '../core/limits.ts'

export type Redundancy =
  | { readonly kind: 'replicated'; readonly copies: number }
  | { readonly kind: 'erasure'; readonly data: number; readonly parity: number }

/** Members of a group: each holds a copy, or the fragment of its slot. */
export const membersOf = (redundancy: Redundancy): number =>
  redundancy.kind === 'replicated' ? redundancy.copies : redundancy.data + redundancy.parity

/** 'replicated:3', 'erasure:4+2'. @throws StoreError InvalidArgument */
export function parseRedundancy(text: string): Redundancy {
  const replicated = /^replicated:(\d{1,4})$/.exec(text)
  const erasure = /^erasure:(\d{1,4})\+(\d{1,4})$/.exec(text)
  const [copies, data, parity] = [replicated?.[1], erasure?.[1], erasure?.[2]].map(Number)
  const redundancy: Redundancy | null =
    replicated !== null
      ? { kind: 'replicated', copies: copies! }
      : erasure !== null
        ? { kind: 'erasure', data: data!, parity: parity! }
        : null
  if (redundancy === null) {
    const text_ = `"${text}" is no redundancy: write replicated:N or erasure:K+M`
    throw new StoreError(ErrorCode.InvalidArgument, text_)
  }
  const wrong = whatIsWrong(redundancy)
  if (wrong !== null) throw new StoreError(ErrorCode.InvalidArgument, `${text}: ${wrong}`)
  return redundancy
}

function whatIsWrong(redundancy: Redundancy): string | null {
  if (redundancy.kind === 'replicated' && redundancy.copies < 1) return 'at least one copy'
  if (redundancy.kind === 'erasure') {
    if (redundancy.data < 2) return 'at least 2 data fragments: with 1 it is replication'
    if (redundancy.parity < 1) return 'at least 1 parity fragment'
  }
  const members = membersOf(redundancy)
  return members > GROUP_MEMBERS_MAX ? `at most ${GROUP_MEMBERS_MAX} members, not ${members}` : null
}

/** What `parseRedundancy` reads. */
export const formatRedundancy = (redundancy: Redundancy): string =>
  redundancy.kind === 'replicated'
    ? `replicated:${redundancy.copies}`
    : `erasure:${redundancy.data}+${redundancy.parity}`
