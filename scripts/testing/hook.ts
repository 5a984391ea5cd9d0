/**
 * Loaded into every test file by the runner (`node --import`): tells it on descriptor 3 which test
 * begins, synchronously, so that a test that never returns is known by its name.
 */
import { writeSync } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
import { TEST_FILE_VARIABLE, TEST_REPORT_DESCRIPTOR } from './protocol.ts'

const tell = (kind: string, text: string): void => {
  writeSync(TEST_REPORT_DESCRIPTOR, `${JSON.stringify([kind, text])}\n`)
}

/**
 * uvu stores the running test's name in a property of its suite's state, '' at the end. A setter
 * that every object inherits hears of it, for the default suite as for any other.
 */
function watchTests(): void {
  let current = ''
  Object.defineProperty(Object.prototype, '__test__', {
    get: () => current,
    set: (name: string) => {
      current = name
      tell('test', name)
    }
  })
}

// A process forked by a test inherits the flag, but its descriptor 3 is something else.
if (isMainThread && process.env[TEST_FILE_VARIABLE] === process.argv[1]) {
  watchTests()
  // The runner asks a file that does not end what keeps it.
  process.on('SIGUSR2', () => {
    tell('resources', process.getActiveResourcesInfo().join(', '))
  })
}
