/**
 * What happens to a photo before the model sees it, pixel for pixel as in Python.
 *
 * The same steps as `fit_square` of clipstill/core/images.py, and the arithmetic of Pillow's bicubic `Image.resize` for
 * 8-bit pictures: weights as integers of 22 fractional bits, the horizontal pass first, rounded to whole levels, then the
 * vertical pass. Equal source pixels give equal results; only the decoder of the browser may differ from Pillow's.
 *
 * A classic script without dependencies: in a page it is the global `clipstillPreprocess`, in Node `require` returns it.
 *
 * A source is `{width, height, rows}`; `rows(left, top, width, height)` returns the RGBA bytes of that part. Only a strip
 * of a photo is asked for at a time, so that a photo of 64 million pixels needs no copy of itself.
 */
"use strict";

(function (place) {
  const MAX_PIXELS = 64000000;
  // A panorama wider than this is cut before it is resized.
  const WIDEST = 4;
  const FRACTION_BITS = 32 - 8 - 2;
  const HALF = 1 << (FRACTION_BITS - 1);
  const CUBIC = -0.5;
  const SUPPORT = 2;
  const STRIP_PIXELS = 1 << 20;

  /** Python's round(): halves go to the even neighbour. */
  function roundHalfEven(value) {
    const below = Math.floor(value);
    const rest = value - below;
    if (rest < 0.5) return below;
    if (rest > 0.5) return below + 1;
    return below % 2 === 0 ? below : below + 1;
  }

  function bicubic(distance) {
    const x = Math.abs(distance);
    if (x < 1) return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * CUBIC;
    return 0;
  }

  /**
   * Which source pixels make each of the pixels `from .. from + count` of one axis, and how much of each.
   *
   * Returns `first` and `length` of each run, and `weights`, `stride` apart, as integers of `FRACTION_BITS`.
   */
  function weightsOf(inSize, outSize, from, count) {
    const scale = inSize / outSize;
    const stretch = Math.max(scale, 1);
    const support = SUPPORT * stretch;
    const stride = Math.ceil(support) * 2 + 1;
    const first = new Int32Array(count);
    const length = new Int32Array(count);
    const weights = new Int32Array(count * stride);
    const exact = new Float64Array(stride);
    for (let i = 0; i < count; i++) {
      const centre = (from + i + 0.5) * scale;
      const low = Math.max(0, Math.trunc(centre - support + 0.5));
      const high = Math.min(inSize, Math.trunc(centre + support + 0.5));
      let sum = 0;
      for (let x = low; x < high; x++) {
        // Times the inverse, as Pillow has it: a division would differ in the last bit.
        exact[x - low] = bicubic((x - centre + 0.5) * (1 / stretch));
        sum += exact[x - low];
      }
      for (let x = 0; x < high - low; x++) {
        const share = sum === 0 ? exact[x] : exact[x] / sum;
        weights[i * stride + x] = Math.trunc((share < 0 ? -0.5 : 0.5) + share * (1 << FRACTION_BITS));
      }
      first[i] = low;
      length[i] = high - low;
    }
    return { first, length, weights, stride };
  }

  function toLevel(sum) {
    const level = sum >> FRACTION_BITS;
    return level < 0 ? 0 : level > 255 ? 255 : level;
  }

  /** Source rows `top .. top + count`, resized to the wanted columns: RGB bytes (count, columns, 3). */
  function horizontalPass(source, window, top, count, axis, columns, left) {
    const out = new Uint8Array(count * columns * 3);
    const perStrip = Math.max(1, Math.floor(STRIP_PIXELS / window.width));
    for (let start = 0; start < count; start += perStrip) {
      const rows = Math.min(perStrip, count - start);
      const rgba = source.rows(window.left, window.top + top + start, window.width, rows);
      for (let row = 0; row < rows; row++) {
        const line = row * window.width * 4;
        for (let column = 0; column < columns; column++) {
          const to = ((start + row) * columns + column) * 3;
          if (axis === null) {
            const at = line + (left + column) * 4;
            out[to] = rgba[at];
            out[to + 1] = rgba[at + 1];
            out[to + 2] = rgba[at + 2];
            continue;
          }
          let at = line + axis.first[column] * 4;
          let weightAt = column * axis.stride;
          let red = HALF;
          let green = HALF;
          let blue = HALF;
          for (const end = at + axis.length[column] * 4; at < end; at += 4) {
            const weight = axis.weights[weightAt++];
            red += weight * rgba[at];
            green += weight * rgba[at + 1];
            blue += weight * rgba[at + 2];
          }
          out[to] = toLevel(red);
          out[to + 1] = toLevel(green);
          out[to + 2] = toLevel(blue);
        }
      }
    }
    return out;
  }

  function verticalPass(input, firstRow, axis, rows, columns) {
    const out = new Uint8Array(rows * columns * 3);
    const width = columns * 3;
    for (let row = 0; row < rows; row++) {
      for (let x = 0; x < width; x++) {
        let at = (axis.first[row] - firstRow) * width + x;
        let sum = HALF;
        for (let k = 0; k < axis.length[row]; k++, at += width) sum += axis.weights[row * axis.stride + k] * input[at];
        out[row * width + x] = toLevel(sum);
      }
    }
    return out;
  }

  /**
   * Scale the short side to round(size / cropFraction), then cut the centre square: RGB bytes (size, size, 3).
   *
   * Only what the square shows is computed; as each pixel is computed by itself, that changes none of them.
   */
  function fitSquare(source, size, cropFraction) {
    const window = { left: 0, top: 0, width: source.width, height: source.height };
    const wholeShort = Math.min(source.width, source.height);
    if (Math.max(source.width, source.height) > WIDEST * wholeShort) {
      window.width = Math.min(source.width, WIDEST * wholeShort);
      window.height = Math.min(source.height, WIDEST * wholeShort);
      window.left = Math.floor((source.width - window.width) / 2);
      window.top = Math.floor((source.height - window.height) / 2);
    }
    const short = Math.min(window.width, window.height);
    const side = Math.max(size, roundHalfEven(size / cropFraction));
    const newWidth = Math.floor((window.width * side) / short);
    const newHeight = Math.floor((window.height * side) / short);
    const left = roundHalfEven((newWidth - size) / 2);
    const top = roundHalfEven((newHeight - size) / 2);

    const across = newWidth === window.width ? null : weightsOf(window.width, newWidth, left, size);
    if (newHeight === window.height) return horizontalPass(source, window, top, size, across, size, left);
    const down = weightsOf(window.height, newHeight, top, size);
    const firstRow = down.first[0];
    const rows = down.first[size - 1] + down.length[size - 1] - firstRow;
    const between = horizontalPass(source, window, firstRow, rows, across, size, left);
    return verticalPass(between, firstRow, down, size, size);
  }

  /** RGB bytes (size, size, 3) -> what the model takes: float32 (3, size, size) in [0, 1]. */
  function modelInput(rgb, size) {
    const plane = size * size;
    const input = new Float32Array(3 * plane);
    for (let i = 0; i < plane; i++) {
      for (let channel = 0; channel < 3; channel++) input[channel * plane + i] = rgb[i * 3 + channel] / 255;
    }
    return input;
  }

  /** Probabilities of logits / temperature. */
  function softmax(logits, temperature) {
    const scaled = Array.from(logits, (logit) => logit / temperature);
    const highest = Math.max(...scaled);
    const powers = scaled.map((value) => Math.exp(value - highest));
    const sum = powers.reduce((total, power) => total + power, 0);
    return powers.map((power) => power / sum);
  }

  /**
   * A source of a decoded picture in the browser: transparency on white, read strip by strip.
   *
   * The canvas has no alpha of its own, so opaque pixels come back as they are.
   */
  function bitmapSource(bitmap) {
    let canvas = null;
    let context = null;
    return {
      width: bitmap.width,
      height: bitmap.height,
      rows(left, top, width, height) {
        if (canvas === null || canvas.width !== width || canvas.height !== height) {
          canvas = document.createElement("canvas");
          canvas.width = width;
          canvas.height = height;
          context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
        }
        context.fillStyle = "#ffffff";
        context.fillRect(0, 0, width, height);
        context.drawImage(bitmap, left, top, width, height, 0, 0, width, height);
        return context.getImageData(0, 0, width, height).data;
      },
    };
  }

  /** Upright and without colour management, as Pillow decodes it. Throws where the file is damaged or no image. */
  function decode(blob) {
    return createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  }

  const made = { MAX_PIXELS, bitmapSource, decode, fitSquare, modelInput, roundHalfEven, softmax };
  if (typeof module !== "undefined") module.exports = made;
  else place.clipstillPreprocess = made;
})(typeof globalThis !== "undefined" ? globalThis : this);
