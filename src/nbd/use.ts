/** Who uses a volume, for the audit log. */
import type { TLSSocket } from 'node:tls'
import { namesOfClient } from '../core/certificate-names.ts'

export interface NbdUse {
  readonly kind: 'open' | 'close'
  readonly volume: string
  readonly address: string
  /** Of the client's certificate; null where it showed none. */
  readonly tlsName: string | null
  readonly readOnly: boolean
}

/** The first name in the client's certificate; null where it showed none. */
export const tlsNameOf = (secure: TLSSocket): string | null => namesOfClient(secure)[0] ?? null
