import { parseArgs as parse } from 'node:util'

/** As node's; what it does not know ends the process with one line and exit code 2, wrong usage. */
export const parseArgs = ((config) => {
  try {
    return parse(config)
  } catch (thrown) {
    const isUsage = thrown instanceof TypeError && 'code' in thrown
    if (!isUsage || !String(thrown.code).startsWith('ERR_PARSE_ARGS')) throw thrown
    console.error(thrown.message)
    process.exit(2)
  }
}) as typeof parse
