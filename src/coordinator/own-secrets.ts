/** The secrets that a peer was given, beside those that the metadata tells of. */
import type { Cluster } from '../cluster/cluster.ts'
import { agreeOnSecret, type OwnSecrets } from '../cluster/secret-verifiers.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Config } from '../core/options.ts'
import { type AcceptSecrets, NO_SECRET, readSecrets } from '../replication/peer-security.ts'

type Given = Pick<Config, 'clusterSecretFile' | 'peerTlsCa'>

/** @throws StoreError InvalidArgument when they cannot be read */
export async function ownSecrets(
  { clusterSecretFile: file, peerTlsCa }: Given,
  identity: Pick<OwnSecrets, 'clusterId' | 'peerId'>
): Promise<OwnSecrets> {
  if (file !== null) return { ...identity, file, secrets: await readSecrets(file) }
  return { ...identity, file, secrets: peerTlsCa === null ? null : [NO_SECRET] }
}

/** While the metadata does not answer any will do: those that others do not know open no link. */
export const acceptingSecrets =
  ({ store, keys, self }: Cluster, file: string | null): AcceptSecrets =>
  async (secrets) => {
    const { clusterId, peerId } = self
    await agreeOnSecret(store, keys, { clusterId, peerId, file, secrets }).catch((thrown) => {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.Unavailable) throw thrown
    })
  }
