"""From ground truths and detections to figures, plots and a report; knows nothing about training."""
