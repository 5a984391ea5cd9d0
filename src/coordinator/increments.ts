/**
 * Increments that are put on volumes: what changed between two snapshots elsewhere. The volume has
 * to be as its own copy of the older one is; it becomes read-only, the changes are written to it,
 * read back and compared, and then a snapshot with the name of the newer one is taken. Whoever
 * reads that snapshot reads what was exported. What is half there is gone on with, or begun anew:
 * a label of the volume tells of it until then.
 */
import { digestOfParts } from '../backup/exporter.ts'
import { originLabels, originOf } from '../backup/origins.ts'
import { type StreamPart, StreamReader, type StreamSnapshot } from '../backup/stream-format.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { baseOf, changesOf } from '../volume/changes.ts'
import type { SnapshotInfo } from '../volume/snapshots.ts'
import type { VolumeFile } from '../volume/volume-file.ts'
import type { Volumes } from '../volume/volumes.ts'
import { only, Transfer, type TransferState, transferState } from './transfers.ts'

/** Id of the snapshot whose increment is half there. */
const APPLYING_LABEL = 'torus.applying'

export interface NewIncrement {
  /** Of the volume, with it. */
  readonly sizeBytes: number
  readonly snapshot: Pick<StreamSnapshot, 'id' | 'name'> & { readonly base: string }
}

class Session extends Transfer {
  readonly increment: NewIncrement
  /** What it changed so far, in order. */
  readonly extents: { offset: number; length: number }[] = []

  constructor(increment: NewIncrement) {
    super()
    this.increment = increment
  }

  note(part: StreamPart): void {
    const length = part.kind === 'data' ? part.blocks.length : part.length
    const last = this.extents.at(-1)
    if (last !== undefined && last.offset + last.length === part.offset) last.length += length
    else this.extents.push({ offset: part.offset, length })
  }

  /** What is from there on comes again. */
  cut(startBytes: number): void {
    const { extents } = this
    while (extents.length > 0 && extents.at(-1)!.offset >= startBytes) extents.pop()
    const last = extents.at(-1)
    if (last !== undefined) last.length = Math.min(last.length, startBytes - last.offset)
  }
}

export class Increments {
  readonly #volumes: Volumes
  /** By name of the volume. */
  readonly #sessions = new Map<string, Session>()

  constructor(volumes: Volumes) {
    this.#volumes = volumes
  }

  /**
   * Begins, or goes on. @throws StoreError NotFound (no base), AlreadyExists (it is there, or
   * another of its name), Conflict (the volume was changed since the base)
   */
  async begin(name: string, increment: NewIncrement): Promise<TransferState> {
    const { snapshot } = increment
    const all = await this.#volumes.snapshots.list(name)
    const base = baseIn(name, all, snapshot)
    const known = this.#sessions.get(name)
    if (known?.increment.snapshot.id === snapshot.id && known.state !== 'done') {
      return this.#stateOf(name, known)
    }
    const { labels, readOnly } = await this.#volumes.show(name)
    const applying = labels[APPLYING_LABEL]
    if (applying === undefined || all.some((each) => originOf(each) === applying)) {
      await this.#volumes.change(name, { readOnly: true })
      try {
        await this.#requireUnchanged(name, base)
      } catch (thrown) {
        await this.#volumes.change(name, { readOnly })
        throw thrown
      }
      await this.#volumes.change(name, { labels: { [APPLYING_LABEL]: snapshot.id } })
    } else if (applying !== snapshot.id) {
      const text = `half of an increment (snapshot ${applying}) is in volume ${name}`
      throw new StoreError(ErrorCode.Conflict, `${text}: import that one again first`)
    }
    await this.#resize(name, increment.sizeBytes)
    const session = new Session(increment)
    this.#sessions.set(name, session)
    return this.#stateOf(name, session)
  }

  /** @throws StoreError NotFound */
  async show(name: string): Promise<TransferState> {
    return this.#stateOf(name, this.#sessionOf(name))
  }

  /** @throws StoreError Corrupt, InvalidArgument, Busy, NotFound */
  async write(name: string, piece: Buffer, untilBytes: number): Promise<TransferState> {
    const session = this.#sessionOf(name)
    await session.alone(async () => {
      const reader = new StreamReader(only(piece))
      const header = await reader.header()
      const { sizeBytes, snapshot } = session.increment
      session.receive({ ...header, untilBytes }, sizeBytes)
      if (header.snapshot?.id !== snapshot.id || header.snapshot.base !== snapshot.base) {
        throw new StoreError(ErrorCode.InvalidArgument, 'the piece is of another increment')
      }
      session.cut(header.startBytes)
      const file = await this.#fileOf(name, session)
      for (let part = await reader.next(); part.kind !== 'end'; part = await reader.next()) {
        if (part.kind === 'data') await file.writeAt(part.offset, part.blocks)
        else await file.trim(part.offset, Math.min(part.length, sizeBytes - part.offset))
        session.note(part)
      }
      session.doneBytes = Math.max(session.doneBytes, untilBytes)
    })
    return this.#stateOf(name, session)
  }

  /** Reads all back, in the background, and takes the snapshot if `digest` is its. */
  async finish(name: string, digest: string): Promise<TransferState> {
    const session = this.#sessionOf(name)
    session.requireWhole(session.increment.sizeBytes)
    void session
      .alone(() => this.#verify(name, session, digest))
      .catch((thrown: unknown) => {
        session.doneBytes = 0
        session.failed(thrown)
      })
    return this.#stateOf(name, session)
  }

  async #verify(name: string, session: Session, digest: string): Promise<void> {
    const { snapshot } = session.increment
    session.state = 'verifying'
    session.verifiedBytes = 0
    const file = await this.#fileOf(name, session)
    await file.flush()
    const found = await digestOfParts(file, session.extents, (doneBytes) => {
      session.verifiedBytes = doneBytes
    })
    if (found.digest !== digest) {
      const text = `what was stored of ${name}@${snapshot.name} is not what was sent`
      throw new StoreError(ErrorCode.ChecksumMismatch, `${text}: import it again`)
    }
    await session.close()
    const labels = originLabels(snapshot.id)
    await this.#volumes.snapshots.create(name, snapshot.name, { labels })
    await this.#volumes.change(name, { labels: { [APPLYING_LABEL]: null } })
    await this.#volumes.tell(name, 'snapshot', { name: snapshot.name })
    session.state = 'done'
  }

  /** @throws StoreError Conflict */
  async #requireUnchanged(name: string, base: SnapshotInfo): Promise<void> {
    const file = await this.#volumes.openFile(name, { readOnly: true, own: true })
    try {
      let isChanged = file.sizeBytes !== base.sizeBytes
      const layer = await baseOf(this.#volumes.snapshots, file, base)
      for await (const _ of changesOf(file, layer)) {
        isChanged = true
        break
      }
      if (!isChanged) return
      const older = `${name}@${base.name}`
      const text = `volume ${name} was changed since ${older}, and an increment needs it as it was`
      throw new StoreError(ErrorCode.Conflict, `${text}: see "torus volume diff ${older}"`)
    } finally {
      await file.close()
    }
  }

  async #resize(name: string, sizeBytes: number): Promise<void> {
    const now = await this.#volumes.show(name)
    if (now.sizeBytes === sizeBytes) return
    // What is cut off was cut off where the increment is from.
    await this.#volumes.change(name, { readOnly: false })
    await this.#volumes.resize(name, sizeBytes, { shrink: true })
    await this.#volumes.change(name, { readOnly: true })
  }

  #sessionOf(name: string): Session {
    const session = this.#sessions.get(name)
    if (session !== undefined) return session
    throw new StoreError(ErrorCode.NotFound, `no increment of volume ${name} is under way here`)
  }

  #fileOf(name: string, session: Session): Promise<VolumeFile> {
    return session.file(() => this.#volumes.openFile(name, { own: true }))
  }

  #stateOf(name: string, session: Session): TransferState {
    const { sizeBytes, snapshot } = session.increment
    return transferState({ id: snapshot.id, name, sizeBytes }, session)
  }
}

/** @throws StoreError NotFound, AlreadyExists */
function baseIn(
  volume: string,
  all: readonly SnapshotInfo[],
  { id, name, base }: NewIncrement['snapshot']
): SnapshotInfo {
  const same = all.find((each) => originOf(each) === id)
  if (same !== undefined) {
    const text = `this increment is in volume ${volume} already, as ${volume}@${same.name}`
    throw new StoreError(ErrorCode.AlreadyExists, text)
  }
  if (all.some((each) => each.name === name)) {
    const text = `volume ${volume} has a snapshot "${name}" that is another: rename it first`
    throw new StoreError(ErrorCode.AlreadyExists, text)
  }
  const found = all.find((each) => originOf(each) === base)
  if (found !== undefined) return found
  const text = `the increment to "${name}" stands on snapshot ${base}, and ${volume} has none such`
  throw new StoreError(ErrorCode.NotFound, `${text}: import the stream that ends with it first`)
}
