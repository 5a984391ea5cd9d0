/**
 * One case in a process of its own: nothing that another case compiled or left in memory counts.
 * Started by run.ts: `node case.js KERNEL VARIANT BYTES MILLISECONDS SEED`, prints a line of JSON.
 */
import { kernels } from './kernels.ts'
import { seededPayload } from './kernel.ts'
import { measure, type Timing } from './measure.ts'

export interface CaseResult {
  readonly timing: Timing
  readonly fingerprint: string
}

const [kernelName = '', variantName = '', bytes = '', milliseconds = '', seed = ''] =
  process.argv.slice(2)
const kernel = kernels.find((each) => each.name === kernelName)
const variant = kernel?.variants.find((each) => each.name === variantName)
if (variant === undefined) throw new Error(`no variant ${variantName} of kernel ${kernelName}`)
const work = await variant.prepare(seededPayload(Number(bytes), Number(seed)))
work.run()
const fingerprint = work.fingerprint()
const result: CaseResult = { timing: measure(work, Number(milliseconds)), fingerprint }
console.log(JSON.stringify(result))
