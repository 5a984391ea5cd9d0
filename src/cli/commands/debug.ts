import { writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import { action, withExamples } from '../context.ts'
import { CommandError } from '../errors.ts'

export function addDebugCommands(program: Command): void {
  const debug = program.command('debug').description('help for bug reports')
  withExamples(debug, 'torus debug bundle')
  const bundle = debug
    .command('bundle')
    .description('logs, configuration, metrics and state in one archive, without secrets')
    .option('-o, --output <file>', 'where to write it, - for standard output')
    .action(
      action<[], { output?: string }>(async ({ api, output }, _, options) => {
        const bytes = await api.debugBundle()
        if (options.output === '-') {
          process.stdout.write(bytes)
          return
        }
        const file = options.output ?? defaultName()
        writeBundle(file, bytes)
        output.result(
          { file, bytes: bytes.length },
          () => `wrote ${file}; it names volumes and addresses of clients, so look before you share`
        )
      })
    )
  withExamples(bundle, 'torus debug bundle', 'torus debug bundle --output report.tar.gz')
}

const defaultName = (): string =>
  `torus-debug-${new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}.tar.gz`

function writeBundle(file: string, bytes: Buffer): void {
  try {
    writeFileSync(file, bytes, { flag: 'wx', mode: 0o600 })
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException
    const why = code === 'EEXIST' ? 'it exists' : code
    throw new CommandError('Unavailable', `${file} cannot be written: ${why}`, { cause })
  }
}
