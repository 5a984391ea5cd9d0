/** Raising the level of a cluster: see features.ts. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { LEVEL_MAX } from '../core/levels.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import {
  type Feature,
  featuresBetween,
  levelIn,
  rangeText,
  requireKnownLevel,
  spokenOf
} from './features.ts'
import { decodeRecord, encodeRecord, type PeerRecord } from './records.ts'

export interface UpgradeState {
  /** Of the cluster. */
  readonly level: number
  /** The one that this program brings. */
  readonly target: number
  /** What it switches on. */
  readonly features: readonly Feature[]
  /** Peers whose last start was of a program that does not know it, in words. */
  readonly behind: readonly string[]
}

/** Peers count that are down, or wait to be let in: they may start again as they are. */
export function upgradeStateOf(level: number, peers: readonly PeerRecord[]): UpgradeState {
  const target = Math.max(level, LEVEL_MAX)
  const behind = peers
    .filter((peer) => peer.state !== 'removed' && !knows(peer, target))
    .map((peer) => {
      const speaks = spokenOf(peer)
      return `peer ${peer.peerId.slice(0, 8)} (torus ${speaks.version}, ${rangeText(speaks)})`
    })
  return { level, target, features: featuresBetween(level, target), behind }
}

function knows(peer: PeerRecord, level: number): boolean {
  const { min, max } = spokenOf(peer)
  return level >= min && level <= max
}

/**
 * Raises the level to the highest that this program knows; with `dryRun` only tells whether it
 * could. Returns what was so before.
 * @throws StoreError Busy, naming who does not know it; then nothing was changed
 */
export function finalizeCluster(cluster: Cluster, dryRun: boolean): Promise<UpgradeState> {
  const { keys, store } = cluster
  return untilSettled('finalising the cluster', async () => {
    // Read before the peers are: who registers meanwhile with other levels changes it.
    const { entries } = await store.transact({
      compare: [],
      success: [{ get: keys.levels }, { get: keys.settings }]
    })
    const [levels = null, found = null] = entries
    const settings = found === null ? null : decodeRecord('settings', keys.settings, found.value)
    const level = levelIn(settings)
    requireKnownLevel(level, keys.prefix)
    const state = upgradeStateOf(level, await cluster.peers())
    if (state.target === level) return state
    refuseBehind(state)
    if (dryRun) return state
    const raised = { v: 1 as const, ...settings, level: state.target }
    const { succeeded } = await store.transact({
      compare: [
        { key: keys.levels, modRevision: levels?.modRevision ?? 0 },
        { key: keys.settings, modRevision: found?.modRevision ?? 0 }
      ],
      success: [{ put: keys.settings, value: encodeRecord('settings', raised) }]
    })
    if (!succeeded) return null
    cluster.features.note(state.target)
    return state
  })
}

function refuseBehind({ level, target, behind }: UpgradeState): void {
  if (behind.length === 0) return
  const who = `${behind.slice(0, 10).join(', ')}${behind.length > 10 ? ', …' : ''}`
  const text = `feature level ${target} is not known to ${behind.length} peers: ${who}`
  const advice = 'start them with the new version, or remove those that are gone for good'
  const kept = `The cluster stays at level ${level}`
  throw new StoreError(ErrorCode.Busy, `${text}; ${advice}. ${kept}`)
}
