import { z } from 'zod'
import * as auditSchemas from './audit-schemas.ts'
import type { Route } from './route.ts'
import * as clusterSchemas from './cluster-schemas.ts'
import * as keySchemas from './key-schemas.ts'
import * as lifeSchemas from './life-schemas.ts'
import * as recoverySchemas from './recovery-schemas.ts'
import * as schemas from './schemas.ts'
import * as branchSchemas from './branch-schemas.ts'
import * as snapshotSchemas from './snapshot-schemas.ts'
import * as spaceSchemas from './space-schemas.ts'
import * as streamSchemas from './stream-schemas.ts'

type Json = Record<string, unknown>

const bytesBody = {
  required: true,
  content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } }
}

/** The OpenAPI 3.1 document of these routes; named schemas become components. */
export function openApiOf(routes: readonly Route[], version: string): Json {
  const paths: Record<string, Json> = {}
  for (const route of routes) {
    const operation = { [route.method.toLowerCase()]: operationOf(route) }
    paths[route.path] = { ...paths[route.path], ...operation }
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Torus admin API',
      version,
      description: 'Everything that the command line does. Failures are {error: {code, message}}.'
    },
    paths,
    components: { schemas: components(), securitySchemes: { token: securityScheme } }
  }
}

const securityScheme = {
  type: 'http',
  scheme: 'bearer',
  description:
    'A token (`torus token create`). Not needed on the unix socket, nor on loopback before the ' +
    'first token was made'
}

/** `x-torus-role`: the least role; `x-torus-volume-tokens`: what tokens of one volume may do. */
function securityOf({ role, volumeUse }: Route): Json {
  if (role === 'anyone') return { security: [] }
  const fields = { 'x-torus-role': role, 'x-torus-volume-tokens': volumeUse }
  return { security: [{ token: [] }], ...fields }
}

function operationOf(route: Route): Json {
  const answerContent =
    route.answer === null
      ? route.status === 204
        ? {}
        : { content: { [route.contentType]: { schema: { type: 'string' } } } }
      : { content: { 'application/json': { schema: schemaOf(route.answer) } } }
  return {
    operationId: route.operationId,
    summary: route.summary,
    ...securityOf(route),
    parameters: [...parametersOf('path', route.params), ...parametersOf('query', route.query)],
    ...(route.takesBytes ? { requestBody: bytesBody } : {}),
    ...(route.body === null
      ? {}
      : {
          requestBody: {
            required: true,
            content: { 'application/json': { schema: schemaOf(route.body) } }
          }
        }),
    responses: {
      [route.status]: { description: route.summary, ...answerContent },
      default: {
        description: 'Failure',
        content: { 'application/json': { schema: schemaOf(schemas.errorSchema) } }
      }
    }
  }
}

function parametersOf(place: 'path' | 'query', schema: z.ZodObject): Json[] {
  return Object.entries(schema.shape).map(([name, field]) => ({
    name,
    in: place,
    required: place === 'path',
    schema: convert(field as z.ZodType)
  }))
}

/** A reference for a named schema, the schema itself for others. */
function schemaOf(schema: z.ZodType): Json {
  const id = schema.meta()?.id
  return id === undefined ? convert(schema) : { $ref: referenceTo(id) }
}

const referenceTo = (id: string): string => `#/components/schemas/${id}`

// `input`: what may be left out of a request is optional, and answers may get new fields later.
const conversion = { target: 'draft-2020-12', io: 'input', unrepresentable: 'any' } as const

function convert(schema: z.ZodType): Json {
  const { $schema: _, ...converted } = z.toJSONSchema(schema, conversion) as Json
  return converted
}

/** Every schema that has a name. */
function components(): Json {
  const named = z.registry<{ id?: string | undefined }>()
  const modules = [
    schemas,
    clusterSchemas,
    recoverySchemas,
    keySchemas,
    auditSchemas,
    lifeSchemas,
    snapshotSchemas,
    streamSchemas,
    branchSchemas,
    spaceSchemas
  ]
  for (const schema of modules.flatMap((module) => Object.values(module) as unknown[])) {
    if (!(schema instanceof z.ZodType)) continue
    const id = schema.meta()?.id
    if (id !== undefined) named.add(schema, { id })
  }
  const converted = z.toJSONSchema(named, { ...conversion, uri: referenceTo })
  const all: Json = {}
  for (const [id, { $schema: _, $id: __, ...schema }] of Object.entries(converted.schemas)) {
    all[id] = schema
  }
  return all
}
