// The colour of a class: the same as in the pictures that the service draws itself. The first eight are
// safe for the colour-blind (Okabe and Ito); further classes take the same hues lighter, then darker.

const PALETTE = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66],
  [0, 114, 178], [213, 94, 0], [204, 121, 167], [226, 226, 226],
];

/** Red, green and blue, 0 to 255, of a class id from 1. */
export function colourOf(classId) {
  if (classId <= PALETTE.length) return PALETTE[classId - 1];
  const beyond = classId - PALETTE.length - 1;
  const hues = PALETTE.length - 1; // grey has no hue to vary
  const turn = Math.floor(beyond / hues);
  const [hue, lightness, saturation] = toHls(PALETTE[beyond % hues]);
  const lighter = lightness + ([0.24, -0.16][turn % 2] + 0.04 * Math.floor(turn / 2)) * (1 - lightness);
  return toRgb(hue, Math.min(Math.max(lighter, 0.2), 0.88), saturation);
}

/** A colour as CSS writes it. */
export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** Black or white, whichever has the greater contrast on a colour, as WCAG 2 measures it. */
export function inkOn(colour) {
  const [red, green, blue] = colour.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return (luminance + 0.05) ** 2 > 0.05 * 1.05 ? "#000" : "#fff";
}

function toHls(colour) {
  const [red, green, blue] = colour.map((channel) => channel / 255);
  const high = Math.max(red, green, blue);
  const low = Math.min(red, green, blue);
  const lightness = (high + low) / 2;
  const range = high - low;
  if (range === 0) return [0, lightness, 0];
  const saturation = lightness <= 0.5 ? range / (high + low) : range / (2 - high - low);
  const sixth = high === red ? (green - blue) / range
    : high === green ? 2 + (blue - red) / range
    : 4 + (red - green) / range;
  return [(((sixth / 6) % 1) + 1) % 1, lightness, saturation];
}

function toRgb(hue, lightness, saturation) {
  const high = lightness <= 0.5 ? lightness * (1 + saturation) : lightness + saturation - lightness * saturation;
  const low = 2 * lightness - high;
  const channel = (at) => {
    const turned = ((at % 1) + 1) % 1;
    if (turned < 1 / 6) return low + (high - low) * turned * 6;
    if (turned < 1 / 2) return high;
    if (turned < 2 / 3) return low + (high - low) * (2 / 3 - turned) * 6;
    return low;
  };
  return [hue + 1 / 3, hue, hue - 1 / 3].map((at) => Math.round(channel(at) * 255));
}
