/** Who uses a volume, or was refused, for the audit log. */

interface NbdClientFields {
  readonly address: string
  /** Of the client's certificate, or its shared key's identity; null where it showed none. */
  readonly tlsName: string | null
}

export interface NbdOpenOrClose extends NbdClientFields {
  readonly kind: 'open' | 'close'
  readonly volume: string
  readonly readOnly: boolean
}

export interface NbdRefused extends NbdClientFields {
  readonly kind: 'refuse'
  /** No TLS, or nobody known in it; or an export that it asked for. */
  readonly door: 'tls' | 'export'
  /** As the client named it; null before it names one. */
  readonly volume: string | null
  /** An error's code, by name. */
  readonly outcome: string
  readonly reason: string
  /** Others that were not told before this one. */
  readonly untold: number
}

/** What the handshake knows of it. */
export type RefusalFields = Omit<NbdRefused, 'address' | 'tlsName' | 'untold'>

export type NbdUse = NbdOpenOrClose | NbdRefused
