import { deepEqual, equal, match, rejects, throws } from 'node:assert/strict'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import { ApiClient } from '../../src/cli/api-client.ts'
import { roleArgument } from '../../src/cli/commands/token.ts'
import { givenToken } from '../../src/cli/token.ts'
import { type AdminFixture, startFixture } from '../helpers/admin.ts'
import { cliFor } from '../helpers/cli.ts'

const TOKEN = {
  role: 'viewer',
  volume: null,
  readOnly: false,
  label: '',
  expiresInMs: null
} as const

const test = suite<{ fixture: AdminFixture }>('tokens on the command line')
test.before.each(async (context) => {
  context.fixture = await startFixture()
})
test.after.each(({ fixture }) => fixture.stop())

test('a token is printed alone, opens what it is for, and the audit log tells it', async ({
  fixture
}) => {
  const { folder, socket, url } = fixture
  const volume = { name: 'demo', sizeBytes: 4096, type: 'block', description: '' }
  await fixture.backend.createVolume(volume)
  const home = { HOME: folder, XDG_CONFIG_HOME: '' }
  const owner = cliFor(`unix:${socket}`)
  const made = await owner(['token', 'create', '--role', 'viewer', '--label', 'x'], home)
  equal(made.code, 0, made.stderr)
  match(made.stdout, /^torus_[0-9a-f]{16}_[\w-]{43}\n$/)
  const env = { ...home, TORUS_TOKEN: made.stdout.trim() }
  equal((await cliFor(url)(['top', '--count', '1'], env)).code, 0)
  const denied = await cliFor(url)(['volume', 'delete', 'demo', '--yes'], env)
  equal(denied.code, 1)
  match(denied.stderr, /needs a token of another role/)
  const told = await owner(['audit', 'tail', '--volume', 'demo'], home)
  match(told.stdout, /^\S+ +token [0-9a-f]{16} \(x\) .* deleteVolume +demo +Forbidden\n$/)
})

test('who has no token is told how to give one', async ({ fixture }) => {
  await fixture.tokens.create(TOKEN)
  const refused = new ApiClient(fixture.url).status()
  await rejects(refused, /a valid token is needed here.*--token-file, TORUS_TOKEN/)
})

test('the usual token is not shown at a socket, where its owner is more', async ({ fixture }) => {
  const { text } = await fixture.tokens.create(TOKEN)
  const ask = (isAsked: boolean) =>
    new ApiClient(`unix:${fixture.socket}`, () => ({ text, isAsked })).tokens()
  equal((await ask(false)).length, 1)
  await rejects(ask(true), /needs a token of another role/)
})

test('a token comes from a flag, a variable or its usual place, and only from a private file', ({
  fixture
}) => {
  const { env } = process
  const before = { ...env }
  const { folder } = fixture
  const file = (name: string, mode = 0o600): string => {
    const path = join(folder, name)
    writeFileSync(path, `${name}\n`)
    chmodSync(path, mode)
    return path
  }
  try {
    for (const name of ['TORUS_TOKEN', 'TORUS_TOKEN_FILE']) delete env[name]
    env['XDG_CONFIG_HOME'] = folder
    equal(givenToken({}), null)
    mkdirSync(join(folder, 'torus'))
    file('torus/token')
    deepEqual(givenToken({}), { text: 'torus/token', isAsked: false })
    env['TORUS_TOKEN_FILE'] = file('b')
    equal(givenToken({})?.text, 'b')
    env['TORUS_TOKEN'] = 'c'
    equal(givenToken({})?.text, 'c')
    deepEqual(givenToken({ tokenFile: file('d') }), { text: 'd', isAsked: true })
    throws(() => givenToken({ tokenFile: file('d', 0o640) }), /mode 0640\): chmod 600/)
    throws(() => givenToken({ tokenFile: join(folder, 'none') }), /cannot be read: .*\(ENOENT\)/)
    throws(() => givenToken({ tokenFile: file('not one') }), /holds no token/)
  } finally {
    process.env = before
  }
})

test('a token does not leave the machine in the clear', async () => {
  const token = () => ({ text: 'torus_x', isAsked: true })
  await rejects(new ApiClient('http://192.0.2.1:4321', token).status(), /not sent .* without TLS/)
})

test('a role that is none is told, with those that are', () => {
  for (const text of ['root', 'volume', 'volume:', '']) {
    throws(() => roleArgument(text), /none of admin, operator, viewer, volume:NAME and/, text)
  }
  deepEqual(roleArgument('volume:a:b:ro'), { role: 'volume', volume: 'a:b', readOnly: true })
})

test.run()
