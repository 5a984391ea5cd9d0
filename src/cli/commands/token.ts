import { type Command, InvalidArgumentError } from 'commander'
import { formatDuration } from '../../core/units.ts'
import type { TokenCreate } from '../../admin/audit-schemas.ts'
import type { Token } from '../api-client.ts'
import { durationArgument } from '../arguments.ts'
import { action, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'

type RoleArgument = Pick<TokenCreate, 'role' | 'volume' | 'readOnly'>

interface CreateOptions {
  readonly role: RoleArgument
  readonly expires?: number
  readonly label?: string
}

export function addTokenCommands(program: Command): void {
  const token = program.command('token').description('who may use the admin API, and for what')
  withExamples(token, 'torus token create --role viewer --label prometheus', 'torus token list')
  addCreate(token)
  addList(token)
  addRevoke(token)
}

/** 'admin', 'operator', 'viewer', 'volume:NAME' or 'volume:NAME:ro'. */
export function roleArgument(text: string): RoleArgument {
  if (text === 'admin' || text === 'operator' || text === 'viewer') {
    return { role: text, volume: null, readOnly: false }
  }
  const [, volume, mode] = /^volume:(.+?)(:ro)?$/s.exec(text) ?? []
  if (volume !== undefined) return { role: 'volume', volume, readOnly: mode !== undefined }
  throw new InvalidArgumentError(
    `"${text}" is none of admin, operator, viewer, volume:NAME and volume:NAME:ro`
  )
}

function addCreate(parent: Command): void {
  const command = parent
    .command('create')
    .description('make a token and print it, this once; from the first one on all need one')
    .requiredOption(
      '--role <role>',
      'admin, operator, viewer, volume:NAME or volume:NAME:ro',
      roleArgument
    )
    .option('--expires <duration>', 'when it ends by itself; never if not given', durationArgument)
    .option('--label <text>', 'what it is for, as lists and the audit log show it')
    .action(
      action<[], CreateOptions>(async ({ api, output }, _, { role, expires, label }) => {
        if (expires !== undefined && expires < 1000) {
          throw new UsageError(`--expires ${expires}ms is too short: a second at least`)
        }
        const made = await api.createToken({
          ...role,
          label: label ?? '',
          expiresInMs: expires ?? null
        })
        output.result(made, () => made.token)
        output.note(`token ${made.id}, ${roleText(made)}, ends ${endText(made)}; shown this once`)
      })
    )
  withExamples(
    command,
    'torus --admin unix:D/admin.sock token create --role admin > ~/.config/torus/token',
    'torus token create --role viewer --label prometheus',
    'torus token create --role volume:demo:ro --expires 30d'
  )
}

function addList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('all tokens, without what they are')
    .action(
      action(async ({ api, output }) => {
        const tokens = await api.tokens()
        const head = ['ID', 'ROLE', 'LABEL', 'MADE', 'ENDS']
        output.result(tokens, () =>
          tokens.length === 0 ? 'no tokens' : output.table(head, tokens.map(rowOf))
        )
      })
    )
  withExamples(command, 'torus token list')
}

const rowOf = (token: Token): string[] => [
  token.id,
  roleText(token),
  token.label || '-',
  token.createdAt.slice(0, 10),
  endText(token)
]

const roleText = ({ role, volume, readOnly }: Token): string =>
  volume === null ? role : `volume:${volume}${readOnly ? ':ro' : ''}`

function endText({ expiresAt }: Token): string {
  if (expiresAt === null) return 'never'
  const leftMs = Date.parse(expiresAt) - Date.now()
  return leftMs > 0 ? `in ${formatDuration(leftMs)}` : 'expired'
}

function addRevoke(parent: Command): void {
  const command = parent
    .command('revoke')
    .description('refuse a token from now on, on every peer')
    .argument('<token-id>', 'as "torus token list" shows it')
    .action(
      action<[string], object>(async ({ api, output }, [id]) => {
        await api.revokeToken(id)
        output.result({ revoked: id }, () => `revoked ${id}`)
      })
    )
  withExamples(command, 'torus token revoke 922053b3272ac7bb')
}
