/** Who uses a volume, for the audit log. */
import type { TLSSocket } from 'node:tls'

export interface NbdUse {
  readonly kind: 'open' | 'close'
  readonly volume: string
  readonly address: string
  /** Of the client's certificate; null where it showed none. */
  readonly tlsName: string | null
  readonly readOnly: boolean
}

/** Common name of the client's certificate; null where it showed none. */
export function tlsNameOf(secure: TLSSocket): string | null {
  const name: unknown = secure.getPeerCertificate()?.subject?.CN
  return typeof name === 'string' ? name : null
}
