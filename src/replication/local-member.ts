import type { BlockOp } from './block-store.ts'
import type { Member, MemberAnswer, MemberCall } from './member.ts'
import type { Caller } from './member-service.ts'
import type { ShardMemberService } from './shard-member-service.ts'

/** This process's own shards as a member: the rules that others meet hold here too. */
export class LocalMember implements Member {
  readonly peerId: string
  readonly bootId: string
  readonly isLocal = true
  readonly #self: Caller
  readonly #service: ShardMemberService

  constructor(self: Caller, service: ShardMemberService) {
    this.peerId = self.peerId
    this.bootId = self.bootId
    this.#self = self
    this.#service = service
  }

  get inFlight(): number {
    return this.#service.inFlight
  }

  submit(op: BlockOp): void {
    this.#service.submit(op)
  }

  readNow(op: BlockOp, into: Buffer, start: number): number {
    return this.#service.readNow(op, into, start)
  }

  ring(isLast = true): void {
    this.#service.ring(isLast)
  }

  flush(done: (error: number) => void): void {
    this.#service.flush(done)
  }

  call(request: MemberCall): Promise<MemberAnswer> {
    return this.#service.call(request, this.#self)
  }

  /** It is there as long as the process. */
  onLost(): void {}
}
