import { readFileSync } from 'node:fs'
import { parseArgs as parse } from 'node:util'

/**
 * As node's; what it does not know ends the process with one line and exit code 2, wrong usage.
 * --help (-h) prints what the script says of itself at its beginning.
 */
export const parseArgs = ((config) => {
  const [, script = '', ...args] = process.argv
  if (args.some((arg) => arg === '--help' || arg === '-h')) {
    console.log(usageIn(readFileSync(script, 'utf8')))
    process.exit(0)
  }
  try {
    return parse(config)
  } catch (thrown) {
    const isUsage = thrown instanceof TypeError && 'code' in thrown
    if (!isUsage || !String(thrown.code).startsWith('ERR_PARSE_ARGS')) throw thrown
    console.error(`${thrown.message.replace(/\.$/, '')}; --help tells what there is`)
    process.exit(2)
  }
}) as typeof parse

/** The comment that a source begins with. */
export function usageIn(source: string): string {
  const [, comment = ''] = /^\/\*\*\n(.*?)\n \*\//s.exec(source) ?? []
  return comment.replaceAll(/^ \* ?/gm, '')
}
