/** As much of XML as stores of S3 write: no attributes matter, and nothing is nested in itself. */

/** What stands between the tags of that name; '' without. */
export function textIn(xml: string, tag: string): string {
  const [, text = ''] = new RegExp(`<${tag}(?:\\s[^>]*)?>(.*?)</${tag}>`, 's').exec(xml) ?? []
  return text.replaceAll(/&(lt|gt|quot|apos|amp|#\d+|#x[0-9a-fA-F]+);/g, (_, name: string) => {
    if (name.startsWith('#x')) return String.fromCodePoint(Number.parseInt(name.slice(2), 16))
    if (name.startsWith('#')) return String.fromCodePoint(Number(name.slice(1)))
    return entities[name]!
  })
}

/** What is between each pair of such tags, in order. */
export function* eachIn(xml: string, tag: string): Iterable<string> {
  for (const [, text = ''] of xml.matchAll(new RegExp(`<${tag}>(.*?)</${tag}>`, 'gs'))) yield text
}

const entities: Readonly<Record<string, string>> = {
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
  amp: '&'
}
