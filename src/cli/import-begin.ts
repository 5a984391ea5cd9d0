/** The volume that an import makes: begun, or found as an earlier run of the command left it. */
import { formatSize } from '../core/units.ts'
import { type AccessOptions, givenAccess } from './access-options.ts'
import type { Context } from './context.ts'
import { CommandError } from './errors.ts'
import type { Import } from './life-api.ts'
import { type SecretOptions, slotFor } from './secrets.ts'

export type ImportOptions = SecretOptions &
  AccessOptions & {
    readonly format?: string
    readonly size?: number
    readonly pool: string
    readonly description?: string
    readonly restart?: boolean
    readonly encrypt?: boolean
  }

export async function beginOrGoOn(
  { api, output }: Context,
  name: string,
  sizeBytes: number,
  options: ImportOptions
): Promise<Import> {
  const found = (await api.life.imports()).find((each) => each.name === name)
  if (found !== undefined && options.restart !== true) {
    if (found.sizeBytes !== sizeBytes) {
      const text = `another import of ${name} goes on, of ${formatSize(found.sizeBytes)}`
      throw new CommandError('AlreadyExists', `${text}: --restart removes it`)
    }
    requireSame(found, options)
    output.note(`going on with the import of ${name} at ${formatSize(found.doneBytes)}`)
    return found
  }
  if (found !== undefined) await api.life.abandonImport(found.id)
  const { description = '', pool } = options
  const encrypt = await slotFor(name, options)
  const access = givenAccess(options)
  const rules = Object.keys(access).length > 0 ? { access } : {}
  const volume = { name, sizeBytes, type: 'block', description, pool, ...rules }
  return api.life.beginImport(encrypt === null ? volume : { ...volume, encrypt })
}

/** Who asks for a rule, or a seal, must not get a volume without. @throws CommandError */
function requireSame({ name, makes }: Import, options: ImportOptions): void {
  if (makes === null) return
  const { pool, encryption, access } = makes
  const { addresses, tlsNames, readOnly } = access
  const none = { addresses: [], tlsNames: [], readOnly: false }
  const isSame = (one: unknown, other: unknown): boolean =>
    JSON.stringify(one) === JSON.stringify(other)
  const others = [
    ...(pool === options.pool ? [] : [`in pool ${pool}`]),
    ...((encryption !== null) === (options.encrypt === true)
      ? []
      : [encryption === null ? 'not encrypted' : 'encrypted']),
    ...(isSame({ ...none, ...givenAccess(options) }, { addresses, tlsNames, readOnly })
      ? []
      : ['with other rules of access'])
  ]
  if (others.length === 0) return
  const text = `the import of ${name} that goes on makes a volume ${others.join(', ')}`
  throw new CommandError('AlreadyExists', `${text}: give the same options, or --restart`)
}
