/** Answers `torus __complete`: what may stand where the cursor is. */
import type { Argument, Command, Option } from 'commander'
import { ApiClient, adminTlsOptions, DEFAULT_ADMIN } from './api-client.ts'
import { givenToken } from './token.ts'

interface Candidate {
  readonly word: string
  readonly description: string
}

/** A list of candidates, or what the shell knows better. */
type Candidates = readonly Candidate[] | ':files' | ':directories'

/** Somebody waits at a prompt. */
const NAMES_TIMEOUT_MS = 1000

/** `words` are those after `torus`, the last one unfinished. Returns lines for the shell. */
export async function complete(program: Command, words: readonly string[]): Promise<string[]> {
  const current = words.at(-1) ?? ''
  const found = await candidates(program, words.slice(0, -1), current)
  if (typeof found === 'string') return [found]
  return found
    .filter(({ word }) => word.startsWith(current))
    .map(({ word, description }) => (description === '' ? word : `${word}\t${description}`))
}

interface Place {
  readonly command: Command
  /** Positional arguments before the cursor. */
  readonly positionals: number
  /** The option whose value is being typed. */
  readonly option: Option | null
  readonly admin: string
}

async function candidates(
  program: Command,
  before: readonly string[],
  current: string
): Promise<Candidates> {
  const place = placeOf(program, before)
  const { command, option } = place
  if (option !== null) return valuesOf(option)
  if (current.startsWith('-')) return optionsOf(program, command)
  const commands = command.commands.filter((each) => !isHidden(each))
  if (commands.length > 0) {
    return commands.map((each) => ({ word: each.name(), description: each.description() }))
  }
  const argument = command.registeredArguments[place.positionals]
  return argument === undefined ? [] : argumentsOf(argument, place.admin)
}

const isHidden = (command: Command): boolean => command.name().startsWith('__')

/** Walks the finished words down the tree of commands, as the parser would. */
function placeOf(program: Command, before: readonly string[]): Place {
  let command = program
  let positionals = 0
  let option: Option | null = null
  let admin = process.env['TORUS_ADMIN'] || DEFAULT_ADMIN
  for (const word of before) {
    if (option !== null) {
      if (option.long === '--admin') admin = word
      option = null
      continue
    }
    if (word.startsWith('-')) {
      const [name = '', value] = word.split(/=(.*)/s)
      const known = [...command.options, ...program.options].find(
        ({ long, short }) => long === name || short === name
      )
      if (value !== undefined && name === '--admin') admin = value
      if (known?.required === true && value === undefined) option = known
      continue
    }
    const next = command.commands.find((each) => each.name() === word || each.alias() === word)
    if (next === undefined) positionals++
    else command = next
  }
  return { command, positionals, option, admin }
}

const optionsOf = (program: Command, command: Command): Candidate[] =>
  [...command.options, ...(command === program ? [] : program.options)]
    .filter((option) => !option.hidden && option.long !== undefined)
    .map((option) => ({ word: option.long!, description: option.description }))
    .concat({ word: '--help', description: 'how to use it' })

function valuesOf(option: Option): Candidates {
  if (option.argChoices !== undefined) return plain(option.argChoices)
  const name = /<(.*)>/.exec(option.flags)?.[1] ?? ''
  if (/dir$/i.test(name)) return ':directories'
  if (/file|path|module/i.test(name)) return ':files'
  return name.includes('|') ? plain(name.split('|')) : []
}

const plain = (words: readonly string[]): Candidate[] =>
  words.map((word) => ({ word, description: '' }))

async function argumentsOf(argument: Argument, admin: string): Promise<Candidates> {
  if (argument.argChoices !== undefined) return plain(argument.argChoices)
  switch (argument.name()) {
    case 'dir':
      return ':directories'
    case 'device':
      return ':files'
    case 'volume':
    case 'device-or-volume':
      return soon(async () => {
        const volumes = await peerAt(admin).volumes()
        return plain(volumes.map(({ name }) => name))
      })
    case 'id':
      return soon(async () => {
        const clients = await peerAt(admin).clients()
        return clients.map(({ id, volume, address }) => ({
          word: String(id),
          description: `${volume} ${address}`
        }))
      })
    default:
      return []
  }
}

/** No peer, or a slow one: nothing is completed, and nothing is said at the prompt. */
async function soon(ask: () => Promise<Candidate[]>): Promise<Candidate[]> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<Candidate[]>((resolve) => {
    timer = setTimeout(() => resolve([]), NAMES_TIMEOUT_MS)
  })
  try {
    return await Promise.race([ask(), late])
  } catch {
    return []
  } finally {
    clearTimeout(timer)
  }
}

const peerAt = (admin: string): ApiClient =>
  new ApiClient(admin, () => givenToken({}), adminTlsOptions({}))
