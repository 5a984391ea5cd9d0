/** Which snapshot is which, wherever streams took it: the id of the one that was exported first. */
interface Snapshot {
  readonly id: string
  readonly labels: Readonly<Record<string, string>>
}

/** On snapshots that an import made. */
const ORIGIN_LABEL = 'torus.origin'

export const originOf = ({ id, labels }: Snapshot): string => labels[ORIGIN_LABEL] ?? id

/** Where a snapshot that came by a stream says whence. */
export const originLabels = (id: string): Record<string, string> => ({ [ORIGIN_LABEL]: id })
