import { equal, ok } from 'node:assert/strict'
import { connect } from 'node:net'
import fc from 'fast-check'
import { suite } from 'uvu'
import { type AdminFixture, http, startFixture } from '../helpers/admin.ts'

const SEED = Number(process.env['SEED'] ?? 20_260_131)
const RUNS = 150

const test = suite<{ fixture: AdminFixture }>('admin fuzz')
test.before(async (context) => {
  context.fixture = await startFixture()
})
test.after((context) => context.fixture.stop())

const method = fc.constantFrom('GET', 'POST', 'DELETE', 'PUT', 'PATCH', 'HEAD')
const part = fc.oneof(
  fc.constantFrom('v1', 'volumes', 'clients', 'tasks', 'scrub', 'start', 'metrics', 'demo', '..'),
  fc.string({ maxLength: 20 }).map((text) => encodeURIComponent(text))
)
const path = fc.array(part, { maxLength: 5 }).map((parts) => `/${parts.join('/')}`)
const body = fc.oneof(
  fc.jsonValue(),
  fc.record({
    name: fc.oneof(fc.string(), fc.integer()),
    sizeBytes: fc.oneof(fc.double(), fc.integer(), fc.string()),
    force: fc.boolean()
  })
)

test(`no request makes the API fail (SEED=${SEED})`, async ({ fixture }) => {
  await fc.assert(
    fc.asyncProperty(method, path, body, async (method, path, body) => {
      const answer = await http(`${fixture.url}${path}`, { method, body })
      ok(answer.status < 500, `${method} ${path} ${JSON.stringify(body)}: ${answer.text}`)
      if (answer.status >= 400 && method !== 'HEAD') equal(typeof answer.json.error.code, 'string')
    }),
    { seed: SEED, numRuns: RUNS }
  )
})

test(`bytes that are no HTTP end the connection, not the server (SEED=${SEED})`, async ({
  fixture
}) => {
  const port = Number(new URL(fixture.url).port)
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), async (bytes) => {
      await new Promise<void>((resolve) => {
        const socket = connect(port, '127.0.0.1', () => socket.end(bytes))
        socket.on('error', () => {})
        socket.on('data', () => {})
        socket.on('close', () => resolve())
        socket.setTimeout(2000, () => socket.destroy())
      })
    }),
    { seed: SEED, numRuns: 50 }
  )
  equal((await http(`${fixture.url}/healthz`)).status, 200)
})

test.run()
