export interface Waiter {
  /** Tries again what had to wait. Returns false when it could not make a single step. */
  proceed(): boolean
}

/** A line of waiters: first come, first served. */
export class WaitLine {
  private readonly waiters: Waiter[] = []
  /** Whose turn it is now: it alone may take although others wait. */
  private turn: Waiter | null = null
  private again = false

  get length(): number {
    return this.waiters.length
  }

  mayTake(waiter: Waiter): boolean {
    return this.waiters.length === 0 || this.turn === waiter
  }

  join(waiter: Waiter): void {
    if (waiter === this.turn) this.again = true
    else if (!this.waiters.includes(waiter)) this.waiters.push(waiter)
  }

  leave(waiter: Waiter): void {
    const at = this.waiters.indexOf(waiter)
    if (at >= 0) this.waiters.splice(at, 1)
  }

  /** Lets those in line go on until one cannot, each at most once. */
  serve(): void {
    for (let left = this.waiters.length; left > 0; left--) {
      const head = this.waiters[0]
      if (head === undefined) return
      this.turn = head
      this.again = false
      const stepped = head.proceed()
      this.turn = null
      if (this.again && !stepped) return
      this.leave(head)
      if (this.again) this.waiters.push(head)
    }
  }
}
