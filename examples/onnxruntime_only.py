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
short, size = max(fit["size"], round(fit["size"] / fit["crop_fraction"])), fit["size"]
width, height = (side * short // min(image.size) for side in image.size)
left, top = round((width - size) / 2), round((height - size) / 2)
image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
pixels_13HW = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255
logits_C = onnxruntime.InferenceSession(bundle / "model.onnx").run(None, {"image": pixels_13HW})[0][0]
scores_C = np.exp((logits_C - logits_C.max()) / labels["temperature"])
scores_C /= scores_C.sum()
refused = scores_C.max() < (labels.get("refusal_threshold") or 0)
print("none of these" if refused else labels["labels"][scores_C.argmax()], f"{scores_C.max():.4f}")
