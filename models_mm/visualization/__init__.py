"""Pictures of detections, curves of training runs, and confusion matrices."""
