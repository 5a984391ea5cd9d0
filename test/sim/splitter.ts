/** An operator who has the groups of the pool split now and then. */
import { StoreError } from '../../src/core/errors.ts'
import { DEFAULT_POOL, Pools } from '../../src/cluster/pools.ts'
import type { SimCluster } from './cluster.ts'
import type { SimPeer } from './peer.ts'

/** More than there are chunks. */
const SPLIT_GROUPS_MAX = 32

export class Splitter {
  readonly #sim: SimCluster
  #isSplitting = false

  constructor(sim: SimCluster) {
    this.#sim = sim
  }

  begin(): void {
    this.#isSplitting = true
    this.#next()
  }

  end(): void {
    this.#isSplitting = false
  }

  #next(): void {
    const { world } = this.#sim
    world.after(world.between(100, 3000), () => {
      if (!this.#isSplitting) return
      split(this.#sim, 2 ** (1 + world.random.below(2)))
      this.#next()
    })
  }
}

/** `by`: into so many times as many as there are; the first peer that runs is asked for it. */
export function split(
  sim: SimCluster,
  by: number,
  asked: SimPeer | undefined = sim.peers.find(({ boot }) => boot?.serving != null)
): void {
  const { world, pool } = sim
  const cluster = asked?.boot?.serving?.cluster
  const groups = Math.min(pool.groups * by, SPLIT_GROUPS_MAX)
  if (cluster === undefined || groups <= (pool.splitting?.to ?? pool.groups)) return
  new Pools(cluster).set(DEFAULT_POOL, { groups }).then(
    () => world.log(`groups are split into ${groups}`),
    (thrown: unknown) => {
      if (!(thrown instanceof StoreError)) world.fail(`no split: ${(thrown as Error).stack}`)
    }
  )
}
