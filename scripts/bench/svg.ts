/** A very small SVG writer: elements are strings, attributes are escaped. */

export type Attributes = Readonly<Record<string, string | number>>

const escaped = (text: string): string =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')

const attributesText = (attributes: Attributes): string =>
  Object.entries(attributes)
    .map(
      ([name, value]) => ` ${name}="${escaped(typeof value === 'number' ? short(value) : value)}"`
    )
    .join('')

/** Two decimals are finer than a pixel. */
const short = (value: number): string => String(Math.round(value * 100) / 100)

export const element = (
  name: string,
  attributes: Attributes,
  children: readonly string[] = []
): string =>
  children.length === 0
    ? `<${name}${attributesText(attributes)}/>`
    : `<${name}${attributesText(attributes)}>${children.join('')}</${name}>`

export const rect = (x: number, y: number, width: number, height: number, fill: string): string =>
  element('rect', { x, y, width: Math.max(width, 0), height, fill })

export const line = (
  x1: number,
  y1: number,
  x2: number,
  y2: number,
  stroke: string,
  width = 1
): string => element('line', { x1, y1, x2, y2, stroke, 'stroke-width': width })

export const text = (
  x: number,
  y: number,
  content: string,
  options: {
    size?: number
    anchor?: 'start' | 'middle' | 'end'
    fill?: string
    weight?: string
  } = {}
): string =>
  element(
    'text',
    {
      x,
      y,
      'font-size': options.size ?? 12,
      'text-anchor': options.anchor ?? 'start',
      fill: options.fill ?? '#222222',
      'font-weight': options.weight ?? 'normal',
      // A white rim keeps figures readable where lines cross them.
      stroke: '#ffffff',
      'stroke-width': 3,
      'paint-order': 'stroke'
    },
    [escaped(content)]
  )

export const polyline = (points: readonly (readonly [number, number])[], stroke: string): string =>
  element('polyline', {
    points: points.map(([x, y]) => `${short(x)},${short(y)}`).join(' '),
    fill: 'none',
    stroke,
    'stroke-width': 2
  })

export const circle = (cx: number, cy: number, r: number, fill: string): string =>
  element('circle', { cx, cy, r, fill })

/** A whole picture on a white ground, so that it also reads in a dark page. */
export const svg = (width: number, height: number, children: readonly string[]): string =>
  `${element(
    'svg',
    {
      xmlns: 'http://www.w3.org/2000/svg',
      viewBox: `0 0 ${short(width)} ${short(height)}`,
      width,
      height,
      'font-family': 'system-ui, sans-serif'
    },
    [rect(0, 0, width, height, '#ffffff'), ...children]
  )}\n`
