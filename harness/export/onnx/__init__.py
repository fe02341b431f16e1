"""ONNX files: read, widened, inspected, changed and quantised."""
