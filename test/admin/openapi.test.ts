import { deepEqual, equal, ok } from 'node:assert/strict'
import { suite } from 'uvu'
import * as schemas from '../../src/admin/schemas.ts'
import { shardStatNames } from '../../src/shard/stats.ts'
import { type AdminFixture, http, startFixture } from '../helpers/admin.ts'
import { fakeClient } from '../helpers/fake-backend.ts'

type Json = Record<string, unknown>

const test = suite<{ fixture: AdminFixture }>('openapi')
test.before(async (context) => {
  context.fixture = await startFixture()
  context.fixture.backend.clients.push(fakeClient(1, 'demo'))
  context.fixture.backend.addTraffic('demo', 10)
})
test.after((context) => context.fixture.stop())

function* referencesIn(value: unknown): Iterable<string> {
  if (typeof value !== 'object' || value === null) return
  for (const [key, inner] of Object.entries(value)) {
    if (key === '$ref') yield inner as string
    else yield* referencesIn(inner)
  }
}

test('every reference leads to a component, and every operation has its own id', async ({
  fixture
}) => {
  const document = (await http(`${fixture.url}/openapi.json`)).json
  equal(document.openapi, '3.1.0')
  const components = Object.keys(document.components.schemas)
  for (const reference of referencesIn(document)) {
    ok(components.includes(reference.replace('#/components/schemas/', '')), reference)
  }
  const operations = Object.values(document.paths as Record<string, Record<string, Json>>).flatMap(
    (path) => Object.values(path)
  )
  const ids = operations.map(({ operationId }) => operationId)
  equal(new Set(ids).size, ids.length)
  ok(ids.length >= 20)
})

test('path parameters are those in the path', async ({ fixture }) => {
  const { paths } = (await http(`${fixture.url}/openapi.json`)).json
  for (const [path, methods] of Object.entries(paths as Record<string, Record<string, Json>>)) {
    const named = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1])
    for (const { parameters } of Object.values(methods)) {
      const inPath = (parameters as Json[]).filter((parameter) => parameter['in'] === 'path')
      deepEqual(
        inPath.map(({ name }) => name),
        named
      )
    }
  }
})

test('answers hold to the schemas that describe them', async ({ fixture }) => {
  await fixture.backend.createVolume({
    name: 'demo',
    sizeBytes: 4096,
    type: 'block',
    description: 'x'
  })
  const answers = {
    '/v1/status': schemas.statusSchema,
    '/v1/peer': schemas.peerSchema,
    '/v1/shards': schemas.shardListSchema,
    '/v1/config': schemas.configSchema,
    '/v1/volumes': schemas.volumeListSchema,
    '/v1/volumes/demo': schemas.volumeSchema,
    '/v1/clients': schemas.clientListSchema,
    '/v1/tasks/scrub': schemas.taskSchema,
    '/readyz': schemas.readySchema
  }
  for (const [path, schema] of Object.entries(answers)) {
    const result = schema.safeParse((await http(`${fixture.url}${path}`)).json)
    ok(result.success, `${path}: ${result.error}`)
  }
})

test('the API names every number that a shard counts', () => {
  deepEqual(Object.keys(schemas.shardStatsSchema.shape), [...shardStatNames])
})

test.run()
