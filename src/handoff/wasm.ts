/** The little that is used of WebAssembly, whose types come with the browser's. */

export interface WasmMemory {
  readonly buffer: SharedArrayBuffer
}

/** Copies `length` bytes within a memory; the two ranges may overlap. */
export type Mover = (to: number, from: number, length: number) => void

interface WithWebAssembly {
  readonly WebAssembly: {
    readonly Memory: new (options: { initial: number; maximum: number; shared: true }) => WasmMemory
    readonly Module: new (bytes: Uint8Array) => object
    readonly Instance: new (
      module: object,
      imports: { memory: { shared: WasmMemory } }
    ) => { readonly exports: { readonly move: Mover } }
  }
}

export const WASM_PAGE_BYTES = 64 * 1024
const { WebAssembly } = globalThis as unknown as WithWebAssembly

export function sharedMemory(bytes: number): WasmMemory {
  const pages = bytes / WASM_PAGE_BYTES
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true })
}

/** `memory.copy` of one memory. */
export function moverOf(memory: WasmMemory): Mover {
  const module = new WebAssembly.Module(moduleBytes)
  return new WebAssembly.Instance(module, { memory: { shared: memory } }).exports.move
}

const text = (name: string): number[] => [name.length, ...Buffer.from(name)]
const section = (id: number, content: number[]): number[] => [id, content.length, ...content]
const I32 = 0x7f
/** Of any size from 0 to 65536 pages, shared: LEB128 numbers. */
const MEMORY = [0x02, 0x03, 0x00, 0x80, 0x80, 0x04]

// (module
//   (import "memory" "shared" (memory 0 65536 shared))
//   (func (export "move") (param i32 i32 i32)
//     local.get 0  local.get 1  local.get 2  memory.copy))
const moduleBytes = new Uint8Array([
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  ...section(1, [1, 0x60, 3, I32, I32, I32, 0]),
  ...section(2, [1, ...text('memory'), ...text('shared'), ...MEMORY]),
  ...section(3, [1, 0]),
  ...section(7, [1, ...text('move'), 0, 0]),
  ...section(10, [1, 12, 0, 0x20, 0, 0x20, 1, 0x20, 2, 0xfc, 0x0a, 0, 0, 0x0b])
])
