/** `peer` keeps only peers apart, the others whatever has the same label of that name. */
export const failureDomains = ['peer', 'host', 'rack', 'zone'] as const
export type FailureDomain = (typeof failureDomains)[number]
