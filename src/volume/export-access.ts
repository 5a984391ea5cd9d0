/** Who may open a volume over a protocol for clients, beside what the server asks of everybody. */
import { isIP } from 'node:net'
import type { VolumeRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'

export interface ExportAccess {
  /** Addresses and networks (`10.0.0.0/8`), and `unix` for unix sockets; none: from anywhere. */
  readonly addresses: readonly string[]
  /** Names of verified certificates, one of which is needed; none: no certificate is. */
  readonly tlsNames: readonly string[]
  readonly readOnly: boolean
  /** The newest of its snapshots are named to who asks which exports there are. */
  readonly listSnapshots: boolean
}

export const OPEN_ACCESS: ExportAccess = {
  addresses: [],
  tlsNames: [],
  readOnly: false,
  listSnapshots: false
}

/** Of a volume as its record has it. */
export const accessOf = ({ access }: Pick<VolumeRecord, 'access'>): ExportAccess => ({
  ...OPEN_ACCESS,
  ...access,
  listSnapshots: access?.listSnapshots ?? false
})

/** Clients of unix sockets, among addresses. */
export const UNIX_ADDRESS = 'unix'
const RULES_MAX = 256
const NAME_CHARS_MAX = 253

/** @throws StoreError InvalidArgument */
export function checkAccess({
  addresses,
  tlsNames
}: Pick<ExportAccess, 'addresses' | 'tlsNames'>): void {
  for (const list of [addresses, tlsNames]) {
    if (list.length > RULES_MAX)
      throw invalid(`${list.length} names or addresses: more than ${RULES_MAX}`)
  }
  for (const text of addresses) {
    const [address = '', prefix, ...rest] = text.split('/')
    const bits = isIP(address) === 6 ? 128 : 32
    const fits = prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= bits)
    if (text !== UNIX_ADDRESS && (isIP(address) === 0 || !fits || rest.length > 0)) {
      throw invalid(`"${text}" is no address, no network like 10.0.0.0/8 and not "unix"`)
    }
  }
  const bad = tlsNames.find((name) => name === '' || name.length > NAME_CHARS_MAX)
  if (bad !== undefined) throw invalid(`a name has 1 to ${NAME_CHARS_MAX} characters`)
}

const invalid = (message: string): StoreError => new StoreError(ErrorCode.InvalidArgument, message)
