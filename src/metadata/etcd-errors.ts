/** What etcd, gRPC and the network answer, as StoreErrors. Pure. */
import { ErrorCode, StoreError } from '../core/errors.ts'

export interface EtcdFailure {
  readonly error: StoreError
  /** Another endpoint may do better. */
  readonly elsewhere: boolean
  /** Whether the request reached etcd is not known, so a change may have happened. */
  readonly maybeDone: boolean
}

interface Rule {
  readonly match: RegExp
  readonly code: ErrorCode
  /** After the endpoint's name; null for what was said. */
  readonly text: string | null
  readonly elsewhere?: boolean
  readonly maybeDone?: boolean
}

const FULL =
  'its database is full (mvcc: database space exceeded). Make room: `etcdctl compact REVISION`, ' +
  '`etcdctl defrag`, then `etcdctl alarm disarm`; or raise --quota-backend-bytes of etcd'

const rules: readonly Rule[] = [
  { match: /database space exceeded/, code: ErrorCode.OutOfSpace, text: FULL },
  {
    match: /requested lease not found/,
    code: ErrorCode.NotFound,
    text: 'the lease has ended or never was'
  },
  {
    match: /request is too large|larger than max/,
    code: ErrorCode.LimitReached,
    text: 'the request is larger than etcd takes (--max-request-bytes, 1.5 MiB by default)'
  },
  {
    match: /too many operations in txn/,
    code: ErrorCode.LimitReached,
    text: 'the transaction has more operations than etcd takes (--max-txn-ops, 128 by default)'
  },
  { match: /duplicate key given/, code: ErrorCode.InvalidArgument, text: null },
  { match: /is a future revision/, code: ErrorCode.InvalidArgument, text: null },
  {
    match: /authentication failed|invalid user ID or password/,
    code: ErrorCode.Forbidden,
    text: 'it refuses the user or the password: see --etcd-user and --etcd-password-file'
  },
  {
    match: /user name is empty|user name not found/,
    code: ErrorCode.Forbidden,
    text: 'it asks for a user: set --etcd-user and --etcd-password-file'
  },
  {
    match: /authentication is not enabled/,
    code: ErrorCode.InvalidArgument,
    text: 'it has no users (authentication is not enabled): leave --etcd-user out'
  },
  {
    match: /permission denied/i,
    code: ErrorCode.Forbidden,
    text: 'the user may not read and write here: grant it readwrite on --etcd-prefix'
  },
  {
    match: /certificate|altnames|self.signed|ERR_TLS|SSL routines|wrong version number/i,
    code: ErrorCode.Forbidden,
    text: null,
    elsewhere: true
  },
  { match: /corrupt/i, code: ErrorCode.Corrupt, text: null },
  // Refused before anything was proposed.
  { match: /too many requests|no leader|not capable|learner/, ...unavailable(false) },
  // The token that we have is from before; the next attempt gets a new one.
  { match: /revision of auth store is old|invalid auth token/, ...unavailable(false) },
  { match: /No connection established|ECONNREFUSED|EHOSTUNREACH/, ...unavailable(false) },
  { match: /Name resolution failed|ENOTFOUND|EAI_AGAIN/, ...unavailable(false) },
  { match: /Waiting for LB pick|Waiting for name/, ...unavailable(false) },
  // The rest may have been carried out.
  { match: /\b(1 CANCELLED|2 UNKNOWN|4 DEADLINE|13 INTERNAL|14 UNAVAILABLE)/, ...unavailable(true) }
]

function unavailable(maybeDone: boolean): Omit<Rule, 'match'> {
  return { code: ErrorCode.Unavailable, text: null, elsewhere: true, maybeDone }
}

/** What `thrown` by a call to `endpoint` means; what is no failure of etcd is thrown on. */
export function failureOf(endpoint: string, thrown: unknown): EtcdFailure {
  if (thrown instanceof StoreError) return { error: thrown, elsewhere: false, maybeDone: false }
  if (!(thrown instanceof Error) || thrown instanceof TypeError) throw thrown
  const rule = rules.find(({ match }) => match.test(thrown.message))
  // Unknown words of an unknown version: nothing can be concluded from them.
  const {
    code,
    text,
    elsewhere = false,
    maybeDone = false
  } = rule ?? {
    ...unavailable(true),
    text: null
  }
  const message = `etcd ${endpoint}: ${text ?? plain(thrown.message)}`
  return { error: new StoreError(code, message, { cause: thrown }), elsewhere, maybeDone }
}

/** 'EtcdError: 14 UNAVAILABLE: No connection established. Last error: connect E…' in short. */
function plain(message: string): string {
  const text = message
    .replace(/^(\w*Error: )+/, '')
    .replace(/^\d+ [A-Z_]+: /, '')
    .replace(/^No connection established\. Last error: (Error: )?/, 'no connection: ')
    .replace(/\. Resolution note: *$/, '')
    .replace(/^(etcdserver|mvcc): /, '')
    .replace(/^Error: /, '')
  return /^Deadline exceeded/.test(text) ? 'no answer in time' : text.trim()
}

/** The watch or the compaction asked for a past that is gone. */
export const isCompacted = (thrown: unknown): boolean =>
  thrown instanceof Error && /has been compacted/.test(thrown.message)
