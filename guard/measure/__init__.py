"""Pure numbers: metrics with intervals, fitting of calibration and thresholds, promises, gates. No model, no files."""
