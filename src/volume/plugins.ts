import { createRequire } from 'node:module'
import { isAbsolute, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { z } from 'zod'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { describeIssues, type VolumeType, type VolumeTypes } from './volume-types.ts'

/** What a plugin module exports, by the name `torusPlugin` or as its default. */
export interface TorusPlugin {
  /** The version of this interface that the plugin was written for. */
  readonly apiVersion: 1
  /** For messages. */
  readonly name: string
  readonly volumeTypes: readonly VolumeType[]
}

const API_VERSION = 1

const pluginSchema = z.object({
  apiVersion: z.literal(API_VERSION, `must be ${API_VERSION}, the interface of this program`),
  name: z.string().min(1).max(128),
  volumeTypes: z.array(z.looseObject({})).max(64)
})

/**
 * Loads the module `specifier` and registers its volume types. A specifier that starts with `.` or
 * `/` is a path, relative to `directory`; any other is a package as a program in `directory`
 * would find it. The module runs with all rights of this process.
 * @throws StoreError Unavailable when it cannot be loaded, InvalidArgument when it is no plugin,
 * AlreadyExists when one of its types is there already
 */
export async function loadPlugin(
  specifier: string,
  types: VolumeTypes,
  directory: string = process.cwd()
): Promise<TorusPlugin> {
  const exported = await importModule(specifier, directory)
  const value = exported['torusPlugin'] ?? exported['default']
  if (value === undefined) {
    const text = `plugin ${specifier}: exports neither torusPlugin nor a default`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  const result = pluginSchema.safeParse(value)
  if (!result.success) {
    const text = `plugin ${specifier}: ${describeIssues(result.error)}`
    throw new StoreError(ErrorCode.InvalidArgument, text, { cause: result.error })
  }
  const plugin = value as TorusPlugin
  for (const [index, type] of plugin.volumeTypes.entries()) {
    try {
      types.register(type)
    } catch (cause) {
      if (!(cause instanceof StoreError)) throw cause
      const text = `plugin ${specifier}: volumeTypes[${index}]: ${cause.message}`
      throw new StoreError(cause.code, text, { cause })
    }
  }
  return plugin
}

async function importModule(
  specifier: string,
  directory: string
): Promise<Record<string, unknown>> {
  try {
    const isPath = specifier.startsWith('.') || isAbsolute(specifier)
    const path = isPath
      ? resolve(directory, specifier)
      : createRequire(join(resolve(directory), 'plugin.js')).resolve(specifier)
    return (await import(pathToFileURL(path).href)) as Record<string, unknown>
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    const text = `plugin ${specifier} cannot be loaded: ${reason}`
    throw new StoreError(ErrorCode.Unavailable, text, { cause })
  }
}
