"""What watches a training run: checkpoints, averaged weights, pictures, speed and progress."""
