import type { MetadataStore } from '../../src/metadata/store.ts'

/** `store` with some methods replaced. */
export const delegateTo = (
  store: MetadataStore,
  replaced: Partial<MetadataStore>
): MetadataStore => ({
  get: (key) => store.get(key),
  range: (prefix, options) => store.range(prefix, options),
  transact: (transaction) => store.transact(transaction),
  watch: (prefix, listener, options) => store.watch(prefix, listener, options),
  grantLease: (ttlMs) => store.grantLease(ttlMs),
  keepAlive: (lease) => store.keepAlive(lease),
  revokeLease: (lease) => store.revokeLease(lease),
  compact: (revision) => store.compact(revision),
  close: () => store.close(),
  ...replaced
})
