import { InvalidArgumentError } from 'commander'
import { StoreError } from '../core/errors.ts'
import { parseDuration, parseSize } from '../core/units.ts'

/** Readers of arguments for commander, which names the argument that was wrong. */
export const reader =
  <T>(parse: (text: string) => T) =>
  (text: string): T => {
    try {
      return parse(text)
    } catch (error) {
      if (error instanceof StoreError) throw new InvalidArgumentError(error.message)
      throw error
    }
  }

export const sizeArgument = reader(parseSize)

export const durationArgument = reader(parseDuration)

/** What a request does that cannot be done now: 'wait', or 'error:60s'. */
export const unavailableArgument = (text: string): { readonly unavailableMs: number | null } => {
  if (text === 'wait') return { unavailableMs: null }
  const after = /^error:(.+)$/.exec(text)?.[1]
  if (after !== undefined) return { unavailableMs: durationArgument(after) }
  throw new InvalidArgumentError(`"${text}" is neither "wait" nor like "error:60s"`)
}

/** 'a,b'; one word that stands for none at all. */
export const listArgument =
  (none: string) =>
  (text: string): string[] =>
    text === none ? [] : text.split(',').filter(Boolean)

export const onOffArgument = (text: string): boolean => {
  if (text === 'on' || text === 'off') return text === 'on'
  throw new InvalidArgumentError(`"${text}" is neither "on" nor "off"`)
}

/** 'KEY=VALUE', gathered; without a value it is null. */
export const labelArgument = (
  text: string,
  before: Readonly<Record<string, string | null>> = {}
): Record<string, string | null> => {
  const [, key, value = ''] = /^([^=]+)=(.*)$/s.exec(text) ?? []
  if (key === undefined) throw new InvalidArgumentError(`"${text}" is not KEY=VALUE`)
  return { ...before, [key]: value === '' ? null : value }
}

export const countArgument = (text: string): number => {
  const value = Number(text)
  if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value
  throw new InvalidArgumentError(`"${text}" is not a whole number`)
}

/** What `parse` reads, or 'off', which is 0: commander makes '' of null. */
export const orOff =
  (parse: (text: string) => number) =>
  (text: string): number => {
    if (text === 'off') return 0
    const value = parse(text)
    if (value > 0) return value
    throw new InvalidArgumentError(`${text} would stop it: say "off" for no limit`)
  }

/** A whole number within limits, which the message names. */
export const countBetween =
  (min: number, max: number) =>
  (text: string): number => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= min && value <= max) return value
    const limits = max === Number.MAX_SAFE_INTEGER ? `from ${min}` : `from ${min} to ${max}`
    throw new InvalidArgumentError(`"${text}" is not a whole number ${limits}`)
  }
