/** What the runner and the hook in a test's process agree on. */

/** Names the file under test, so that the hook knows whether it is in that very process. */
export const TEST_FILE_VARIABLE = 'TEST_RUNNER_FILE'
/** The hook writes one JSON array [kind, text] a line here. */
export const TEST_REPORT_DESCRIPTOR = 3

/** Names a file: processes of a test append to it what they do beyond this machine. */
export const OUTSIDE_FILE_VARIABLE = 'TEST_RUNNER_OUTSIDE'

/** A line on standard output: a test that cannot run on this machine, and why. */
export const NOT_RUN_PREFIX = 'not run: '
