/**
 * Volumes that are being imported. Their bytes come in pieces, each a stream of its own with
 * checksums, one after the other; then all is read back and compared with the digest of what was
 * sent, and only then the volume gets its name. What was interrupted goes on, on whatever peer,
 * from what its record says is durable; the same bytes may be written again.
 */
import { digestOf } from '../backup/exporter.ts'
import { originLabels } from '../backup/origins.ts'
import { StreamReader, type StreamSnapshot } from '../backup/stream-format.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { type HiddenVolume, HiddenVolumes } from '../cluster/hidden-volumes.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { IMPORT_KEPT_MS } from '../core/limits.ts'
import type { VolumeFile } from '../volume/volume-file.ts'
import type { CreateOptions } from '../volume/volume-options.ts'
import { infoOf } from '../volume/volume-info.ts'
import type { Volumes } from '../volume/volumes.ts'
import { IDLE_MS, only, Transfer, type TransferState, transferState } from './transfers.ts'

/** The snapshot that was exported. */
type MadeOf = Pick<StreamSnapshot, 'id' | 'name'>

interface ExpectedVolume {
  readonly digest: string
  readonly snapshot?: MadeOf | undefined
}

class Session extends Transfer {
  /** While it is verified and gets its name, and then: nothing hidden of this id may be there. */
  volume: HiddenVolume | null = null
}

export class Imports {
  readonly #volumes: Volumes
  readonly #cluster: Cluster
  readonly #hidden: HiddenVolumes
  readonly #sessions = new Map<string, Session>()

  readonly #markMs: number | undefined

  constructor(volumes: Volumes, cluster: Cluster, markMs?: number) {
    this.#markMs = markMs
    this.#volumes = volumes
    this.#cluster = cluster
    this.#hidden = new HiddenVolumes(cluster)
  }

  async list(): Promise<TransferState[]> {
    const all = (await this.#hidden.list()).filter(({ hidden }) => hidden.why === 'import')
    this.#forgetBut(new Set(all.map(({ id }) => id)))
    return all.map((volume) => stateOf(volume, this.#sessionOf(volume)))
  }

  /**
   * Makes a volume that nobody can open. @throws StoreError AlreadyExists when there is a volume,
   * or an import, of that name
   */
  async begin(options: Omit<CreateOptions, 'hidden'>): Promise<TransferState> {
    const { name } = options
    const isImport = (await this.list()).some((each) => each.name === name)
    if (isImport) {
      const text = `an import of ${name} goes on already: go on with it, or abandon it`
      throw new StoreError(ErrorCode.AlreadyExists, text)
    }
    if ((await this.#volumes.listAll()).some((each) => each.name === name)) {
      const text = `there is a volume "${name}" already: one that an import made is whole`
      throw new StoreError(ErrorCode.AlreadyExists, text)
    }
    const nowMs = this.#cluster.clock.wallMs()
    const since = new Date(nowMs).toISOString()
    const until = new Date(nowMs + IMPORT_KEPT_MS).toISOString()
    const { id } = await this.#volumes.create({
      ...options,
      hidden: { why: 'import', since, until }
    })
    return this.show(id)
  }

  /** @throws StoreError NotFound */
  async show(id: string): Promise<TransferState> {
    const session = this.#sessions.get(id)
    if (session !== undefined && session.volume !== null) return stateOf(session.volume, session)
    const volume = await this.#hidden.find(id, 'import')
    return stateOf(volume, this.#sessionOf(volume))
  }

  /**
   * Writes a piece, which covers the volume from its start up to `untilBytes`.
   * @throws StoreError Corrupt, InvalidArgument (a gap, or another size), Busy, NotFound
   */
  async write(id: string, piece: Buffer, untilBytes: number): Promise<TransferState> {
    const volume = await this.#hidden.find(id, 'import')
    const session = this.#sessionOf(volume)
    await session.alone(async () => {
      const reader = new StreamReader(only(piece))
      const header = await reader.header()
      session.receive({ ...header, untilBytes }, volume.sizeBytes)
      if (header.snapshot !== null && header.snapshot.base !== null) {
        throw new StoreError(ErrorCode.InvalidArgument, 'an increment does not make a volume')
      }
      const file = await this.#fileOf(id, session)
      for (let part = await reader.next(); part.kind === 'data'; part = await reader.next()) {
        await file.writeAt(part.offset, part.blocks)
      }
      session.doneBytes = Math.max(session.doneBytes, untilBytes)
      if (!session.isMarkDue) return
      await session.flush(file)
      await this.#noted(id, session)
    })
    return stateOf(volume, session)
  }

  /** Reads all back, in the background, and gives the volume its name if `digest` is its. */
  async finish(id: string, expected: ExpectedVolume): Promise<TransferState> {
    const volume = await this.#hidden.find(id, 'import')
    const session = this.#sessionOf(volume)
    session.requireWhole(volume.sizeBytes)
    const verify = (): Promise<void> => this.#verify(volume, session, expected)
    void session.alone(verify).catch((thrown) => {
      session.volume = null
      session.failed(thrown)
    })
    return stateOf(volume, session)
  }

  /** @throws StoreError NotFound, Busy */
  async abandon(id: string): Promise<void> {
    const session = this.#sessionOf(await this.#hidden.find(id, 'import'))
    await session.alone(() => session.close(false))
    this.#sessions.delete(id)
    await this.#volumes.trash.delete(id, { why: 'import' })
  }

  async #verify(
    volume: HiddenVolume,
    session: Session,
    { digest, snapshot }: ExpectedVolume
  ): Promise<void> {
    session.volume = volume
    session.state = 'verifying'
    session.verifiedBytes = 0
    const file = await this.#fileOf(volume.id, session)
    await session.flush(file)
    await this.#noted(volume.id, session)
    const found = await digestOf(file, (doneBytes) => {
      session.verifiedBytes = doneBytes
    })
    if (found.digest !== digest) {
      const text = `what was stored of ${volume.name} is not what was sent: import it again`
      session.doneBytes = 0
      await this.#noted(volume.id, session)
      throw new StoreError(ErrorCode.ChecksumMismatch, text)
    }
    await session.close()
    await this.#volumes.reveal(volume.id, volume.name)
    if (snapshot !== undefined) await this.#mark(volume.name, snapshot)
    session.state = 'done'
    setTimeout(() => this.#sessions.delete(volume.id), IDLE_MS).unref()
  }

  /** The snapshot that it is of, for increments to stand on. */
  async #mark(name: string, { id, name: snapshot }: MadeOf): Promise<void> {
    const labels = originLabels(id)
    await this.#volumes.snapshots.create(name, snapshot, { labels }).catch((thrown: unknown) => {
      // Below the feature level of snapshots a volume has none.
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.Busy) throw thrown
    })
  }

  /** All before `doneBytes` is durable. */
  async #noted(id: string, session: Session): Promise<void> {
    const untilMs = this.#cluster.clock.wallMs() + IMPORT_KEPT_MS
    await this.#hidden.mark(id, session.doneBytes, new Date(untilMs).toISOString())
    session.marked()
  }

  /** Of those that were given up elsewhere, or kept too long, nobody says so here. */
  #forgetBut(there: ReadonlySet<string>): void {
    for (const [id, { volume }] of this.#sessions) {
      if (volume === null && !there.has(id)) this.#sessions.delete(id)
    }
  }

  #sessionOf({ id, hidden }: HiddenVolume): Session {
    const known = this.#sessions.get(id)
    if (known !== undefined) return known
    const session = new Session(hidden.doneBytes, this.#markMs)
    this.#sessions.set(id, session)
    return session
  }

  #fileOf(id: string, session: Session): Promise<VolumeFile> {
    return session.file(() => this.#volumes.openHidden(id))
  }
}

/** How far it is, and what kind of volume it makes: who goes on with it wants the same. */
function stateOf(volume: HiddenVolume, session: Session): TransferState {
  const { pool, encryption, access } = infoOf(volume, null)
  const [addresses, tlsNames] = [[...access.addresses], [...access.tlsNames]]
  const makes = { pool, encryption, access: { ...access, addresses, tlsNames } }
  return { ...transferState(volume, session), makes }
}
