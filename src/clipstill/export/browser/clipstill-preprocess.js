/**
 * What happens to a photo before the model sees it, pixel for pixel as in Python.
 *
 * The same steps as `fit` of clipstill/core/images.py, and the arithmetic of Pillow's `Image.resize` for 8-bit pictures: weights as integers of 22 fractional bits, the horizontal pass first, rounded to whole levels, then the
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

  function bilinear(distance) {
    return Math.max(0, 1 - Math.abs(distance));
  }

  const KERNELS = { bicubic: { weight: bicubic, support: 2 }, bilinear: { weight: bilinear, support: 1 } };
  const RESIZE_MODES = ["shortest", "longest", "squash"];

  /**
   * Which source pixels make each of the pixels `from .. from + count` of one axis, and how much of each.
   *
   * Returns `first` and `length` of each run, and `weights`, `stride` apart, as integers of `FRACTION_BITS`.
   */
  function weightsOf(inSize, outSize, from, count, kernel) {
    const scale = inSize / outSize;
    const stretch = Math.max(scale, 1);
    const support = kernel.support * stretch;
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
        exact[x - low] = kernel.weight((x - centre + 0.5) * (1 / stretch));
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

  /** Height and width of the model's input; `how` is what preprocess.json holds. */
  function shapeOf(how) {
    return Array.isArray(how.size) ? how.size : [how.size, how.size];
  }

  /** Whether this page knows everything that preprocess.json asks for. */
  function isKnown(how) {
    return (
      shapeOf(how).every((side) => side >= 1) &&
      how.crop_fraction > 0 &&
      (how.interpolation || "bicubic") in KERNELS &&
      RESIZE_MODES.includes(how.resize_mode || "shortest")
    );
  }

  /** Sides after the resize, and the corner of what the model sees, negative where it is padded. */
  function placement(width, height, how) {
    const [rows, columns] = shapeOf(how);
    const ratios = [height / rows, width / columns];
    if (how.resize_mode === "squash") return { newWidth: columns, newHeight: rows, left: 0, top: 0 };
    if (how.resize_mode === "longest") {
      const ratio = Math.max(...ratios);
      const [newWidth, newHeight] = [width, height].map((side) => Math.max(1, roundHalfEven(side / ratio)));
      return {
        newWidth,
        newHeight,
        left: -Math.floor((columns - newWidth) / 2),
        top: -Math.floor((rows - newHeight) / 2),
      };
    }
    let [newWidth, newHeight] = [0, 0];
    if (rows === columns) {
      const short = Math.min(width, height);
      const side = Math.max(rows, roundHalfEven(rows / how.crop_fraction));
      [newWidth, newHeight] = [width, height].map((old) => Math.floor((old * side) / short));
    } else {
      const ratio = Math.min(...ratios) * how.crop_fraction;
      [newWidth, newHeight] = [width, height].map((old) => roundHalfEven(old / ratio));
    }
    const left = roundHalfEven((newWidth - columns) / 2);
    const top = roundHalfEven((newHeight - rows) / 2);
    return { newWidth, newHeight, left, top };
  }

  /** The centre of a picture whose sides differ by more than `WIDEST`, else all of it. */
  function widestWindow({ width, height }) {
    const most = WIDEST * Math.min(width, height);
    const [keptWidth, keptHeight] = [Math.min(width, most), Math.min(height, most)];
    return {
      left: Math.floor((width - keptWidth) / 2),
      top: Math.floor((height - keptHeight) / 2),
      width: keptWidth,
      height: keptHeight,
    };
  }

  /**
   * Resize a source and cut or pad it as preprocess.json says: RGB bytes (height, width, 3).
   *
   * Only what the model sees is computed; as each pixel is computed by itself, that changes none of them.
   */
  function fit(source, how) {
    const [rows, columns] = shapeOf(how);
    const isCut = (how.resize_mode || "shortest") === "shortest";
    const window = isCut ? widestWindow(source) : { left: 0, top: 0, width: source.width, height: source.height };
    const { newWidth, newHeight, left, top } = placement(window.width, window.height, how);
    const part = {
      left: Math.max(0, left),
      top: Math.max(0, top),
      width: Math.min(columns, newWidth),
      height: Math.min(rows, newHeight),
    };
    const resized = resizedPart(source, window, newWidth, newHeight, part, KERNELS[how.interpolation || "bicubic"]);
    if (part.width === columns && part.height === rows) return resized;
    const out = new Uint8Array(rows * columns * 3).fill(how.fill || 0);
    for (let row = 0; row < part.height; row++) {
      const line = resized.subarray(row * part.width * 3, (row + 1) * part.width * 3);
      out.set(line, ((row - Math.min(0, top)) * columns - Math.min(0, left)) * 3);
    }
    return out;
  }

  /** A part of the window after it is resized to the new sides: RGB bytes (part.height, part.width, 3). */
  function resizedPart(source, window, newWidth, newHeight, part, kernel) {
    const { left, top, width, height } = part;
    const across = newWidth === window.width ? null : weightsOf(window.width, newWidth, left, width, kernel);
    if (newHeight === window.height) return horizontalPass(source, window, top, height, across, width, left);
    const down = weightsOf(window.height, newHeight, top, height, kernel);
    const firstRow = down.first[0];
    const rows = down.first[height - 1] + down.length[height - 1] - firstRow;
    const between = horizontalPass(source, window, firstRow, rows, across, width, left);
    return verticalPass(between, firstRow, down, height, width);
  }

  /** RGB bytes (height, width, 3) -> what the model takes: float32 (3, height, width) in [0, 1]. */
  function modelInput(rgb) {
    const plane = rgb.length / 3;
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

  const made = { MAX_PIXELS, bitmapSource, decode, fit, isKnown, modelInput, roundHalfEven, shapeOf, softmax };
  if (typeof module !== "undefined") module.exports = made;
  else place.clipstillPreprocess = made;
})(typeof globalThis !== "undefined" ? globalThis : this);
