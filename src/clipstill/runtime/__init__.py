"""Predict with an exported bundle: numpy, onnxruntime and Pillow, nothing else.

Example:
    >>> from clipstill.runtime import load_bundle                        # doctest: +SKIP
    >>> load_bundle("runs/zoo/bundle").predict("photo.jpg", top=1)       # doctest: +SKIP
    [Prediction(label='dog', score=0.93)]
"""

from clipstill.runtime.bundle import Answer, Bundle, Prediction, load_bundle

__all__ = ["Answer", "Bundle", "Prediction", "load_bundle"]
