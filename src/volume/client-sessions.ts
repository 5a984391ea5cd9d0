/**
 * Which client may write again what it wrote before (PROTOCOL.md, R35). A relay keeps what was not
 * flushed and writes it anew at the next gateway; that is right only while nobody else wrote. The
 * metadata name the session of such a client as long as that is so:
 *
 *   begins     the volume's record names it, and the one before is over
 *   goes on    refused unless it is named still
 *   others     before their first change nobody is named any more
 */
import type { Cluster } from '../cluster/cluster.ts'
import { decodeRecord, encodeRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import type { ClientSession } from './block-device.ts'
import type { OpenVolume } from './open-volume.ts'

/** A volume that is open here. */
interface Opened {
  readonly record: { readonly id: string; readonly name: string }
  readonly opens: ReadonlySet<OpenVolume>
  readonly volume: { readonly ops: { readonly tenure: number } }
}

interface Known {
  readonly tenure: number
  readonly session: string | null
}

export class ClientSessions {
  readonly #cluster: Cluster
  readonly #ring: () => void
  /** What records say, by volume: as long as nobody else has the right to write it. */
  readonly #known = new WeakMap<Opened['volume']['ops'], Known>()
  readonly #turns = new Map<string, Promise<void>>()

  /** `ring`: see DeviceSource. */
  constructor(cluster: Cluster, ring: () => void) {
    this.#cluster = cluster
    this.#ring = ring
  }

  /**
   * A client that may write opened `device`; `session` null: it would write nothing again.
   * @throws StoreError StaleEpoch when it goes on, and another client wrote since
   */
  async enter(opened: Opened, device: OpenVolume, session: ClientSession | null): Promise<void> {
    if (device.readOnly) return
    await this.#inTurn(opened, async () => {
      const named = await this.#named(opened)
      if (session === null) {
        if (named !== null) this.#guard(opened, device)
        return
      }
      if (session.goesOn && named !== session.id) {
        const text = `another client has written volume ${opened.record.name} since, or may have`
        throw new StoreError(ErrorCode.StaleEpoch, text)
      }
      if (named !== session.id) await this.#name(opened, session.id)
      device.session = session.id
      for (const other of opened.opens) {
        if (other.readOnly || other.session === session.id) continue
        // It goes on elsewhere, or here, where it is told that it is over.
        if (other.session !== null) other.shut()
        else this.#guard(opened, other)
      }
    })
  }

  #guard(opened: Opened, device: OpenVolume): void {
    device.beforeChange = (go) => {
      const leave = async (): Promise<void> => {
        if ((await this.#named(opened)) !== null) await this.#name(opened, null)
      }
      this.#inTurn(opened, leave)
        .then(
          () => go(ErrorCode.Ok),
          (thrown: unknown) => go(storeErrorOf(thrown).code)
        )
        .finally(this.#ring)
    }
  }

  /** One after the other, for each volume. */
  #inTurn(opened: Opened, work: () => Promise<void>): Promise<void> {
    const { id } = opened.record
    const before = this.#turns.get(id) ?? Promise.resolve()
    const turn = before.then(work)
    const over = turn
      .catch(() => {})
      .then(() => {
        if (this.#turns.get(id) === over) this.#turns.delete(id)
      })
    this.#turns.set(id, over)
    return turn
  }

  async #named({ record, volume }: Opened): Promise<string | null> {
    const { tenure } = volume.ops
    const known = this.#known.get(volume.ops)
    if (known?.tenure === tenure) return known.session
    const { keys, store } = this.#cluster
    const key = keys.clientSession(record.id)
    const entry = await store.get(key)
    const session = entry === null ? null : decodeRecord('clientSession', key, entry.value).session
    this.#known.set(volume.ops, { tenure, session })
    return session
  }

  async #name({ record, volume }: Opened, session: string | null): Promise<void> {
    const { keys, store } = this.#cluster
    const key = keys.clientSession(record.id)
    const { tenure } = volume.ops
    this.#known.delete(volume.ops)
    const { succeeded } = await store.transact({
      compare: [{ key: keys.volume(record.id), is: 'present' }],
      success: [{ put: key, value: encodeRecord('clientSession', { v: 1, session }) }]
    })
    if (!succeeded) throw new StoreError(ErrorCode.NotFound, `volume ${record.name} was deleted`)
    this.#known.set(volume.ops, { tenure, session })
  }
}
