/** Where the value of an option came from. */

export interface Source {
  readonly kind: 'flag' | 'environment' | 'file' | 'default'
  /** The flag, variable or file:line; empty for a default. */
  readonly name: string
}

/** 'flag --capacity', 'environment TORUS_CAPACITY', 'file torus.yaml:3', 'default'. */
export const sourceText = (source: Source): string =>
  source.kind === 'default' ? 'default' : `${source.kind} ${source.name}`
