/** What only a bug can do. It ends the process: going on may damage data. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError'
}

/** Ends the process (by throwing) unless `condition` holds. `message` states the positive fact. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message)
}

/** The end of a `switch` over a union: fails to compile when a kind is missing. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable value ${JSON.stringify(value)}`)
}
