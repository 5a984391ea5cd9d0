/** The command line was wrong, or asked for something that needs a yes: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Did not work: exit code 1. `code` is the word that --json prints. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly code: string
  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }
}
