/** Rules of access for the volume `demo` of a `serving`, and what a client is shown under them. */
import { type ExportAccess, OPEN_ACCESS } from '../../src/volume/export-access.ts'
import * as p from '../../src/nbd/protocol.ts'
import type { Serving } from './nbd-serving.ts'
import type { NbdWireClient } from './nbd-wire-client.ts'

export const rules = (more: Partial<ExportAccess>): ExportAccess => ({ ...OPEN_ACCESS, ...more })

/** Tests may change `access` of what they get. */
export function withRules(all: Serving, access: ExportAccess): { access: ExportAccess } {
  const holder = { access }
  const { source } = all
  const list = source.list.bind(source)
  Object.assign(source, {
    list: async () =>
      (await list()).map((each) =>
        each.name === 'demo' ? { ...each, access: holder.access } : each
      )
  })
  return holder
}

export const listedNames = async (client: NbdWireClient): Promise<string[]> => {
  const replies = await client.option(p.NBD_OPT_LIST)
  return replies
    .filter(({ type }) => type === p.NBD_REP_SERVER)
    .map(({ data }) => data.subarray(4, 4 + data.readUInt32BE(0)).toString())
}
