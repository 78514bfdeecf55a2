"""From a trained student to the folder that is shipped: ONNX, parity gate, latency, bundle."""
