import { StoreError } from '../core/errors.ts'

/** The command line was wrong, or asked for something that needs a yes: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Commander's message in our words: which argument or option, and what is wrong with it. */
export const commanderText = (text: string): string =>
  text
    .replace(/^error: /, '')
    .replace(/^command-argument value '.*' is invalid for argument '(.*?)'\. /s, '$1: ')
    .replace(/^option '.*?(--[\w-]+).*?' argument '.*' is invalid\. /s, '$1: ')

/** Did not work: exit code 1. `code` is the word that --json prints. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly code: string
  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }
}

/** What the configuration does not take is wrong usage. @throws UsageError */
export function usageErrors<T>(make: () => T): T {
  try {
    return make()
  } catch (error) {
    if (error instanceof StoreError) throw new UsageError(error.message)
    throw error
  }
}
