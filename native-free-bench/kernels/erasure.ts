/** Reed-Solomon over a stripe: parity made for a write, lost data computed again for a read. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { Kernel, Prepared } from '../kernel.ts'

const DATA = 4
const PARITY = 2
const MEMBERS = DATA + PARITY
const LOST = 1

/** The raw functions of the WebAssembly module, all pointers into its memory. */
interface Codec {
  readonly memory: { readonly buffer: ArrayBuffer }
  __wbindgen_malloc(bytes: number): number
  __wbindgen_free(pointer: number, bytes: number): void
  encode(stripe: number, bytes: number, data: number, parity: number): number
  reconstruct(...args: readonly [number, number, number, number, number, number]): number
}

interface WithWebAssembly {
  readonly WebAssembly: {
    readonly Module: new (bytes: Uint8Array) => object
    readonly Instance: new (module: object) => { readonly exports: Codec }
  }
}

function loadCodec(): Codec {
  const main = createRequire(import.meta.url).resolve('reed-solomon-erasure.wasm')
  const bytes = readFileSync(join(dirname(main), 'reed_solomon_erasure_bg.wasm'))
  const { WebAssembly } = globalThis as unknown as WithWebAssembly
  return new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports
}

/** The stripe lives in the codec's memory: payload as data fragments, then room for parity. */
interface Stripe {
  readonly codec: Codec
  readonly at: number
  readonly length: number
  readonly payload: Buffer
  bytes(start: number, end: number): Buffer
}

function makeStripe(payload: Buffer): Stripe {
  const codec = loadCodec()
  const length = (payload.length / DATA) * MEMBERS
  const at = codec.__wbindgen_malloc(length)
  // The memory moves when it grows, so a view of it is made anew each time.
  const bytes = (start: number, end: number) =>
    Buffer.from(codec.memory.buffer, at + start, end - start)
  return { codec, at, length, payload, bytes }
}

function encodeStripe({ codec, at, length, payload, bytes }: Stripe): void {
  payload.copy(bytes(0, payload.length))
  const error = codec.encode(at, length, DATA, PARITY)
  if (error !== 0) throw new Error(`encode failed with ${error}`)
}

function preparedEncode(payload: Buffer, parity: Buffer): Prepared {
  const stripe = makeStripe(payload)
  return {
    run: () => {
      encodeStripe(stripe)
      stripe.bytes(payload.length, stripe.length).copy(parity)
    },
    fingerprint: () => parity.subarray(0, 32).toString('hex')
  }
}

function preparedReconstruct(payload: Buffer): Prepared {
  const stripe = makeStripe(payload)
  const fragmentBytes = payload.length / DATA
  const restored = Buffer.alloc(fragmentBytes)
  const { codec, at, length, bytes } = stripe
  encodeStripe(stripe)
  return {
    run: () => {
      bytes(LOST * fragmentBytes, (LOST + 1) * fragmentBytes).fill(0)
      // The codec frees this array itself; the package's own wrapper frees it a second time.
      const present = codec.__wbindgen_malloc(MEMBERS)
      Buffer.from(codec.memory.buffer, present, MEMBERS).fill(1)[LOST] = 0
      const error = codec.reconstruct(at, length, DATA, PARITY, present, MEMBERS)
      if (error !== 0) throw new Error(`reconstruct failed with ${error}`)
      bytes(LOST * fragmentBytes, (LOST + 1) * fragmentBytes).copy(restored)
    },
    fingerprint: () => {
      const lost = payload.subarray(LOST * fragmentBytes, (LOST + 1) * fragmentBytes)
      return String(restored.equals(lost))
    }
  }
}

export const encode: Kernel = {
  name: 'encode',
  what: `erasure coding ${DATA}+${PARITY}, payload copied in, parity copied out`,
  variants: [
    {
      name: 'reed-solomon-erasure.wasm',
      native: false,
      prepare: async (payload) =>
        preparedEncode(payload, Buffer.alloc((payload.length / DATA) * PARITY))
    }
  ]
}

export const reconstruct: Kernel = {
  name: 'reconstruct',
  what: `one lost data fragment of ${DATA}+${PARITY}`,
  variants: [
    {
      name: 'reed-solomon-erasure.wasm',
      native: false,
      prepare: async (payload) => preparedReconstruct(payload)
    }
  ]
}
