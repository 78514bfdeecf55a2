"""Predict with a bundle and without clipstill: python onnxruntime_only.py BUNDLE PHOTO (numpy, onnxruntime, Pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

bundle = Path(sys.argv[1])
labels, fit = (json.loads((bundle / name).read_text("utf-8")) for name in ("labels.json", "preprocess.json"))
image = ImageOps.exif_transpose(Image.open(sys.argv[2]))
if image.mode.startswith("I"):  # 16-bit grey
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
white = Image.new("RGBA", image.size, "white")
image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
height, width = fit["size"] if isinstance(fit["size"], list) else (fit["size"], fit["size"])
mode, kernel = fit.get("resize_mode", "shortest"), Image.Resampling[fit.get("interpolation", "bicubic").upper()]
ratios = image.height / height, image.width / width
if mode == "squash":
    resized = (width, height)
elif mode == "shortest" and height == width:
    short = max(height, round(height / fit["crop_fraction"]))
    resized = tuple(side * short // min(image.size) for side in image.size)
else:
    ratio = max(ratios) if mode == "longest" else min(ratios) * fit["crop_fraction"]
    resized = tuple(max(1, round(side / ratio)) for side in image.size)
image = image.resize(resized, kernel)
if mode == "longest":  # padded
    seen = Image.new("RGB", (width, height), (fit["fill"],) * 3)
    seen.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
else:  # cut
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    seen = image.crop((left, top, left + width, top + height))
pixels_13HW = np.asarray(seen, dtype=np.float32).transpose(2, 0, 1)[None] / 255
logits_C = onnxruntime.InferenceSession(bundle / "model.onnx").run(None, {"image": pixels_13HW})[0][0]
scores_C = np.exp((logits_C - logits_C.max()) / labels["temperature"])
scores_C /= scores_C.sum()
refused = scores_C.max() < (labels.get("refusal_threshold") or 0)
print("none of these" if refused else labels["labels"][scores_C.argmax()], f"{scores_C.max():.4f}")
