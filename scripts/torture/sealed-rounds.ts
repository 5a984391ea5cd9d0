/** A server of an encrypted volume that is rekeyed, and compacted, whenever it is loaded. */
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { TorusServer } from '../../test/helpers/server.ts'
import { READY_MS_MAX, TORTURE_VOLUME } from './kill-rounds.ts'

export interface SealedServer {
  readonly server: TorusServer
  /** Begins a rekey, unless one goes on; what a kill cuts off is no error. */
  rekey(): Promise<void>
  /** Waits until none goes on. @throws Error after half a minute */
  untilRekeyed(): Promise<void>
  /** How many were begun. */
  readonly rekeys: () => number
}

const REKEYED_MS_MAX = 30_000

export async function startSealed(
  volumeBytes: number,
  args: readonly string[]
): Promise<SealedServer> {
  const server = await TorusServer.prepare({ args, readyMs: READY_MS_MAX })
  const key = join(dirname(server.dataDir), 'key')
  let begun = 0
  const post = (path: string): Promise<Response> =>
    fetch(`${server.adminUrl}/v1/${path}`, { method: 'POST' })
  const keysUrl = (): string => `${server.adminUrl}/v1/volumes/${TORTURE_VOLUME}/keys`
  try {
    await server.start()
    writeFileSync(key, randomBytes(32), { mode: 0o600 })
    const made = ['create', TORTURE_VOLUME, `${volumeBytes}`, '--encrypt', '--key-file', key]
    await server.json('volume', ...made)
    await server.stop()
    server.addArgs(['--unlock-with', `*=key-file:${key}`])
    await server.start()
  } catch (error) {
    await server.dispose()
    throw error
  }
  return {
    server,
    rekeys: () => begun,
    rekey: async () => {
      try {
        const { status } = await post(`volumes/${TORTURE_VOLUME}/rekey`)
        if (status < 300) begun++
        await post('tasks/compact/start')
      } catch (thrown) {
        // `fetch` says so when its server is gone.
        if (!(thrown instanceof TypeError)) throw thrown
      }
    },
    untilRekeyed: async () => {
      const endMs = performance.now() + REKEYED_MS_MAX
      for (;;) {
        const { rekey } = (await (await fetch(keysUrl())).json()) as { rekey: unknown }
        if (rekey === null) return
        if (performance.now() > endMs) throw new Error(`a rekey stands: ${JSON.stringify(rekey)}`)
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    }
  }
}
