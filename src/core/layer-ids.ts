/**
 * Layer ids tell their order, so that nobody has to be told which layer stands on which:
 *
 *   upper 32 bits   branch: random, the same in all layers that follow each other
 *   lower 32 bits   root: random below NUMBERED_START, has nothing below it
 *                   or NUMBERED_START + n: stands on everything of its branch with a lower number
 *                   or BASED_START + n: the same, and on the base of its branch, a layer of another
 *                   branch, with all that it stands on (src/shard/LAYERS.md)
 *
 * A volume begins with a root; a snapshot freezes the head, and the next number becomes the head.
 * Reads of a layer see, block by block, the entry of the highest number up to it that has one.
 */
import { assert } from './assert.ts'
import { ErrorCode, StoreError } from './errors.ts'
import type { Id64 } from './id64.ts'

const NUMBERED_START = 0xff000000
/** Lower half of the first layer of a branch that begins on a layer of another one. */
export const BASED_START = 0xff800000
const LOW_END = 2 ** 32

/** 0 of a root; above it of layers that stand on others. */
export const layerNumber = (layerLow: number): number =>
  layerLow >= NUMBERED_START ? layerLow - NUMBERED_START + 1 : 0

/** For the first layer of a volume. */
export const isRootLayer = (layerLow: number): boolean => layerLow < NUMBERED_START

/** Does a read of `layer` see what is in `lower`? It does of its own. */
export const standsOn = (layer: Id64, lower: Id64): boolean =>
  layer.high === lower.high && layerNumber(layer.low) >= layerNumber(lower.low)

/** Its branch has a base. */
export const isBasedLayer = (layerLow: number): boolean => layerLow >= BASED_START

/**
 * Lower half of the layer that comes after this one in its branch.
 * @throws StoreError LimitReached
 */
export function nextLayerLow(layerLow: number): number {
  const next = isRootLayer(layerLow) ? NUMBERED_START : layerLow + 1
  assert(layerNumber(next) > layerNumber(layerLow), 'layers are in the order of their numbers')
  if (isBasedLayer(next) === isBasedLayer(layerLow) && next < LOW_END) return next
  throw new StoreError(ErrorCode.LimitReached, 'the volume has had all layers that it can have')
}

/**
 * Lower half of a layer so many numbers above the next one: those in between may have been used.
 * @throws StoreError LimitReached
 */
export function laterLayerLow(layerLow: number, skipped: number): number {
  const next = nextLayerLow(layerLow)
  const later = next + skipped
  if (isBasedLayer(later) === isBasedLayer(next) && later < LOW_END) return later
  throw new StoreError(ErrorCode.LimitReached, 'the volume has had all layers that it can have')
}
