"""Names of files that several rooms read and write: those of a bundle lie in the stages of a run too."""

STUDENT_FILE = "student.safetensors"
VECTORS_FILE = "class_vectors.safetensors"
VECTORS_NAME = "class_vectors"
METRICS_FILE = "metrics.json"
PARITY_FILE = "parity.json"
