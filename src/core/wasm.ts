/** The little that is used of WebAssembly, whose types come with the browser's. */

export interface WasmMemory {
  readonly buffer: SharedArrayBuffer | ArrayBuffer
}

export interface SharedWasmMemory {
  readonly buffer: SharedArrayBuffer
}

/** Copies `length` bytes within a memory; the two ranges may overlap. */
export type Mover = (to: number, from: number, length: number) => void

interface WithWebAssembly {
  readonly WebAssembly: {
    readonly Memory: new (limits: {
      initial: number
      maximum: number
      shared: boolean
    }) => WasmMemory
    readonly Module: new (bytes: Uint8Array) => object
    readonly Instance: new (
      module: object,
      imports: { memory: { shared: WasmMemory } }
    ) => { readonly exports: unknown }
  }
}

export const WASM_PAGE_BYTES = 64 * 1024
const { WebAssembly } = globalThis as unknown as WithWebAssembly

export const sharedMemory = (bytes: number): SharedWasmMemory =>
  memoryOf(bytes, true) as SharedWasmMemory

/** Memory of one thread. */
export const privateMemory = (bytes: number): WasmMemory => memoryOf(bytes, false)

function memoryOf(bytes: number, shared: boolean): WasmMemory {
  const pages = Math.ceil(bytes / WASM_PAGE_BYTES)
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared })
}

/** `memory.copy` of one memory. */
export function moverOf(memory: WasmMemory): Mover {
  const { call } = instanceOf(memory, moverCode()) as { readonly call: Mover }
  return call
}

/** A module with one function, `call`, over `memory`: it has `code`, and takes three i32. */
export function instanceOf(memory: WasmMemory, code: Code, parameters = 3): unknown {
  const isShared = memory.buffer instanceof SharedArrayBuffer
  const module = new WebAssembly.Module(moduleOf(code, parameters, isShared))
  return new WebAssembly.Instance(module, { memory: { shared: memory } }).exports
}

/** Locals besides the parameters, i32 and v128, and instructions. */
export interface Code {
  readonly locals: number
  readonly vectors?: number
  readonly body: readonly number[]
}

/** Unsigned LEB128. */
export function leb(value: number): number[] {
  const bytes: number[] = []
  for (; value >= 0x80; value >>>= 7) bytes.push((value & 0x7f) | 0x80)
  bytes.push(value)
  return bytes
}

const END = 0x0b
const I32 = 0x7f
const V128 = 0x7b
/** A memory of any size from 0 pages on; shared, up to 65536. */
const PRIVATE_MEMORY = [0x02, 0x00, 0x00]
const SHARED_MEMORY = [0x02, 0x03, 0x00, 0x80, 0x80, 0x04]
const text = (name: string): number[] => [name.length, ...Buffer.from(name)]
const sized = (content: readonly number[]): number[] => [...leb(content.length), ...content]
const section = (id: number, content: readonly number[]): number[] => [id, ...sized(content)]

// (module
//   (import "memory" "shared" (memory 0 65536 shared))
//   (func (export "call") (param i32 …) (local i32 …) (local v128 …) …))
function moduleOf(code: Code, parameters: number, isShared: boolean): Uint8Array {
  const { locals, vectors = 0, body } = code
  const types = new Array<number>(parameters).fill(I32)
  const localTypes = [2, locals, I32, vectors, V128]
  const memory = isShared ? SHARED_MEMORY : PRIVATE_MEMORY
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, [1, 0x60, parameters, ...types, 0]),
    ...section(2, [1, ...text('memory'), ...text('shared'), ...memory]),
    ...section(3, [1, 0]),
    ...section(7, [1, ...text('call'), 0, 0]),
    ...section(10, [1, ...sized([...localTypes, ...body, END])])
  ])
}

// local.get 0  local.get 1  local.get 2  memory.copy
const moverCode = (): Code => ({
  locals: 0,
  body: [0x20, 0, 0x20, 1, 0x20, 2, 0xfc, 0x0a, 0, 0]
})
