/** With exactOptionalPropertyTypes, absent and undefined differ. */
export const withoutUndefined = <T extends object>(
  given: T
): { [K in keyof T]: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>
  }
