/**
 * Volumes that are being imported. Their bytes come in pieces, each a stream of its own with
 * checksums, one after the other; then all is read back and compared with the digest of what was
 * sent, and only then the volume gets its name. What was interrupted goes on while this process
 * lives, and can be begun anew at any time: the same bytes are written again.
 */
import { digestOf } from '../backup/exporter.ts'
import { StreamReader } from '../backup/stream-format.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { type HiddenVolume, HiddenVolumes } from '../cluster/hidden-volumes.ts'
import { errorCodeName, ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { IMPORT_KEPT_MS } from '../core/limits.ts'
import type { VolumeFile } from '../volume/volume-file.ts'
import type { CreateOptions } from '../volume/volume-options.ts'
import type { Volumes } from '../volume/volumes.ts'

/** Nothing came for so long: the volume is let go until more comes. */
const IDLE_MS = 60_000

export interface ImportState {
  readonly id: string
  readonly name: string
  readonly sizeBytes: number
  readonly state: 'receiving' | 'verifying' | 'done' | 'failed'
  /** All before it was received. */
  readonly doneBytes: number
  /** All before it was read back. */
  readonly verifiedBytes: number
  /** Why it failed. */
  readonly error: { readonly code: string; readonly message: string } | null
}

class Session {
  state: ImportState['state'] = 'receiving'
  doneBytes = 0
  verifiedBytes = 0
  error: ImportState['error'] = null
  file: VolumeFile | null = null
  /** While it is verified and gets its name, and then: nothing hidden of this id may be there. */
  volume: HiddenVolume | null = null
  timer: NodeJS.Timeout | undefined
  /** The piece that is being written, or the verification. */
  busy = false
}

export class Imports {
  readonly #volumes: Volumes
  readonly #cluster: Cluster
  readonly #hidden: HiddenVolumes
  readonly #sessions = new Map<string, Session>()

  constructor(volumes: Volumes, cluster: Cluster) {
    this.#volumes = volumes
    this.#cluster = cluster
    this.#hidden = new HiddenVolumes(cluster)
  }

  async list(): Promise<ImportState[]> {
    const all = (await this.#hidden.list()).filter(({ hidden }) => hidden.why === 'import')
    return all.map((volume) => stateOf(volume, this.#sessionOf(volume.id)))
  }

  /**
   * Makes a volume that nobody can open. @throws StoreError AlreadyExists when there is a volume,
   * or an import, of that name
   */
  async begin(options: Omit<CreateOptions, 'hidden'>): Promise<ImportState> {
    const { name } = options
    const isImport = (await this.list()).some((each) => each.name === name)
    if (isImport) {
      const text = `an import of ${name} goes on already: go on with it, or abandon it`
      throw new StoreError(ErrorCode.AlreadyExists, text)
    }
    if ((await this.#volumes.listAll()).some((each) => each.name === name)) {
      throw new StoreError(ErrorCode.AlreadyExists, `there is a volume "${name}" already`)
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
  async show(id: string): Promise<ImportState> {
    const session = this.#sessions.get(id)
    if (session !== undefined && session.volume !== null) return stateOf(session.volume, session)
    return stateOf(await this.#hidden.find(id, 'import'), this.#sessionOf(id))
  }

  /**
   * Writes a piece, which covers the volume from its start up to `untilBytes`.
   * @throws StoreError Corrupt, InvalidArgument (a gap, or another size), Busy, NotFound
   */
  async write(id: string, piece: Buffer, untilBytes: number): Promise<ImportState> {
    const volume = await this.#hidden.find(id, 'import')
    const session = this.#sessionOf(id)
    await this.#alone(session, async () => {
      session.state = 'receiving'
      session.error = null
      const reader = new StreamReader(only(piece))
      const { sizeBytes, startBytes } = await reader.header()
      const isNext = startBytes <= session.doneBytes && untilBytes <= volume.sizeBytes
      if (!isNext || sizeBytes !== volume.sizeBytes) {
        const piece = `a piece from ${startBytes} to ${untilBytes} of ${sizeBytes} bytes`
        const text = `${piece} does not go on at ${session.doneBytes} of ${volume.sizeBytes}`
        throw new StoreError(ErrorCode.InvalidArgument, text)
      }
      const file = await this.#fileOf(id, session)
      for (let part = await reader.next(); part.kind === 'data'; part = await reader.next()) {
        await file.writeAt(part.offset, part.blocks)
      }
      session.doneBytes = Math.max(session.doneBytes, untilBytes)
    })
    return stateOf(volume, session)
  }

  /** Reads all back, in the background, and gives the volume its name if `digest` is its. */
  async finish(id: string, digest: string): Promise<ImportState> {
    const volume = await this.#hidden.find(id, 'import')
    const session = this.#sessionOf(id)
    if (session.doneBytes < volume.sizeBytes) {
      const text = `${session.doneBytes} of ${volume.sizeBytes} bytes are here: more has to come`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    void this.#alone(session, () => this.#verify(volume, session, digest)).catch((thrown) => {
      const { code, message } = storeErrorOf(thrown)
      session.volume = null
      session.state = 'failed'
      session.error = { code: errorCodeName(code), message }
    })
    return stateOf(volume, session)
  }

  /** @throws StoreError NotFound, Busy */
  async abandon(id: string): Promise<void> {
    await this.#hidden.find(id, 'import')
    const session = this.#sessionOf(id)
    await this.#alone(session, () => this.#close(session))
    this.#sessions.delete(id)
    await this.#volumes.trash.delete(id, 'import')
  }

  async #verify(volume: HiddenVolume, session: Session, digest: string): Promise<void> {
    session.volume = volume
    session.state = 'verifying'
    session.verifiedBytes = 0
    const file = await this.#fileOf(volume.id, session)
    await file.flush()
    const found = await digestOf(file, (doneBytes) => {
      session.verifiedBytes = doneBytes
    })
    if (found.digest !== digest) {
      const text = `what was stored of ${volume.name} is not what was sent: import it again`
      session.doneBytes = 0
      throw new StoreError(ErrorCode.ChecksumMismatch, text)
    }
    await this.#close(session)
    await this.#volumes.reveal(volume.id, volume.name)
    session.state = 'done'
    setTimeout(() => this.#sessions.delete(volume.id), IDLE_MS).unref()
  }

  /** One thing at a time. @throws StoreError Busy */
  async #alone(session: Session, work: () => Promise<void>): Promise<void> {
    if (session.busy) {
      throw new StoreError(ErrorCode.Busy, 'the import is busy with what came before')
    }
    session.busy = true
    clearTimeout(session.timer)
    try {
      await work()
    } finally {
      session.busy = false
      session.timer = setTimeout(() => {
        this.#alone(session, () => this.#close(session)).catch(storeErrorOf)
      }, IDLE_MS).unref()
      if (session.file === null) clearTimeout(session.timer)
    }
  }

  #sessionOf(id: string): Session {
    const known = this.#sessions.get(id)
    if (known !== undefined) return known
    const session = new Session()
    this.#sessions.set(id, session)
    return session
  }

  async #fileOf(id: string, session: Session): Promise<VolumeFile> {
    session.file ??= await this.#volumes.openHidden(id)
    return session.file
  }

  async #close(session: Session): Promise<void> {
    const { file } = session
    session.file = null
    if (file === null) return
    await file.flush()
    await file.close()
  }
}

async function* only(bytes: Buffer): AsyncIterable<Buffer> {
  yield bytes
}

const stateOf = (
  { id, name, sizeBytes }: { id: string; name: string; sizeBytes: number },
  { state, doneBytes, verifiedBytes, error }: Session
): ImportState => ({ id, name, sizeBytes, state, doneBytes, verifiedBytes, error })
