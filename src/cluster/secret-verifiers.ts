/**
 * Which secret the peers of the cluster prove themselves by, as the metadata tells it: a keyed hash
 * of each valid one, so that a peer with another secret is told at its start, and not in as one
 * that nobody talks to. It keeps nobody out: that is what the proofs on the links do.
 *
 * Who starts, or reads its secrets again, needs one in common with what stands there and then
 * writes down its own. So while a secret changes, with two lines in the files, nobody is refused.
 */
import { createHmac } from 'node:crypto'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { MetadataStore } from '../metadata/store.ts'
import { untilSettled } from './cluster.ts'
import type { Keys } from './keys.ts'
import { decodeRecord, encodeRecord, type SecretRecord } from './records.ts'

export interface OwnSecrets {
  readonly clusterId: string
  readonly peerId: string
  /** Those that are valid; one empty one: by certificates alone. Null: it talks to nobody. */
  readonly secrets: readonly Uint8Array[] | null
  /** Where they stand, for messages. */
  readonly file: string | null
}

/** Without the secret it says nothing; of an empty one it says that there is none. */
const verifierOf = (secret: Uint8Array, clusterId: string): string =>
  createHmac('sha256', secret).update(`torus cluster secret\n${clusterId}`).digest('hex')

/** Of a secret that no peer used yet. */
export const newSecretRecord = (secrets: readonly Uint8Array[], clusterId: string): Buffer => {
  const verifiers = secrets.map((secret) => verifierOf(secret, clusterId))
  return encodeRecord('secret', { v: 1, verifiers, usedBy: null })
}

/**
 * Changes nothing. A cluster that has no record of it is one of an older version.
 * @throws StoreError Forbidden
 */
export async function requireKnownSecret(
  store: MetadataStore,
  keys: Keys,
  own: OwnSecrets
): Promise<void> {
  const entry = await store.get(keys.secret)
  if (entry !== null) requireCommon(decodeRecord('secret', keys.secret, entry.value), keys, own)
}

/** The same, and writes down those of `own`. @throws StoreError Forbidden, Conflict */
export async function agreeOnSecret(
  store: MetadataStore,
  keys: Keys,
  own: OwnSecrets
): Promise<void> {
  await untilSettled('writing which secret is used', async () => {
    const entry = await store.get(keys.secret)
    const known = entry === null ? null : decodeRecord('secret', keys.secret, entry.value)
    if (known !== null) requireCommon(known, keys, own)
    if (own.secrets === null) return true
    const verifiers = own.secrets.map((secret) => verifierOf(secret, own.clusterId))
    const isSame = known?.verifiers.join() === verifiers.join()
    if (isSame && known?.usedBy !== null) return true
    const record = { ...known, v: 1, verifiers, usedBy: own.peerId } as const
    const { succeeded } = await store.transact({
      compare: [{ key: keys.secret, modRevision: entry?.modRevision ?? 0 }],
      success: [{ put: keys.secret, value: encodeRecord('secret', record) }]
    })
    return succeeded ? true : null
  })
}

function requireCommon({ verifiers, usedBy }: SecretRecord, keys: Keys, own: OwnSecrets): void {
  const { secrets, clusterId, file } = own
  // What was made by `cluster init` and never used does not bind who proves itself otherwise.
  if (usedBy === null && file === null) return
  if (usedBy === own.peerId && secrets === null) return
  const isOurs = secrets?.some((secret) => verifiers.includes(verifierOf(secret, clusterId)))
  if (isOurs === true) return
  const isByCertificate = verifiers.includes(verifierOf(Buffer.alloc(0), clusterId))
  const theirs = isByCertificate
    ? 'prove themselves by certificates alone'
    : `use ${file === null ? 'a' : 'another'} secret`
  const ours = file === null ? 'this peer has none' : `--cluster-secret-file ${file}`
  const text = `the peers of the cluster below ${keys.prefix}/ ${theirs}: ${ours}`
  const advice = isByCertificate
    ? 'start it with --peer-tls-* and without a secret'
    : 'give it the file that the others have'
  const change = 'for a change on every peer at once see "torus cluster secret --help"'
  throw new StoreError(ErrorCode.Forbidden, `${text}. Nothing was changed; ${advice} (${change})`)
}
