"""Exported detectors: one ONNX file, run by ONNX Runtime without PyTorch and MMDetection."""
