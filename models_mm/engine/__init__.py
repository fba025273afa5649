"""What the tools do: options, configs, training and testing of detectors."""
