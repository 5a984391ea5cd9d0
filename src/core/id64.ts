/** An id of 64 bits as two u32, the form in which ops carry it. */
export interface Id64 {
  readonly high: number
  readonly low: number
}
