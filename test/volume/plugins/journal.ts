/**
 * A volume type from outside: a journal of entries of any length, as a program of another author
 * would write it. It uses nothing of the sources but types.
 */
import type { BlockDevice } from '../../../src/volume/block-device.ts'
import type { TorusPlugin } from '../../../src/volume/plugins.ts'
import type { VolumeFile } from '../../../src/volume/volume-file.ts'

const MAGIC = Buffer.from('JOURNAL1')

export class Journal {
  readonly #file: VolumeFile

  constructor(file: VolumeFile) {
    this.#file = file
  }

  async add(entry: string): Promise<void> {
    const body = Buffer.from(entry)
    const head = Buffer.alloc(4)
    head.writeUInt32BE(body.length)
    await this.#file.append(Buffer.concat([head, body]), { durable: true })
  }

  async entries(): Promise<string[]> {
    const found: string[] = []
    for (let at = MAGIC.length; at < this.#file.sizeBytes; ) {
      const bytes = (await this.#file.readAt(at, 4)).readUInt32BE()
      found.push((await this.#file.readAt(at + 4, bytes)).toString())
      at += 4 + bytes
    }
    return found
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}

export const torusPlugin: TorusPlugin = {
  apiVersion: 1,
  name: 'journal, for tests',
  volumeTypes: [
    {
      name: 'journal',
      description: 'entries that are only ever added',
      sizeUnitBytes: 1,
      prepare: ({ settings, sizeBytes }) => {
        if (sizeBytes !== 0) throw new Error('a journal starts empty')
        return { owner: 'nobody', ...settings }
      },
      format: async (file) => {
        await file.append(MAGIC)
      },
      open: async (file) => {
        const magic = await file.readAt(0, MAGIC.length)
        if (!magic.equals(MAGIC)) throw new Error(`${file.name} is no journal`)
        return new Journal(file)
      }
    },
    {
      name: 'mirror-image',
      description: 'a disk whose clients are served by something around the plain device',
      attach: (device): BlockDevice => ({
        name: device.name,
        sizeBytes: device.sizeBytes / 2,
        readOnly: device.readOnly,
        submit: (request) => device.submit(request),
        close: () => device.close()
      })
    }
  ]
}
